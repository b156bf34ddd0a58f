"""Phones worn at the waist: UCI HAR (windows as published) or HAPT (the raw recordings, cut here).

Layouts of ``--root``::

    UCI HAR Dataset/{train,test}/Inertial Signals/total_acc_x_train.txt, body_gyro_x_train.txt, ...
                                 y_train.txt, subject_train.txt
    HAPT Data Set/RawData/acc_exp01_user01.txt, gyro_exp01_user01.txt, ..., labels.txt

Accelerations are in g with gravity, angular velocities in rad/s, at 50 Hz. The windows of UCI HAR overlap by half and
were filtered by their authors; those cut from HAPT are neither, and lie inside one labelled stretch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation import counter
from foundation.errors import UserError
from foundation.modalities.imu import write
from foundation.modalities.imu.units import GRAVITY
from foundation.ranges import Side, argument

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD = {
    "title": "UCI HAR / HAPT, smartphone inertial recordings",
    "licence": "free for research and non-commercial use, attribution",
    "source": "https://archive.ics.uci.edu/dataset/240 (UCI HAR), https://archive.ics.uci.edu/dataset/341 (HAPT)",
    "citation": "D. Anguita et al., A Public Domain Dataset for Human Activity Recognition Using Smartphones, 2013",
    "modality": "imu",
    "splits": ["train", "test"],
    "layout": "npy float32 [128, 6] in m/s^2 and rad/s, cls, json (imu_rate, units, channels, subject)",
    "size": "UCI HAR: 7,352 + 2,947 windows, 60 MB; HAPT: about 3,850 + 1,560, 30 MB",
}
ACTIVITIES = ["WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING"]
TRANSITIONS = ["STAND_TO_SIT", "SIT_TO_STAND", "SIT_TO_LIE", "LIE_TO_SIT", "STAND_TO_LIE", "LIE_TO_STAND"]
TEST_SUBJECTS = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""Of the published split."""
_RATE = 50.0
_SIGNALS = [f"{kind}_{axis}" for kind in ("total_acc", "body_gyro") for axis in "xyz"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    parser.add_argument(
        "--root", type=Path, required=True, help="folder 'UCI HAR Dataset' or 'HAPT Data Set', unpacked"
    )
    parser.add_argument(
        "--window", type=argument(Side), default=128, help="HAPT: readings of a window (default: 128 = 2.56 s)"
    )
    parser.add_argument(
        "--stride", type=argument(Side), default=128, help="HAPT: readings from one window to the next (default: 128)"
    )
    parser.add_argument(
        "--transitions", action="store_true", help="HAPT: also the six changes of posture, classes 6-11"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels."""
    return ACTIVITIES + (TRANSITIONS if arguments.transitions else [])


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The splits, read while they are written.

    Raises:
        UserError: the folder is neither of the two, or lacks a file.
    """
    root: Path = arguments.root
    if arguments.window < 1 or arguments.stride < 1:
        raise UserError(f"--window {arguments.window} --stride {arguments.stride}: both must be at least 1")
    for folder in (root, root / "UCI HAR Dataset"):
        if (folder / "train" / "Inertial Signals").is_dir():
            return {split: _Windows(folder, split) for split in ("train", "test")}
    for folder in (root / "RawData", root / "HAPT Data Set" / "RawData", root):
        if (folder / "labels.txt").is_file():
            stretches = _stretches(folder, len(classes(arguments)))
            return {
                split: _Recordings(
                    folder,
                    split,
                    [s for s in stretches if (s.subject in TEST_SUBJECTS) == (split == "test")],
                    arguments.window,
                    arguments.stride,
                )
                for split in ("train", "test")
            }
    raise UserError(
        f"--root {root}: neither train/Inertial Signals (UCI HAR) nor RawData/labels.txt (HAPT) lies there; download "
        f"one and unpack it: {CARD['source']}"
    )


def _table(path: Path, columns: int | None = None) -> NDArray[np.float64]:
    """Numbers of a text file.

    Raises:
        UserError: it is missing or holds something else.
    """
    try:
        table = np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a table of numbers ({error}); unpack the archive again") from error
    if columns is not None and table.shape[1] != columns:
        raise UserError(f"{path}: {table.shape[1]} columns, expected {columns}")
    return table


def _sample(key: str, values: NDArray[Any], label: int, **facts: Any) -> dict[str, Any]:
    scaled = values * np.array([GRAVITY] * 3 + [1.0] * 3)
    more = {"label": label, "class": (ACTIVITIES + TRANSITIONS)[label], **facts}
    return {
        "__key__": key,
        "npy": write.array(scaled),
        "cls": str(label).encode(),
        "json": json.dumps({**write.facts(_RATE), **more}).encode(),
    }


class _Windows:
    """One split of UCI HAR."""

    def __init__(self, folder: Path, split: str) -> None:
        place = folder / split
        self.split = split
        self.labels = _table(place / f"y_{split}.txt", 1)[:, 0].astype(int) - 1
        self.subjects = _table(place / f"subject_{split}.txt", 1)[:, 0].astype(int)
        self.files = [place / "Inertial Signals" / f"{signal}_{split}.txt" for signal in _SIGNALS]
        if missing := [path.name for path in self.files if not path.is_file()]:
            raise UserError(f"{place}: {', '.join(missing)} missing; unpack the archive again")
        if self.labels.min() < 0 or self.labels.max() >= len(ACTIVITIES):
            raise UserError(f"{place}: labels from {self.labels.min() + 1} to {self.labels.max() + 1}, expected 1 to 6")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        signals = np.stack([_table(path) for path in self.files], axis=2)  # [windows, 128, 6]
        if not len(signals) == len(self.labels) == len(self.subjects):
            raise UserError(
                f"{self.split}: {len(signals)} windows, {len(self.labels)} labels, {len(self.subjects)} subjects; "
                "unpack the archive again"
            )
        for row in counter.permutation(0, 0, 0, f"uci_har.{self.split}", len(signals)).tolist():
            subject, label = int(self.subjects[row]), int(self.labels[row])
            yield _sample(f"s{subject:02d}-{self.split}-{row:05d}", signals[row], label, subject=subject)


@dataclass(frozen=True)
class _Stretch:
    """One labelled stretch of a recording: readings ``begin`` to ``end``, the last one not included."""

    number: int
    experiment: int
    subject: int
    label: int
    begin: int
    end: int


def _stretches(folder: Path, kinds: int) -> list[_Stretch]:
    """Rows of labels.txt (experiment, user, activity, first and last reading, from 1) of the activities wanted."""
    rows = _table(folder / "labels.txt", 5).astype(int).tolist()
    return [
        _Stretch(number, experiment, user, activity - 1, first - 1, last)
        for number, (experiment, user, activity, first, last) in enumerate(rows)
        if 1 <= activity <= kinds
    ]


@dataclass
class _Recordings:
    """One split of HAPT; recordings that cannot be read are left out and named in ``problems``."""

    folder: Path
    split: str
    stretches: list[_Stretch]
    window: int
    stride: int
    problems: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # One recording after the other would fill the first shards with one person.
        cut = [(s, w) for s in self.stretches for w in range((s.end - s.begin - self.window) // self.stride + 1)]
        read: dict[int, NDArray[np.float64] | None] = {}
        for place in counter.permutation(0, 0, 0, f"uci_har.{self.split}", len(cut)).tolist():
            stretch, number = cut[place]
            if stretch.experiment not in read:
                read[stretch.experiment] = self._read(stretch)
            values = read[stretch.experiment]
            begin = stretch.begin + number * self.stride
            if values is None:
                continue
            if begin + self.window > len(values):
                self.problems.append(f"labels.txt, row {stretch.number + 1}: ends behind its recording")
                continue
            key = f"s{stretch.subject:02d}-e{stretch.experiment:02d}-g{stretch.number:04d}-w{number:02d}"
            yield _sample(key, values[begin : begin + self.window], stretch.label, subject=stretch.subject)

    def _read(self, stretch: _Stretch) -> NDArray[np.float64] | None:
        name = f"exp{stretch.experiment:02d}_user{stretch.subject:02d}.txt"
        try:
            parts = [_table(self.folder / f"{kind}_{name}", 3) for kind in ("acc", "gyro")]
        except UserError as error:
            self.problems.append(str(error))
            return None
        length = min(map(len, parts))
        return np.concatenate([part[:length] for part in parts], axis=1)
