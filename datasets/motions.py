"""Motions of a body-worn sensor: eight activities of many wearers, each of whom carries it in another way.

The trajectories are those of the ``synthetic`` pairs (foundation/modalities/paired/scene.py) without pictures: walking,
stairs, turning, shaking and so on, with steps, tempo and direction of their own in every recording. A wearer holds the
sensor at an attitude of their own, which turns all axes together, and so does every recording a little. Wearers of the
test split occur nowhere else. Raw readings say above all how the sensor is carried.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

import numpy as np

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.modalities.imu import write
from foundation.modalities.imu.windows import turn
from foundation.modalities.paired.scene import ACTIVITIES, LONGEST, Sensor, trajectory
from foundation.ranges import Degrees, argument

CARD = {
    "title": "Motions of a body-worn sensor",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "imu",
    "splits": ["train", "test"],
    "layout": "npy float32 [200, 6] (4 s at 50 Hz, m/s^2 and rad/s), cls (activity), json (imu_rate, units, wearer)",
    "size": "8 activities; 2,400 + 640 recordings by 60 + 20 wearers, 20 MB",
}
RATE, SECONDS = 50.0, 4.0
WEARERS = {"train": 60, "test": 20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    generated.add_arguments(parser, train=2400, test=640)
    parser.add_argument(
        "--sway",
        type=argument(Degrees),
        default=15.0,
        help="degrees by which a recording is turned further (default: %(default)s)",
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the activities."""
    return list(ACTIVITIES)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """The splits, made while they are written.

    Raises:
        UserError: an impossible option.
    """
    if not 0 <= arguments.sway <= 180:
        raise UserError(f"--sway {arguments.sway}: must lie in 0 to 180 degrees")
    assert SECONDS <= LONGEST
    times = (np.arange(round(SECONDS * RATE)) + 0.5) / RATE

    def make(label: int, number: int, numbers: Numbers, split: str) -> Mapping[str, bytes]:
        wearer = numbers.whole(WEARERS[split])
        carried = turn("any", 0, 180.0, Numbers(arguments.seed, wearer, f"motions.{split}.wearer").many(3))
        swayed = turn("any", 0, arguments.sway, numbers.many(3)) @ carried
        path = trajectory(ACTIVITIES[label], SECONDS, arguments.seed, number, f"motions.{split}")
        readings = Sensor(RATE, arguments.seed, number, f"motions.{split}").record(path, times)
        turned = (readings.reshape(-1, 2, 3) @ swayed.T).reshape(-1, 6)
        facts = {**write.facts(RATE), "wearer": wearer, "activity": ACTIVITIES[label]}
        return {"npy": write.array(turned), "json": json.dumps(facts).encode()}

    return generated.samples("motions", arguments, ACTIVITIES, make)
