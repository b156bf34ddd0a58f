"""Frames through torchcodec, for machines whose system has FFmpeg: the same pixels, chosen by the same time stamps."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.modalities.video.selection import SelectionConfig, VideoError
from foundation.modalities.video.stacks import reduce

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PIECE = 16  # frames held at full size at a time


def library() -> Any:
    """The class that decodes.

    Raises:
        UserError: it is not installed, or finds no FFmpeg.
    """
    decoder, problem = _found()
    if decoder is None:
        raise UserError(
            f"decode.backend is torchcodec, which cannot be used here ({problem}): 'pip install torchcodec' and "
            "install FFmpeg on the system, or set decode.backend to pyav, which brings its own"
        )
    return decoder


def _found() -> tuple[Any, str]:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        return None, (str(error).strip() or type(error).__name__).splitlines()[0]
    return (None, "it finds no FFmpeg") if _lacks_ffmpeg() else (VideoDecoder, "")


@lru_cache(maxsize=1)
def _lacks_ffmpeg() -> bool:
    """Whether FFmpeg is missing, which torchcodec says at its first use only."""
    from torchcodec.decoders import VideoDecoder

    try:
        VideoDecoder(b"no video")
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        return "load libtorchcodec" in str(error)
    return False


def read_frames(
    data: bytes, track: int, chosen: NDArray[np.int64], there: int, config: SelectionConfig
) -> NDArray[np.uint8]:
    """Some frames of a file, by their number in the order in which they are shown.

    Args:
        data: the file.
        track: number of the film's stream.
        chosen: [n] ascending.
        there: frames of the file, as its packets say.
        config: limits.

    Returns:
        uint8 [n, H, W, 3], upright and reduced.

    Raises:
        VideoError: a frame cannot be decoded, or the library counts other frames.
        UserError: see :func:`library`.
    """
    import numpy as np

    open_video = library()
    try:
        decoder = open_video(data, stream_index=track, dimension_order="NHWC", num_ffmpeg_threads=1)
        if len(decoder) != there:
            raise VideoError(
                "decode", f"torchcodec finds {len(decoder)} frames, the packets are {there}: set decode.backend to pyav"
            )
        pieces = []
        for start in range(0, len(chosen), _PIECE):
            frames = decoder.get_frames_at(chosen[start : start + _PIECE].tolist())
            pieces.append(reduce(frames.data.numpy(), config))
    except (RuntimeError, IndexError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError("corrupt", f"torchcodec: {str(error).splitlines()[0]}") from error
    return np.concatenate(pieces)
