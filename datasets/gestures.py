"""Gestures of a hand with a motion sensor: eight, each of them another one played backwards, by many people.

A gesture is a short course of force, repeated without end; a recording begins anywhere in it. Backwards it has the same
statistics and the same spectrum, so these tell at best which pair a gesture is of. A person straps the sensor on a
little askew and has a strength, a tempo and a swing of the wrist; every recording adds a slant, noise and bias. People
of the test split occur nowhere else.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.modalities.imu import write
from foundation.modalities.imu.units import GRAVITY
from foundation.modalities.imu.windows import turn

CARD = {
    "title": "Gestures, forwards and backwards",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "imu",
    "splits": ["train", "test"],
    "layout": "npy float32 [200, 6] (4 s at 50 Hz, m/s^2 and rad/s), cls (gesture), json (rate, units)",
    "size": "8 gestures; 2,400 + 600 recordings by 60 + 20 people, 20 MB",
}
RATE, SECONDS = 50.0, 4.0
PEOPLE = {"train": 60, "test": 20}
GESTURES = ("swell", "fade", "quicken", "slacken", "short long", "long short", "jab", "draw")

Signal = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    generated.add_arguments(parser, train=2400, test=600)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="of the sensor, 1 is that of a phone (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the gestures, by class number."""
    return list(GESTURES)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Recordings of both splits.

    Raises:
        UserError: an impossible option.
    """
    if not 0 <= arguments.noise <= 100:
        raise UserError(f"--noise must lie in 0 to 100, got {arguments.noise}")

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        person = Numbers(arguments.seed, draw.whole(PEOPLE[split]), f"gestures.{split}.person")
        readings = recording(GESTURES[label], person, draw, arguments.noise)
        return {"npy": write.array(readings), "json": json.dumps(write.facts(RATE)).encode()}

    return generated.samples("gestures", arguments, GESTURES, make)


def course(gesture: str, t: Signal, draw: Numbers) -> Signal:
    """Force of a gesture, about 1 at its strongest.

    Args:
        gesture: one of :data:`GESTURES`.
        t: [T] number of repetitions since the first; fractions are places within one.
        draw: numbers of this recording.
    """
    place = t % 1.0 / draw.between(0.7, 0.85)  # then the hand rests
    place = np.where(gesture in ("fade", "slacken", "long short", "draw"), 1.0 - place, place)
    inside = (place > 0.0) & (place < 1.0)
    place = np.where(inside, place, 0.0)
    often = draw.between(3.5, 6.5)  # shakes in one repetition
    if gesture in ("swell", "fade"):
        force = place**1.5 * np.sin(2 * math.pi * often * place)
    elif gesture in ("quicken", "slacken"):
        force = np.sin(2 * math.pi * often * (0.3 * place + 0.7 * place**2)) * np.sin(math.pi * place) ** 0.5
    elif gesture in ("short long", "long short"):
        force = np.sin(2 * math.pi * often * place) * ((place < 0.25) | (place > 0.45))
    else:
        force = np.minimum(place / 0.12, ((1.0 - place) / 0.88) ** 2)
    return np.where(inside, force, 0.0)


def recording(gesture: str, person: Numbers, draw: Numbers, noise: float) -> NDArray[np.float64]:
    """[200, 6] accelerations with gravity, m/s^2, and angular velocities, rad/s."""
    times = (np.arange(round(SECONDS * RATE)) + 0.5) / RATE
    strapped = turn("any", 0, 20.0, person.many(3))
    strength, tempo, swing = person.ratio(4.0, 10.0), person.ratio(0.7, 1.2), person.between(0.1, 0.3)
    force = course(gesture, tempo * draw.ratio(0.9, 1.1) * times + draw.between(0.0, 1.0), draw)
    force = force * strength * draw.ratio(0.7, 1.4)
    way, axle = turn("any", 0, 20.0, draw.many(3))[:2]  # forwards, and about the axis across
    # A held hand is never still: it sways slowly, and gravity with it.
    phase = 2 * math.pi * (draw.between(0.1, 0.4) * times + draw.between(0.0, 1.0))
    sway = draw.between(0.0, 0.15)
    gravity = GRAVITY * np.stack([sway * np.sin(phase), sway * np.cos(phase), np.ones_like(times)], axis=1)
    acceleration = gravity + force[:, None] * way
    velocity = swing * force[:, None] * axle + 0.05 * np.sin(phase)[:, None]
    readings = np.stack([acceleration, velocity], axis=1) @ strapped.T  # [T, 2, 3]
    scale = noise * np.array([0.15, 0.02])[None, :, None]
    bias = np.array([0.1, 0.02])[None, :, None] * (2 * draw.many(6).reshape(1, 2, 3) - 1)
    hiss = draw.normal(6 * len(times)).reshape(len(times), 2, 3)
    return (readings + bias + scale * hiss).reshape(len(times), 6)
