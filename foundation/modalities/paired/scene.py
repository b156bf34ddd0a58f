"""A painted room, a camera and a motion sensor that are moved through it together, and trajectories to move them by.

World: x and y along the floor, z up, metres. Body, shared by camera and sensor: x forward, y left, z up. Attitude is
R = Rz(yaw) Ry(pitch) Rx(roll), from body to world. All six coordinates are sums of terms with known derivatives, so
that readings are exact: nothing is differentiated numerically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.modalities.imu.units import GRAVITY

ACTIVITIES = ("still", "walk", "run", "stairs", "turn", "nod", "shake", "jump")
"""Kinds of motion; the label of a sample is its place here."""

_EYES = 1.6  # metres above the floor
_CEILING, _HALF = 3.2, 14.0  # height of the room and half its width, metres
LONGEST = 6.0
"""Seconds after which the fastest runner would leave the room."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Coordinate:
    """start + speed * t + sum of amplitude * sin(omega * t + phase) over the waves.

    Attributes:
        start: metres or radians.
        speed: metres or radians per second.
        waves: (amplitude, omega in rad/s, phase) each.
    """

    start: float = 0.0
    speed: float = 0.0
    waves: tuple[tuple[float, float, float], ...] = ()

    def at(self, times: Numbers, derivative: int = 0) -> Numbers:
        """Value or derivative (0, 1 or 2) at some times in seconds."""
        value = np.zeros(len(times))
        if derivative == 0:
            value += self.start + self.speed * times
        elif derivative == 1:
            value += self.speed
        for amplitude, omega, phase in self.waves:
            value += amplitude * omega**derivative * np.sin(omega * times + phase + derivative * math.pi / 2)
        return value


@dataclass(frozen=True)
class Trajectory:
    """Place (metres) and attitude (radians) over time.

    Attributes:
        place: x, y, z.
        attitude: yaw, pitch (positive looks down), roll.
    """

    place: tuple[Coordinate, Coordinate, Coordinate]
    attitude: tuple[Coordinate, Coordinate, Coordinate]

    def position(self, times: Numbers, derivative: int = 0) -> Numbers:
        """[T, 3] place, velocity or acceleration in the world."""
        return np.stack([axis.at(times, derivative) for axis in self.place], axis=1)

    def rotation(self, times: Numbers) -> Numbers:
        """[T, 3, 3] from body to world."""
        yaw, pitch, roll = (axis.at(times) for axis in self.attitude)
        cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
        return np.stack(
            [
                np.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], -1),
                np.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], -1),
                np.stack([-sp, cp * sr, cp * cr], -1),
            ],
            axis=1,
        )

    def angular_velocity(self, times: Numbers) -> Numbers:
        """[T, 3] in the body's frame, rad/s."""
        _, pitch, roll = (axis.at(times) for axis in self.attitude)
        yaw_rate, pitch_rate, roll_rate = (axis.at(times, 1) for axis in self.attitude)
        return np.stack(
            [
                roll_rate - yaw_rate * np.sin(pitch),
                pitch_rate * np.cos(roll) + yaw_rate * np.sin(roll) * np.cos(pitch),
                -pitch_rate * np.sin(roll) + yaw_rate * np.cos(roll) * np.cos(pitch),
            ],
            axis=1,
        )

    def specific_force(self, times: Numbers) -> Numbers:
        """[T, 3] what an ideal accelerometer reads in the body's frame: acceleration minus gravity, m/s^2."""
        force = self.position(times, 2) + np.array([0.0, 0.0, GRAVITY])
        return np.asarray(np.einsum("tij,ti->tj", self.rotation(times), force))


def trajectory(activity: str, seconds: float, seed: int, number: int, split: str) -> Trajectory:
    """A motion of some kind.

    Args:
        activity: one of :data:`ACTIVITIES`.
        seconds: for which it must stay inside the room.
        seed: of all numbers.
        number: of the sample.
        split: ``train`` or ``test``; the numbers of different splits have nothing to do with each other.
    """
    draw = _Draw(seed, number, f"scene.{split}.motion")
    heading = draw.between(0.0, 2.0 * math.pi)
    step = {"walk": (1.6, 2.1), "run": (2.4, 3.1), "stairs": (1.3, 1.7), "jump": (1.1, 1.7)}.get(activity, (1.0, 1.0))
    omega = 2.0 * math.pi * draw.between(*step)
    phase = draw.between(0.0, 2.0 * math.pi)
    speed, climb = 0.0, 0.0
    up, side, ahead = [_tremor(draw, 0.001)], [_tremor(draw, 0.001)], [_tremor(draw, 0.001)]
    yaw, pitch, roll = [_tremor(draw, 0.004)], [_tremor(draw, 0.004)], [_tremor(draw, 0.004)]
    if activity in ("walk", "run", "stairs", "jump"):
        height = {"walk": (0.02, 0.035), "run": (0.04, 0.06), "stairs": (0.03, 0.045), "jump": (0.09, 0.13)}[activity]
        bob = draw.between(*height)
        # A second harmonic makes landing harder than lifting off.
        up += [(bob, omega, phase), (0.12 * bob, 2.0 * omega, 2.0 * phase + draw.between(0.0, 1.0))]
        pitch += [(draw.between(0.005, 0.02), omega, phase + draw.between(0.0, 6.28))]
    if activity in ("walk", "run", "stairs"):
        speed = draw.between(*{"walk": (1.0, 1.6), "run": (2.4, 3.4), "stairs": (0.4, 0.7)}[activity])
        sway = draw.between(0.01, 0.03)
        side += [(sway, omega / 2.0, phase / 2.0)]  # one sway for two steps
        roll += [(draw.between(0.01, 0.03), omega / 2.0, draw.between(0.0, 6.28))]
        ahead += [(draw.between(0.01, 0.02), omega, draw.between(0.0, 6.28))]
    if activity == "stairs":
        climb = draw.between(0.2, 0.35) * draw.sign()
    turning = 0.0
    if activity == "turn":
        turning = draw.between(0.6, 1.6) * draw.sign()
        roll += [(draw.between(0.0, 0.03), 2.0 * math.pi * 0.5, draw.between(0.0, 6.28))]
    if activity == "nod":
        pitch += [(draw.between(0.2, 0.45), 2.0 * math.pi * draw.between(0.6, 1.2), draw.between(0.0, 6.28))]
    if activity == "shake":
        for axis, size in ((side, 0.012), (up, 0.012), (yaw, 0.05), (pitch, 0.05), (roll, 0.05)):
            frequency = draw.between(4.0, 7.0)
            axis.append((size * draw.between(0.5, 1.0), 2.0 * math.pi * frequency, draw.between(0.0, 6.28)))
    c, s = math.cos(heading), math.sin(heading)
    # Half of the way lies behind the middle of the room, half before it.
    behind = -0.5 * speed * seconds
    middle = draw.between(-2.0, 2.0), draw.between(-2.0, 2.0)
    x = Coordinate(middle[0] + behind * c, speed * c, _turned(ahead, c) + _turned(side, -s))
    y = Coordinate(middle[1] + behind * s, speed * s, _turned(ahead, s) + _turned(side, c))
    z = Coordinate(_EYES - 0.5 * climb * seconds, climb, tuple(up))
    look = heading if speed else draw.between(0.0, 2.0 * math.pi)
    return Trajectory(
        (x, y, z),
        (
            Coordinate(look, turning, tuple(yaw)),
            Coordinate(draw.between(-0.05, 0.15), 0.0, tuple(pitch)),
            Coordinate(draw.between(-0.05, 0.05), 0.0, tuple(roll)),
        ),
    )


def _tremor(draw: _Draw, size: float) -> tuple[float, float, float]:
    return size * draw.between(0.3, 1.0), 2.0 * math.pi * draw.between(0.3, 1.5), draw.between(0.0, 6.28)


def _turned(waves: Sequence[tuple[float, float, float]], factor: float) -> tuple[tuple[float, float, float], ...]:
    return tuple((amplitude * factor, omega, phase) for amplitude, omega, phase in waves)


class _Draw:
    """Random numbers one after the other."""

    def __init__(self, seed: int, number: int, stream: str) -> None:
        self._numbers = iter(counter.uniform(seed, 0, number, stream, 128)[0].tolist())

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def sign(self) -> float:
        return 1.0 if next(self._numbers) < 0.5 else -1.0


class Sensor:
    """An accelerometer and a gyroscope of a phone: white noise and a bias that stays for a recording.

    Args:
        rate: readings per second; noise grows with its root.
        seed: of all numbers.
        number: of the sample.
        split: ``train`` or ``test``.
    """

    ACCELERATION_NOISE, ACCELERATION_BIAS = 0.003, 0.05
    """m/s^2 per root Hz, and m/s^2."""
    ANGULAR_NOISE, ANGULAR_BIAS = 0.0003, 0.01
    """rad/s per root Hz, and rad/s."""

    def __init__(self, rate: float, seed: int, number: int, split: str) -> None:
        self.rate, self._seed, self._number, self._split = rate, seed, number, split

    def record(self, path: Trajectory, times: Numbers) -> Numbers:
        """[T, 6] readings: m/s^2 with gravity, rad/s."""
        stream = f"scene.{self._split}.sensor"
        uniforms = counter.uniform(self._seed, 0, self._number, stream, 6 * len(times) + 6)[0]
        bell = counter.normal(uniforms)
        bias = 2.0 * uniforms[:6] - 1.0
        scales = np.repeat([self.ACCELERATION_NOISE, self.ANGULAR_NOISE], 3) * math.sqrt(self.rate / 2.0)
        offsets = bias * np.repeat([self.ACCELERATION_BIAS, self.ANGULAR_BIAS], 3)
        ideal = np.concatenate([path.specific_force(times), path.angular_velocity(times)], axis=1)
        return ideal + offsets + scales * bell[6:].reshape(len(times), 6)


class Room:
    """A box whose walls, floor and ceiling are painted with coloured patches of several sizes.

    Args:
        seed: of all numbers.
        number: of the sample; each has a room of its own.
        split: ``train`` or ``test``.
    """

    _CELLS = 64
    _SIZES = (2.5, 0.9, 0.4)  # metres of a patch, coarse to fine

    def __init__(self, seed: int, number: int, split: str) -> None:
        count = 6 * len(self._SIZES) * self._CELLS * self._CELLS
        stream = f"scene.{split}.room"
        bits = counter.bits(seed, 0, number, stream, (3 * count + 7) // 8)[0]
        bytes_ = bits.view(np.uint8)[: 3 * count].astype(np.float32) / 255.0
        self._paint = bytes_.reshape(6, len(self._SIZES), self._CELLS, self._CELLS, 3)
        self._tint = counter.uniform(seed, 0, number, f"{stream}.tint", 18)[0].reshape(6, 3).astype(np.float32)
        self._low = np.array([-_HALF, -_HALF, 0.0])
        self._high = np.array([_HALF, _HALF, _CEILING])

    def colours(self, origin: Numbers, rays: Numbers) -> NDArray[np.float32]:
        """What is seen from a place inside along some directions.

        Args:
            origin: [3] metres.
            rays: [P, 3] of any length.

        Returns:
            [P, 3] in [0, 1].
        """
        away = np.where(rays > 0, self._high - origin, self._low - origin)
        reach = np.full(rays.shape, np.inf)  # a ray along a wall never meets it
        np.divide(away, rays, out=reach, where=rays != 0)
        axis = reach.argmin(1)
        rows = np.arange(len(rays))
        hit = origin + rays * reach[rows, axis][:, None]
        wall = 2 * axis + (rays[rows, axis] > 0)
        across = hit[rows[:, None], np.array([[1, 2], [0, 2], [0, 1]])[axis]]  # [P, 2] metres on the wall
        shade = np.zeros((len(rays), 3), np.float32)
        for level, size in enumerate(self._SIZES):
            shade += self._patches(wall, level, across / size) / 2.0**level
        shade /= sum(0.5**level for level in range(len(self._SIZES)))
        return np.clip(0.25 * self._tint[wall] + 1.5 * (shade - 0.5) + 0.4, 0.0, 1.0)

    def _patches(self, wall: NDArray[np.int64], level: int, place: Numbers) -> NDArray[np.float32]:
        """Paint of one size, blended between neighbouring patches."""
        first = np.floor(place).astype(np.int64)
        share = (place - first).astype(np.float32)
        share = share * share * (3.0 - 2.0 * share)
        corner = [(first + offset) % self._CELLS for offset in (0, 1)]
        u, v = share[:, :1], share[:, 1:]
        paint = self._paint[:, level]
        near = (1 - v) * paint[wall, corner[0][:, 0], corner[0][:, 1]] + v * paint[
            wall, corner[0][:, 0], corner[1][:, 1]
        ]
        far = (1 - v) * paint[wall, corner[1][:, 0], corner[0][:, 1]] + v * paint[
            wall, corner[1][:, 0], corner[1][:, 1]
        ]
        return (1 - u) * near + u * far


class Camera:
    """A pinhole camera that looks along the body's x axis.

    Args:
        size: width and height, pixels.
        field: angle of view, degrees.
    """

    def __init__(self, size: int, field: float = 80.0) -> None:
        self.size = size
        self.focal = 0.5 * size / math.tan(math.radians(field) / 2.0)
        """Pixels."""
        along = (np.arange(size) + 0.5 - size / 2) / self.focal
        down, right = np.meshgrid(along, along, indexing="ij")
        self._rays = np.stack([np.ones_like(down), -right, -down], axis=-1).reshape(-1, 3)

    def picture(self, path: Trajectory, room: Room, time: float) -> NDArray[np.uint8]:
        """[size, size, 3] at one moment."""
        moment = np.array([time])
        colours = room.colours(path.position(moment)[0], self._rays @ path.rotation(moment)[0].T)
        return (255.0 * colours).round().astype(np.uint8).reshape(self.size, self.size, 3)

    def film(self, path: Trajectory, room: Room, times: Numbers) -> NDArray[np.uint8]:
        """[T, size, size, 3] at some moments."""
        return np.stack([self.picture(path, room, float(time)) for time in times])
