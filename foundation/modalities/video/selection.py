"""Which frames of a video are read, how large they become, and what a reader of any format gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from foundation.errors import Note, UserError
from foundation.ranges import Count, Range, Seconds, Side, check


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which frames are read, and limits."""

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

    def __post_init__(self) -> None:
        check(self, "decode")
        if self.backend not in ("pyav", "torchcodec"):
            raise UserError(f"decode.backend is {self.backend!r}; choose pyav or torchcodec")
        if self.min_frames > self.max_frames:
            raise UserError(f"decode.min_frames {self.min_frames} is more than max_frames {self.max_frames}")


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


def choose(times: NDArray[np.float64], end: float, config: SelectionConfig, share: float) -> NDArray[np.int64]:
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
    # A millionth of a second of slack: time stamps are rounded to the container's ticks.
    places = np.searchsorted(times, wanted + 1e-6, side="right") - 1
    return np.clip(places, 0, len(times) - 1).astype(np.int64)


def reduced(height: int, width: int, config: SelectionConfig, frames: int = 1) -> tuple[int, int]:
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
