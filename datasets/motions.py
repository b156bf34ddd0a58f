"""Strokes of a hand-held sensor that is knocked now and then: five kinds, told apart by their course in time.

A recording holds strokes of one kind, one after the other with pauses between. Each is a short swing: it is struck and
dies away, is one jolt, comes twice, hums on, or rolls on without a pause. How the sensor is held (any attitude), how
strongly (1 to 4) and how fast it is moved, when a stroke begins and how long the pauses are differ from recording to
recording, whatever the kind. Gravity, a slow sway and noise lie over it all, and knocks: about one in a second, often
stronger than the strokes, in any direction, which flood spectra and statistics of the whole recording. Two stretches of
a recording share the strokes and not the knocks, which an encoder can learn from its views.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.modalities.imu import write
from foundation.modalities.imu.units import GRAVITY
from foundation.modalities.imu.windows import turn

CARD = {
    "title": "Motions: strokes of a hand-held sensor",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "imu",
    "splits": ["train", "test"],
    "layout": "npy float32 [400, 6] (8 s at 50 Hz, m/s^2 and rad/s), cls (kind of stroke), json (imu_rate, units)",
    "size": "5 kinds of stroke; 1,440 + 480 recordings, 19 MB",
}
RATE, SECONDS = 50.0, 8.0
KINDS = ("strike", "jolt", "double", "hum", "roll")
FORCE, SPIN = 3.0, 0.8
"""Usual size of a stroke, m/s^2 and rad/s."""
CYCLES = 3.6
"""Swings in a stroke."""
KNOCK, KNOCKS = 2.0, 1.2
"""Size of a usual knock over that of a stroke, and knocks in a second, on average."""
_BUMP = np.array([0.5, 1.0, -0.7, 0.3])
"""A knock, at 50 Hz."""
_NOISE = np.repeat([0.25, 0.06], 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    generated.add_arguments(parser, train=1440, test=480)


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the kinds of stroke."""
    return list(KINDS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """The splits, made while they are written.

    Raises:
        UserError: an impossible option.
    """

    def make(label: int, number: int, numbers: Numbers, split: str) -> Mapping[str, bytes]:
        readings = recording(KINDS[label], numbers)
        return {"npy": write.array(readings), "json": json.dumps(write.facts(RATE)).encode()}

    return generated.samples("motions", arguments, KINDS, make)


def loudness(kind: str, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strong a swing is in the course of a stroke.

    Args:
        kind: one of :data:`KINDS`.
        share: of the stroke that is over, [n] in [0, 1].

    Returns:
        [n] in [0, 2].
    """
    if kind == "strike":
        return np.asarray(1.8 * np.clip(share / 0.06, 0, 1) * np.exp(-3.5 * share))
    if kind == "jolt":
        return np.asarray(2.0 * np.clip(1 - np.abs(share - 0.5) / 0.15, 0, 1))
    if kind == "double":
        return np.asarray(np.clip(1.3 * np.sin(2 * np.pi * share) ** 2, 0, 1))
    if kind == "hum":
        return np.asarray(np.clip(np.minimum(share, 1 - share) / 0.12, 0, 1))
    return np.full_like(share, 0.6)


def recording(kind: str, random: Numbers) -> NDArray[np.float64]:
    """Strokes of one kind, [400, 6]: what an accelerometer (m/s^2, with gravity) and a gyroscope (rad/s) read."""
    times = np.arange(round(SECONDS * RATE)) / RATE
    tempo, strength = random.ratio(0.6, 1.65), random.ratio(0.5, 2.0)
    held = turn("any", 0, 180.0, random.many(3))
    force, spin = np.zeros((2, len(times), 3))
    begin = -random.between(0, 1) / tempo
    while begin < times[-1]:
        length = random.ratio(0.8, 1.25) / tempo
        during = (times > begin) & (times < begin + length)
        share = (times[during] - begin) / length
        phase = 2 * np.pi * (CYCLES * tempo * length * share + random.between(0, 1))
        loud = loudness(kind, share) * strength * random.ratio(0.5, 2.0)
        tilted = turn("any", 0, 25.0, random.many(3)).T
        # A swing along the first axis, which turns about the third.
        force[during] += FORCE * (loud * np.sin(phase))[:, None] * tilted[0]
        spin[during] += SPIN * (loud * np.cos(phase))[:, None] * tilted[2]
        begin += length + (0 if kind == "roll" else random.between(0.1, 1.0) / tempo)
    readings = np.concatenate([(force + _gravity(times, random)) @ held.T, spin @ held.T], axis=1)
    readings += strength * _NOISE * random.normal(readings.size).reshape(readings.shape)
    _knock(readings, strength, random)
    return np.asarray(readings)


def _knock(readings: NDArray[np.float64], strength: float, random: Numbers) -> None:
    """Adds knocks of 0.08 s to readings [T, 6]: 1 to twice the usual number, of any size and direction."""
    count = 1 + random.whole(round(2 * KNOCKS * len(readings) / RATE))
    begins = (random.many(count) * (len(readings) - len(_BUMP))).astype(int)
    sizes = KNOCK * strength * np.exp(1.2 * (2 * random.many(count) - 1))
    ways = random.normal(6 * count).reshape(count, 6) * np.repeat([FORCE, SPIN], 3)
    for begin, size, way in zip(begins, sizes, ways, strict=True):
        readings[begin : begin + len(_BUMP)] += size * _BUMP[:, None] * way


def _gravity(times: NDArray[np.float64], random: Numbers) -> NDArray[np.float64]:
    """[T, 3] m/s^2 from a random direction that sways slowly."""
    down = np.tile(turn("any", 0, 180.0, random.many(3))[2], (len(times), 1))
    for axis in range(3):
        size, hertz = random.between(0.02, 0.15), random.between(0.1, 0.5)
        down[:, axis] += size * np.sin(2 * np.pi * (hertz * times + random.between(0, 1)))
    return np.asarray(GRAVITY * down / np.linalg.norm(down, axis=1, keepdims=True))
