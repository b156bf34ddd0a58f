"""Made from one motion: a camera with a sensor is moved through a painted room, and both record it.

A trajectory (place and attitude as functions of time) is drawn for each sample from its activity. The frames are what a
pinhole camera sees along it; the readings follow from the same trajectory by its derivatives: the accelerometer feels
acceleration minus gravity in its own frame, the gyroscope its angular velocity, each with noise and a bias. Sensor and
camera share one frame: x forward, y to the left, z up. So pictures and readings agree as they do in a real camera.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from foundation import counter
from foundation.errors import UserError
from foundation.modalities.imu import write
from foundation.modalities.paired.scene import ACTIVITIES, LONGEST, Camera, Room, Sensor, trajectory
from foundation.ranges import CountOrNone, NonNegative, Rate, Seconds, Seed, Side, argument

CARD = {
    "title": "Synthetic paired video and motion",
    "licence": "CC0",
    "source": "made by this program",
    "citation": "",
    "modality": "paired",
    "splits": ["train", "test"],
    "layout": "mp4 (or video.npy), npy float32 [T, 6] in m/s^2 and rad/s, cls (activity), json (rates, activity)",
    "size": "512 + 160 samples of 3 s, 20 MB",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    parser.add_argument(
        "--train", type=argument(CountOrNone), default=512, help="samples of the training split (default: 512)"
    )
    parser.add_argument(
        "--test", type=argument(CountOrNone), default=160, help="samples of the test split (default: 160)"
    )
    parser.add_argument("--seconds", type=argument(Seconds), default=3.0, help="length of a sample (default: 3)")
    parser.add_argument(
        "--size", type=argument(Side), default=64, help="width and height of the frames, pixels (default: 64)"
    )
    parser.add_argument("--fps", type=argument(NonNegative), default=10.0, help="frames per second (default: 10)")
    parser.add_argument("--rate", type=argument(Rate), default=100.0, help="readings per second, Hz (default: 100)")
    parser.add_argument("--frames", default="mp4", choices=("mp4", "npy"), help="how frames are kept (default: mp4)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of everything (default: 0)")


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the activities."""
    return list(ACTIVITIES)


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The splits, made while they are written. Rooms and motions of the test split occur nowhere else.

    Raises:
        UserError: an impossible option.
    """
    for name in ("train", "test", "seconds", "fps", "rate"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be above 0")
    if arguments.seconds > LONGEST:
        raise UserError(f"--seconds {arguments.seconds:g}: at most {LONGEST:g}, or the camera would leave the room")
    if arguments.size < 16 or arguments.size % 2:
        raise UserError(f"--size {arguments.size}: must be even and at least 16 pixels")
    return {split: _Samples(split, getattr(arguments, split), arguments) for split in ("train", "test")}


@dataclass(frozen=True)
class _Samples:
    split: str
    count: int
    arguments: argparse.Namespace

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import numpy as np

        options = self.arguments
        order = counter.permutation(options.seed, 0, 0, f"synthetic.{self.split}", self.count)
        for number, place in enumerate(order.tolist()):
            label = place % len(ACTIVITIES)  # as many of each activity
            activity = ACTIVITIES[label]
            path = trajectory(activity, options.seconds, options.seed, number, self.split)
            frame_times = (np.arange(round(options.seconds * options.fps)) + 0.5) / options.fps
            times = (np.arange(round(options.seconds * options.rate)) + 0.5) / options.rate
            room = Room(options.seed, number, self.split)
            pictures = Camera(options.size).film(path, room, frame_times)
            readings = Sensor(options.rate, options.seed, number, self.split).record(path, times)
            facts = {
                **write.facts(options.rate),
                "video_rate": options.fps,
                "activity": activity,
                "label": label,
                "seconds": options.seconds,
            }
            made = {"__key__": f"{self.split}-{activity}-{number:05d}"}
            if options.frames == "mp4":
                from foundation.modalities.video.write import encode

                made["mp4"] = encode(pictures, options.fps)
            else:
                made["video.npy"] = _npy(pictures)
            yield {
                **made,
                "imu.npy": write.array(readings),
                "cls": str(label).encode(),
                "json": json.dumps(facts).encode(),
            }


def _npy(pictures: Any) -> bytes:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, pictures)
    return file.getvalue()
