"""Your own inertial recordings (NPY, CSV, Parquet): class folders, a flat folder, or a manifest.

Layouts as in foundation/data/folders.py. What the columns are, their units and their rate is declared here once; the
shards then hold readings in m/s^2 and rad/s that say themselves what they are. Long recordings are cut with --window.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundation.data import folders
from foundation.data.items import accepted
from foundation.data.tally import Tally
from foundation.errors import SampleError, UserError
from foundation.modalities.imu import write
from foundation.modalities.imu.decode import EXTENSIONS
from foundation.modalities.imu.decode import Config as DecodeConfig
from foundation.ranges import Rate, Seconds, argument

if TYPE_CHECKING:
    from foundation.modalities.imu.decode import ImuDecoder, Recording

CARD = {
    "title": "Your own inertial recordings",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "imu",
    "splits": ["train", "test"],
    "layout": "npy float32 [T, C] in m/s^2 and rad/s, cls (number), json (imu_rate, units, channels, class, path)",
    "recipes": {"cpu": "quickstart-imu"},
    "size": "any",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    folders.add_arguments(parser, ",".join(name for name in EXTENSIONS if "." not in name), "a recording")
    default = DecodeConfig()
    parser.add_argument(
        "--channels", default=",".join(default.channels), help="names of the channels to keep (default: %(default)s)"
    )
    parser.add_argument("--columns", help="where each is found, by name or number from 0 (default: by its usual names)")
    parser.add_argument("--time", help="name or number of the column with times (default: by its usual names)")
    parser.add_argument(
        "--time-unit", default=default.time_unit, choices=("auto", "s", "ms", "us", "ns"), help="of it (default: auto)"
    )
    parser.add_argument("--rate", type=argument(Rate), help="readings per second, for files without times")
    parser.add_argument("--acceleration", default="m/s^2", help="unit: m/s^2, g, mg, g/16384 (default: %(default)s)")
    parser.add_argument("--angular-velocity", default="rad/s", help="unit: rad/s, deg/s (default: %(default)s)")
    parser.add_argument(
        "--max-gap", type=argument(Seconds), default=default.max_gap, metavar="SECONDS",
        help="without a reading for longer, a recording breaks: no window spans it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-gravity", action="store_true", help="the accelerations do not contain gravity")
    parser.add_argument(
        "--window", type=argument(Seconds), help="cut recordings into pieces of so many seconds (default: whole)"
    )
    parser.add_argument(
        "--stride", type=argument(Seconds), help="seconds from one piece to the next (default: --window)"
    )


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The splits, read while they are written.

    Raises:
        UserError: nothing found, or an impossible option.
    """
    for name in ("window", "stride"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} {value}: must be above 0 seconds")
    if arguments.stride and not arguments.window:
        raise UserError("--stride is for pieces: give --window too")
    config = DecodeConfig(
        channels=_names(arguments.channels) or (),
        columns=_names(arguments.columns),
        time=arguments.time,
        time_unit=arguments.time_unit,
        rate=arguments.rate,
        acceleration=arguments.acceleration,
        angular_velocity=arguments.angular_velocity,
        has_gravity=not arguments.no_gravity,
        max_gap=arguments.max_gap,
    )
    splits = folders.samples(arguments, lambda data, extension: {})
    return {
        name: _Pieces(split, config.build(), arguments.window, arguments.stride or arguments.window)
        for name, split in splits.items()
    }


def decoding(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the shards are read: they hold the channels that were asked for, in units of their own."""
    channels = _names(arguments.channels) or ()
    return {} if channels == DecodeConfig().channels else {"channels": list(channels)}


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass
class _Pieces:
    """Recordings of a split, read and cut; what cannot be used of them is counted in ``left_out`` and ``notes``."""

    split: folders.Split
    decoder: ImuDecoder
    window: float | None
    stride: float | None

    @property
    def left_out(self) -> Tally:
        return self.split.left_out

    @property
    def notes(self) -> Tally:
        return self.split.notes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        decode = DecodeConfig(channels=self.decoder.config.channels).build()
        for sample in self.split:
            facts = json.loads(sample["json"])
            raw = {"__shard__": "", **{name: data for name, data in sample.items() if name != "json"}}
            try:
                recording = self.decoder.read(raw)
            except SampleError as error:
                self.left_out.add(error.reason, facts["path"], error.detail)
                continue
            for note in recording.notes:
                self.notes.add(note.reason, facts["path"], note.detail)
            yield from accepted(decode, self._cut(sample, facts, recording), facts["path"], self.left_out)

    def _cut(
        self, sample: Mapping[str, Any], facts: Mapping[str, Any], recording: Recording
    ) -> Iterator[dict[str, Any]]:
        """Windows of each stretch, or the stretches themselves."""
        config, number = self.decoder.config, 0
        first = recording.stretches[0].start
        for stretch in recording.stretches:
            values, rate = stretch.values, stretch.rate
            length = len(values) if self.window is None else round(self.window * rate)
            step = length if self.stride is None else max(1, round(self.stride * rate))
            if len(values) < length:
                short = f"{len(values) / rate:.3g} s are less than --window"
                after = f"{stretch.start - first:.6g} s after the first"
                whole = len(recording.stretches) == 1
                (self.left_out if whole else self.notes).add(
                    "too_short", facts["path"], short if whole else f"{short}, {after}"
                )
            for begin in range(0, len(values) - length + 1, step):
                key, more = sample["__key__"], {}
                if self.window is not None or len(recording.stretches) > 1:
                    key = f"{key}-{'p' if self.window is None else 'w'}{number:04d}"
                    more = {"seconds": round(stretch.start - first + begin / rate, 6)}
                said = write.facts(rate, channels=config.channels, gravity=config.has_gravity)
                piece = {"__key__": key, "npy": write.array(values[begin : begin + length])}
                if "cls" in sample:
                    piece["cls"] = sample["cls"]
                yield piece | {"json": json.dumps({**facts, **said, **more}, ensure_ascii=False).encode()}
                number += 1
        if not number and len(recording.stretches) > 1:
            self.left_out.add("too_short", facts["path"], "no stretch without a gap is as long as --window")
