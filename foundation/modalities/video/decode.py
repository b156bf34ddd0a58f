"""From the bytes of one video file, or of a stack of frames, to the frames that are wanted and the times they show.

The container's packets are listed first, which decodes nothing: they give every frame's time stamp, so that variable
frame rates are honoured, frames can be chosen, and decoding starts at the key frame before the first one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from foundation.data import members
from foundation.errors import Note, SampleError, UserError
from foundation.ranges import Count, Range, Seconds, Side, check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foundation.counter import Draws
    from foundation.types import Sample

CONTAINERS = (
    *("mp4", "mkv", "webm", "mov", "m4v", "avi", "mpg", "mpeg", "ts", "ogv", "gif"),
    *("mts", "m2ts", "wmv", "asf", "flv", "3gp", "3g2", "vob", "m2v", "mxf", "ivf", "h264", "hevc"),
)
STACKS = ("video.npy", "video.npz", "frames.npy", "frames.npz", "npy", "npz")
EXTENSIONS = (*CONTAINERS, *STACKS)
"""Members that count as the video of a sample, in the order in which they are looked for; containers go first, since
a bare ``npy`` beside a container is usually another sensor's."""

_RATES = ("video_rate", "fps", "frame_rate")


@dataclass(frozen=True, kw_only=True)
class Config:
    """How video files become frames."""

    max_frames: Count = 256
    """Frames of a sample at most. Of a longer video one span is read: in training a random one, else the middle."""
    seconds: Seconds | None = None
    """Length of the span that is read, seconds; None: as much as ``max_frames`` allows."""
    rate: Annotated[float, Range(0, 1e5, above=True)] | None = None
    """Frames per second to keep, chosen by time stamp before anything is decoded; None: every frame. Never more than
    the file has."""
    min_frames: Count = 2
    """Videos with fewer frames are refused."""
    short_side: Side | None = 256
    """Frames are reduced until the shorter side has this many pixels; None: never. Smaller ones stay as they are."""
    max_pixels: Annotated[int, Range(1, 2**31 - 1)] = 8_847_360
    """Frames with more pixels (height x width, read from the header) are refused before they are decoded."""
    max_bytes: Annotated[int, Range(1, 2**40)] = 1 << 30
    """Decoded frames of a sample take at most so many bytes."""
    backend: Literal["pyav", "torchcodec"] = "pyav"
    """Who decodes the chosen frames. PyAV brings its own FFmpeg, so that every machine makes the same pixels, and shows
    the frame before where one is damaged; torchcodec uses the system's FFmpeg."""
    member: str | None = None
    """The video's member, such as ``mp4`` or ``left.mp4``; None: the first with a video's extension."""
    label: str = "label"
    """Key of the class number in a sample's ``json`` member, used where it has no ``cls`` member."""
    stack_rate: Annotated[float, Range(0, 1e5, above=True)] = 25.0
    """Frames per second of stacks (npy, npz) whose ``json`` has no ``video_rate``, ``fps`` or ``frame_rate``."""

    def __post_init__(self) -> None:
        check(self, "decode")
        if self.backend not in ("pyav", "torchcodec"):
            raise UserError(f"decode.backend is {self.backend!r}; choose pyav or torchcodec")
        if self.min_frames > self.max_frames:
            raise UserError(f"decode.min_frames {self.min_frames} is more than max_frames {self.max_frames}")

    def build(self) -> VideoDecoder:
        """The function from a raw sample to a sample."""
        return VideoDecoder(self)


class VideoDecoder:
    """Decodes the video and the label of one sample. See :func:`decode`."""

    takes_draws = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, raw: Mapping[str, Any], draws: Draws | None = None) -> Sample:
        return decode(raw, self.config, draws)


def decode(raw: Mapping[str, Any], config: Config | None = None, draws: Draws | None = None) -> Sample:
    """Decodes the video and the label of one sample.

    Args:
        raw: members of the sample by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``.
        config: limits; the defaults when absent.
        draws: random numbers of this sample; where the span that is read begins. None: the middle of the video. The
            stream is ``span`` for every modality, so that sensors of one sample give the same part of it.

    Returns:
        ``video``: uint8 [T, 3, H, W] RGB, upright, whose memory is [T, H, W, 3]; ``video_times``: float64 [T], when
        each frame begins to be shown, seconds from the start of the file's video; ``video_rate``: frames per second of
        what is returned, on average; ``video_end``: when the last frame stops being shown, seconds; and ``label``
        (a number, a name or several) where there is one.

    Raises:
        SampleError: reason ``missing``, ``empty``, ``truncated``, ``decode``, ``corrupt`` (frames in the middle),
            ``too_large``, ``too_short`` or ``shape``.
        UserError: PyAV is not installed.
    """
    import torch

    config = config or Config()
    name = members.required(raw, config.member, EXTENSIONS, "video")
    data, place = raw[name], members.place_of(raw)
    share = 0.5 if draws is None else float(draws.uniform("span", 1)[0, 0])
    if not data:
        raise SampleError(*place, "empty", f"{name}: no bytes")
    try:
        if name.lower().rpartition(".")[2] in ("npy", "npz"):
            from foundation.modalities.video.stacks import read_stack

            clip = read_stack(data, name, _stack_rate(raw, config), config, share, place)
        else:
            from foundation.modalities.video.pyav import read

            clip = read(data, config, share)
    except VideoError as error:
        raise SampleError(*place, error.reason, f"{name} ({len(data)} bytes): {error}") from error.__cause__
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    sample["video"] = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
    sample["video_times"], sample["video_end"] = clip.times, clip.end
    sample["video_rate"] = len(clip.times) / (clip.end - float(clip.times[0]))
    members.note(sample, *clip.notes)
    members.put_label(sample, raw, config.label)
    return sample


@dataclass(frozen=True)
class Clip:
    """The chosen frames of a file or a stack.

    Attributes:
        frames: uint8 [n, H, W, 3] RGB, upright.
        times: [n] when each begins to be shown, seconds from the first frame of the file.
        end: when the last one stops, seconds.
        notes: what is worth knowing.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    end: float
    notes: tuple[Note, ...] = ()


class VideoError(ValueError):
    """A video that cannot be used; ``reason`` is one of :data:`foundation.errors.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def choose(times: NDArray[np.float64], end: float, config: Config, share: float) -> NDArray[np.int64]:
    """Which frames to decode.

    Args:
        times: [T] when each frame begins to be shown, seconds, ascending.
        end: when the last one stops.
        config: span and rate.
        share: where the span begins, in [0, 1): 0 at the start of the video, 1 as late as it fits.

    Returns:
        [n] numbers of frames, ascending, without repetition.

    Raises:
        VideoError: reason ``too_short``: fewer than ``min_frames``.
    """
    import numpy as np

    start, length = float(times[0]), end - float(times[0])
    seconds = min(length, config.seconds or math.inf)
    if config.rate is not None:
        seconds = min(seconds, config.max_frames / config.rate)
    begin = start + share * (length - seconds)
    if config.rate is not None:
        count = max(1, math.floor(seconds * config.rate + 1e-6))
        wanted: NDArray[np.float64] = begin + (np.arange(count, dtype=np.float64) + 0.5) / config.rate
        chosen = np.unique(frames_at(times, wanted))
    else:
        first = int(frames_at(times, np.array([begin]))[0])
        last = max(1, int(np.searchsorted(times, begin + seconds - 1e-6)))
        if last - first > config.max_frames:
            first += int(share * (last - first - config.max_frames + 1))
            last = first + config.max_frames
        chosen = np.arange(first, last)
    if len(chosen) < config.min_frames:
        raise VideoError(
            "too_short",
            f"{len(chosen)} of {len(times)} frames in {seconds:.3g} s; at least {config.min_frames} are needed "
            "(decode.min_frames)",
        )
    return chosen.astype(np.int64)


def frames_at(times: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the frame that is shown at each wanted time: the last one that has begun.

    Args:
        times: [T] when each frame begins to be shown, ascending.
        wanted: any shape, same unit.
    """
    import numpy as np

    # A millionth of a second of slack: time stamps are rounded to the container's ticks.
    places = np.searchsorted(times, wanted + 1e-6, side="right") - 1
    return np.clip(places, 0, len(times) - 1).astype(np.int64)


def reduced(height: int, width: int, config: Config, frames: int = 1) -> tuple[int, int]:
    """Height and width that frames are decoded to.

    Raises:
        VideoError: reason ``too_large`` or ``decode``.
    """
    if height < 1 or width < 1:
        raise VideoError("decode", f"the frames have no pixels ({width} x {height})")
    if height * width > config.max_pixels:
        raise VideoError("too_large", f"{width} x {height} pixels are more than max_pixels = {config.max_pixels}")
    if config.short_side is not None and min(height, width) > config.short_side:
        factor = config.short_side / min(height, width)
        height, width = max(1, round(height * factor)), max(1, round(width * factor))
    if 3 * height * width * frames > config.max_bytes:
        raise VideoError(
            "too_large",
            f"{frames} frames of {width} x {height} pixels are more than max_bytes = {config.max_bytes}: lower "
            "decode.max_frames or short_side",
        )
    return height, width


def looks_cut_off(data: bytes) -> bool:
    """Whether an MP4 or MOV file says that it is longer than it is, or lacks its table of frames (ISO/IEC 14496-12)."""
    if data[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return False
    place, names = 0, set()
    while place + 8 <= len(data):
        size, header = int.from_bytes(data[place : place + 4], "big"), 8
        names.add(data[place + 4 : place + 8])
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        elif size == 0:  # to the end of the file
            size = len(data) - place
        if size < header:
            return False
        place += size
    return place > len(data) or b"moov" not in names


def _stack_rate(raw: Mapping[str, Any], config: Config) -> float:
    values = members.facts(raw)
    for name in _RATES:
        if name in values:
            rate = values[name]
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
                raise SampleError(
                    *members.place_of(raw), "shape", f"json: {name} is {rate!r}; frames per second above 0"
                )
            return float(rate)
    return config.stack_rate
