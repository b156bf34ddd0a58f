"""Frames to an MP4 file, for data sets that make or cut videos."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.modalities.video.pyav import library

_TICKS = 90_000  # of a second; every usual frame rate has a whole number of them
_CODECS = ("libx264", "mpeg4")


class Writer:
    """Takes frames one after the other and gives the file when all are there.

    Args:
        rate: nominal frames per second; times may say otherwise.
        quality: x264's constant rate factor: 0 loses nothing, 18 is hardly seen, 28 is small.

    Raises:
        UserError: PyAV is not installed.
    """

    def __init__(self, rate: float, quality: int = 20) -> None:
        self._av, self._file = library(), io.BytesIO()
        self._rate, self._quality = rate, quality
        self._container = self._av.open(self._file, "w", format="mp4")
        self._stream: Any = None

    def add(self, frame: NDArray[np.uint8], seconds: float) -> None:
        """Append a frame.

        Args:
            frame: [H, W, 3] RGB; an odd last row or column is left out.
            seconds: when it begins to be shown; later than the one before.
        """

        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._open(width, height)
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        picture.pts, picture.time_base = round(seconds * _TICKS), Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> bytes:
        """The whole file; empty when no frame was added."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        return self._file.getvalue() if self._stream is not None else b""

    def _open(self, width: int, height: int) -> Any:
        codec = next(name for name in _CODECS if name in self._av.codecs_available)
        options = {"crf": str(self._quality), "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
        stream = self._container.add_stream(codec, rate=Fraction(self._rate).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.thread_count = 1  # one thread gives the same bytes on every machine
        return stream


def encode(frames: Iterable[NDArray[np.uint8]], rate: float, quality: int = 20) -> bytes:
    """A file of frames at an even rate.

    Args:
        frames: each [H, W, 3] RGB.
        rate: frames per second.
        quality: see :class:`Writer`.
    """
    writer = Writer(rate, quality)
    for number, frame in enumerate(frames):
        writer.add(frame, number / rate)
    return writer.finish()
