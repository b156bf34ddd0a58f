"""Videos with the motion of the camera that took them: paired clips with one clock.

``--root`` holds videos in one of the layouts of foundation/data/folders.py (class folders, flat, manifest). The
readings of each video are looked for in this order:

1. a table of the same name, ``clip.csv`` (or parquet, npy) beside ``clip.mp4`` or in ``--imu-root``: by default columns
   as in Ego4D (``canonical_timestamp_ms, gyro_x, ..., accl_x, ...``; m/s^2, rad/s), else as the options say;
2. GoPro telemetry (GPMF) inside the video itself.

Both are cut into clips of equal length: the video is reduced and encoded anew, so that a clip begins where its readings
do; the readings come at one rate, accelerometer and gyroscope together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.data import folders
from foundation.data.items import accepted, decoder_of
from foundation.data.tally import Tally
from foundation.errors import SampleError, UserError
from foundation.modalities.imu import gpmf, write
from foundation.modalities.imu.decode import Config as DecodeConfig
from foundation.modalities.imu.errors import ImuError
from foundation.modalities.imu.signals import readings_at
from foundation.modalities.imu.times import even, stretches
from foundation.modalities.video.decode import CONTAINERS
from foundation.ranges import NonNegative, Number, Rate, Seconds, Side, argument

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD = {
    "title": "Egocentric videos with motion sensors",
    "licence": "yours; Ego4D and EgoExo4D have agreements of their own, which each user signs",
    "source": "a folder of videos; https://ego4d-data.org, https://ego-exo4d-data.org, or your own action camera",
    "citation": "K. Grauman et al., Ego4D: Around the World in 3,000 Hours of Egocentric Video, CVPR 2022",
    "modality": "paired",
    "splits": ["train", "test"],
    "layout": "mp4 (H.264, short side 256), npy float32 [T, 6] in m/s^2 and rad/s, cls, json (rate, start, seconds)",
    "size": "any; about 0.3 MB for a clip of 5 s",
}
_EGO4D = ("accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")
_EGO4D_TIME = "canonical_timestamp_ms"
_TABLES = (".csv", ".parquet", ".npy")

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    folders.add_arguments(parser, ",".join(CONTAINERS), "a video")
    parser.add_argument("--imu-root", type=Path, help="folder with the tables, laid out like --root (default: --root)")
    parser.add_argument("--columns", default=",".join(_EGO4D), help="acc x, y, z, gyr x, y, z (default: %(default)s)")
    parser.add_argument("--time", default=_EGO4D_TIME, help="column with times (default: %(default)s)")
    parser.add_argument("--time-unit", default="ms", choices=("s", "ms", "us", "ns"), help="of it (default: ms)")
    parser.add_argument("--acceleration", default="m/s^2", help="unit: m/s^2, g, mg (default: %(default)s)")
    parser.add_argument("--angular-velocity", default="rad/s", help="unit: rad/s, deg/s (default: %(default)s)")
    parser.add_argument(
        "--offset",
        type=argument(Number),
        default=0.0,
        help="time of the table at which the video begins, seconds (default: 0)",
    )
    parser.add_argument(
        "--rate", type=argument(Rate), default=200.0, help="readings per second in the shards (default: 200)"
    )
    parser.add_argument("--seconds", type=argument(Seconds), default=5.0, help="length of a clip (default: 5)")
    parser.add_argument(
        "--short-side", type=argument(Side), default=256, help="pixels of the shorter side at most (default: 256)"
    )
    parser.add_argument(
        "--fps", type=argument(NonNegative), default=0.0, help="frames per second at most (default: all of them)"
    )


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The splits, read while they are written.

    Raises:
        UserError: nothing found, or an impossible option.
    """
    for name in ("rate", "seconds", "short_side"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must be above 0")
    columns = tuple(part.strip() for part in arguments.columns.split(",") if part.strip())
    if len(columns) != 6:
        raise UserError(f"--columns names {len(columns)} columns; give six: acc x, y, z, gyr x, y, z")
    config = DecodeConfig(
        columns=columns,
        time=arguments.time,
        time_unit=arguments.time_unit,
        acceleration=arguments.acceleration,
        angular_velocity=arguments.angular_velocity,
        bridge=True,
    )
    root = arguments.root or arguments.csv.parent if arguments.csv else arguments.root
    splits = folders.samples(arguments, lambda data, extension: {})
    for split in splits.values():
        for ending in _TABLES:  # they lie beside the videos on purpose
            split.left_out.forget(ending)
    return {name: _Clips(split, root, config, arguments) for name, split in splits.items()}


@dataclass
class _Clips:
    """Clips of a split; videos that cannot be used are counted in ``left_out``."""

    split: folders.Split
    root: Path
    config: DecodeConfig
    arguments: argparse.Namespace

    @property
    def left_out(self) -> Tally:
        return self.split.left_out

    @property
    def notes(self) -> Tally:
        return self.split.notes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        decode = decoder_of("imu")  # the frames were decoded to be cut
        for sample in self.split:
            facts = json.loads(sample["json"])
            name = next(key for key in sample if key not in ("__key__", "cls", "json"))
            try:
                readings, begin, source = self._readings(facts["path"], sample[name])
                clips = self._clips(sample, name, facts, readings, begin, source)
                yield from accepted(decode, clips, facts["path"], self.left_out)
            except (SampleError, ImuError) as error:
                detail = error.detail if isinstance(error, SampleError) else str(error)
                self.left_out.add(error.reason, facts["path"], detail)
            except ValueError as error:
                self.left_out.add("decode", facts["path"], str(error))

    def _readings(self, path: str, data: bytes) -> tuple[NDArray[np.float32], float, str]:
        """[T, 6] readings at the rate wanted, when the first of them begins on the video's clock, and whence they are.

        Raises:
            ImuError, SampleError: there are none, or they are bad.
        """
        folder = self.arguments.imu_root or self.root
        for ending in _TABLES:
            file = (folder / path).with_suffix(ending)
            if file.is_file():
                raw = {"__key__": path, "__shard__": "", ending[1:]: file.read_bytes()}
                decoded = self.config.build()(raw)
                values, rate = decoded["imu"].numpy(), decoded["imu_rate"]
                return *self._at_rate([(values, rate, decoded["imu_start"] - self.arguments.offset)]), file.name
        payloads = gpmf.track(data)
        if not payloads:
            raise ImuError("missing", f"no {Path(path).stem}{{{','.join(_TABLES)}}} and no telemetry in the video")
        sensors = []
        for letters in ("ACCL", "GYRO"):
            values, times = gpmf.readings(payloads, letters)
            found, _ = stretches(values, times, self.config.max_gap, lambda row, times=times: f"{times[row]:.6f} s")
            if len(found) > 1:
                raise ImuError("gap", f"the telemetry of {letters} falls into {len(found)} stretches")
            values, rate, begin = even(found[0].values, found[0].times)
            sensors.append((values[:, :3].astype(np.float32), rate, begin - 0.5 / rate))
        return *self._at_rate(sensors), "gpmf"

    def _at_rate(self, sensors: list[tuple[NDArray[np.float32], float, float]]) -> tuple[NDArray[np.float32], float]:
        """Sensors with rates and begins of their own, side by side at one rate; and when that begins."""
        begin = max(start for _, _, start in sensors)
        end = min(start + len(values) / rate for values, rate, start in sensors)
        wanted = self.arguments.rate
        times = begin + (np.arange(int((end - begin) * wanted)) + 0.5) / wanted
        parts = [readings_at(values, (times - start) * rate - 0.5, rate / wanted) for values, rate, start in sensors]
        return np.concatenate(parts, axis=1), begin

    def _clips(
        self,
        sample: Mapping[str, Any],
        name: str,
        facts: Mapping[str, Any],
        readings: NDArray[np.float32],
        begin: float,
        source: str,
    ) -> Iterator[dict[str, Any]]:
        from foundation.modalities.video.write import Writer

        options = self.arguments
        rate, number, writer = options.rate, 0, None
        end = begin + len(readings) / rate
        if end <= 0:
            raise ImuError("conflict", f"the readings end {-end:.2f} s before the video begins: set --offset")

        def piece(file: bytes, shown: int) -> dict[str, Any]:
            first = round((number * options.seconds - begin) * rate)
            part = readings[first : first + round(options.seconds * rate)]
            # The clock of a clip begins with its first frame, which may come a moment after the clip does.
            said = write.facts(rate, begin + first / rate - origin)
            more = {"sensor": source, "start_s": round(origin, 6), "seconds": options.seconds, "frames": shown}
            made = {"__key__": f"{sample['__key__']}-c{number:04d}", "mp4": file, "npy": write.array(part)}
            if "cls" in sample:
                made["cls"] = sample["cls"]
            return made | {"json": json.dumps({**facts, **said, **more}, ensure_ascii=False).encode()}

        def whole() -> bool:
            """Whether the readings cover this clip."""
            start = number * options.seconds
            return start >= begin - 0.5 / rate and start + options.seconds <= end + 0.5 / rate

        shown, last, origin = 0, -np.inf, 0.0
        for seconds, duration, frame in frames(sample[name], options.short_side):
            while seconds >= (number + 1) * options.seconds - 1e-6:
                if writer is not None and whole():
                    yield piece(writer.finish(), shown)
                number, writer, shown, last = number + 1, None, 0, -np.inf
            if not whole() or (options.fps and seconds - last < 0.999 / options.fps):
                continue
            if writer is None:
                writer, origin = Writer(options.fps or 1.0 / duration), seconds
            writer.add(frame, seconds - origin)
            shown, last = shown + 1, seconds
        if writer is not None and whole() and seconds + 1.5 * duration >= (number + 1) * options.seconds:
            yield piece(writer.finish(), shown)
            number += 1
        if number == 0:
            self.left_out.add("too_short", facts["path"], f"no {options.seconds:g} s of video with readings")


def frames(data: bytes, short_side: int) -> Iterator[tuple[float, float, NDArray[np.uint8]]]:
    """Frames of a video one after the other: seconds since the first, usual duration, upright [H, W, 3].

    Raises:
        ValueError: the video cannot be read.
    """
    from foundation.modalities.video.pyav import every_frame, facts

    try:
        duration = 1.0 / facts(data)["fps"]
        for seconds, frame in every_frame(data):
            factor = min(1.0, short_side / min(frame.height, frame.width))
            size = {"width": max(2, round(frame.width * factor)), "height": max(2, round(frame.height * factor))}
            pixels = frame.to_ndarray(format="rgb24", interpolation="AREA", **size)
            yield seconds, duration, np.rot90(pixels, round(frame.rotation / 90))
    except ValueError as error:
        raise ValueError(f"the video cannot be read: {error}") from error
