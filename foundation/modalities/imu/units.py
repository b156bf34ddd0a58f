"""Units of inertial sensors, and whether numbers look like the unit they are declared in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError

GRAVITY = 9.80665
"""Standard gravity, m/s^2 (ISO 80000-3)."""

ACCELERATION = {"m/s^2": 1.0, "g": GRAVITY, "mg": GRAVITY / 1000.0}
"""Units of acceleration in m/s^2."""

ANGULAR_VELOCITY = {"rad/s": 1.0, "deg/s": 0.017453292519943295}
"""Units of angular velocity in rad/s."""

_PLAUSIBLE = (
    0.4,
    2.5,
)  # of standard gravity: the usual norm of an accelerometer at rest, of a runner, of one who jumps
_FASTEST = 40.0  # rad/s; gyroscopes of consumer devices end at 2000 deg/s = 35 rad/s


def kind_of(channel: str) -> str:
    """``acceleration`` for channels called ``acc...``, ``angular_velocity`` for ``gyr...``, else ``other``."""
    name = channel.lower()
    return "acceleration" if name.startswith("acc") else "angular_velocity" if name.startswith("gyr") else "other"


def factor(unit: str, kind: str, where: str) -> float:
    """What a number in some unit is multiplied by to be in m/s^2 or rad/s.

    Args:
        unit: such as ``g``; ``g/16384`` for raw counts of which 16384 make 1 g.
        kind: ``acceleration`` or ``angular_velocity``.
        where: for the message.

    Raises:
        UserError: an unknown unit.
    """
    known = ACCELERATION if kind == "acceleration" else ANGULAR_VELOCITY
    if unit in known:
        return known[unit]
    name, _, counts = unit.rpartition("/")
    if name in known:
        try:
            if float(counts) > 0:
                return known[name] / float(counts)
        except ValueError:
            pass
    raise UserError(
        f"{where} is {unit!r}: give {', '.join(known)}, or one of them over the counts that make it up, "
        f"such as {list(known)[1]}/16384"
    )


def suspicion(values: NDArray[np.floating], channels: tuple[str, ...], unit: str, turning: str) -> str:
    """Why declared units cannot be right; empty when nothing speaks against them.

    Args:
        values: [T, C] in m/s^2 and rad/s, converted from the declared units, gravity included.
        channels: names of the C channels.
        unit: declared for the acceleration.
        turning: declared for the angular velocity.
    """

    acceleration = [i for i, name in enumerate(channels) if kind_of(name) == "acceleration"]
    if len(acceleration) >= 3:
        with np.errstate(over="ignore"):  # a number that is refused later
            norm = float(np.median(np.linalg.norm(values[:, acceleration[:3]], axis=1))) / GRAVITY
        if not _PLAUSIBLE[0] <= norm <= _PLAUSIBLE[1]:
            stated = factor(unit, "acceleration", "unit")
            fits = [u for u, f in ACCELERATION.items() if _PLAUSIBLE[0] <= norm * f / stated <= _PLAUSIBLE[1]]
            advice = f"as {fits[0]!r} it would be near 1 g" if fits else "is gravity taken out (has_gravity: false)?"
            return (
                f"the acceleration, declared in {unit!r}, has a usual length of {norm * GRAVITY:.3g} m/s^2 = "
                f"{norm:.3g} g, but gravity is 9.81 m/s^2 = 1 g: {advice}"
            )
    gyroscope = [i for i, name in enumerate(channels) if kind_of(name) == "angular_velocity"]
    if gyroscope:
        fastest = float(np.percentile(np.abs(values[:, gyroscope]), 99.0))
        if fastest > _FASTEST:
            return (
                f"the angular velocity, declared in {turning!r}, reaches {fastest:.3g} rad/s = {fastest * 57.3:.3g} "
                "deg/s, more than gyroscopes measure (35 rad/s = 2000 deg/s): is it in 'deg/s'?"
            )
    return ""
