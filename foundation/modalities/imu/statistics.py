"""What a recipe wants to know of inertial recordings: mean and deviation per channel, rates, lengths, fitting units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foundation.data.moments import Facts, Moments, rounded, rounded_all, spread
from foundation.modalities.imu.decode import Config
from foundation.modalities.imu.units import GRAVITY, kind_of
from foundation.types import Sample

_NEAR = (0.7, 1.4)  # the usual length of an acceleration over gravity's, where people move
_STILL = 0.3  # below: gravity has been taken out
_FASTEST = 35.0  # rad/s = 2000 deg/s, the range of common gyroscopes


class Statistics:
    """Collects; see :class:`foundation.data.moments.Collector`.

    Args:
        views: a recipe's, or None: the defaults of the modality's decoder.
    """

    def __init__(self, views: Any = None, decoding: Any = None) -> None:

        self.views = views
        self.config = decoding or (Config() if views is None else views.decode)
        self.readings = Moments()
        self.rates, self.seconds, self.lengths, self.turning = (list[float]() for _ in range(4))
        kinds = [kind_of(name) for name in self.config.channels]
        self.acceleration = [index for index, kind in enumerate(kinds) if kind == "acceleration"]
        self.gyroscope = [index for index, kind in enumerate(kinds) if kind == "angular_velocity"]

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a decoded recording and its members."""
        values = sample["imu"].numpy().astype(np.float64)
        self.readings.add(values)
        self.rates.append(sample["imu_rate"])
        self.seconds.append(len(values) / sample["imu_rate"])
        if len(self.acceleration) >= 3:
            self.lengths.append(float(np.median(np.linalg.norm(values[:, self.acceleration[:3]], axis=1))))
        if self.gyroscope:
            self.turning.append(float(np.percentile(np.abs(values[:, self.gyroscope]), 99)))

    def facts(self) -> Facts:
        """In m/s^2 and rad/s, as the declared units make them; Hz and seconds."""
        found = Facts({"mean": rounded_all(self.readings.mean), "std": rounded_all(self.readings.std)})
        found.facts["channels"] = list(self.config.channels)
        found.facts["least"], found.facts["most"] = rounded_all(self.readings.low), rounded_all(self.readings.high)
        found.facts["rate (Hz)"], found.facts["seconds"] = spread(self.rates), spread(self.seconds)
        if self.lengths:
            found.facts["usual length of the acceleration (m/s^2)"] = spread(self.lengths)
            found.warnings += self._doubts(float(np.median(self.lengths)))
        if self.turning:
            found.facts["99 of 100 turns are slower than (rad/s)"] = spread(self.turning)
            if max(self.turning) > _FASTEST:
                found.warnings.append(
                    f"turns of {rounded(max(self.turning), 3):g} rad/s are faster than gyroscopes measure (35 rad/s): "
                    "they look like deg/s (decode.angular_velocity: deg/s)"
                )
        if self.views is not None:
            found.misfits += self._misfits(float(np.median(self.seconds)))
        return found

    def _misfits(self, there: float) -> list[str]:
        """Views that are longer than the recordings, whose usual length is given in seconds."""
        view, rate = self.views.global_views, self.views.rate
        asked = view.size / rate
        if view.span is not None or asked <= there * 1.01:
            return []
        filled = "its mirror image at both ends" if self.views.short == "mirror" else "slower time"
        return [
            f"a global view is {asked:.3g} s long and the recordings are {there:.3g} s (median): {filled} fills the "
            f"rest (views.short). Set views.global_views.size to {max(1, int(there * rate))} or less"
        ]

    def _doubts(self, length: float) -> list[str]:
        """What speaks against the declared unit, given the usual length of the acceleration in m/s^2."""
        if _NEAR[0] <= length / GRAVITY <= _NEAR[1] or not self.config.has_gravity:
            return []
        said = f"the acceleration is usually {length:.3g} m/s^2 long, and gravity alone would be 9.81"
        if _NEAR[0] <= length <= _NEAR[1]:
            return [f"{said}: it looks like g (decode.acceleration: g)"]
        if length < _STILL * GRAVITY:
            return [f"{said}: gravity seems to be taken out (decode.has_gravity: false)"]
        if _NEAR[0] <= length / 1000 <= _NEAR[1]:
            return [f"{said}: it looks like mg (decode.acceleration: mg)"]
        return [f"{said}: is decode.acceleration right?"]
