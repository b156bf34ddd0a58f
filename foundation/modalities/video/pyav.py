"""Video files through PyAV, whose wheel brings its own FFmpeg."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.modalities.video.decode import Config, VideoError, choose, looks_cut_off, reduced

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_PACKETS = 4_000_000  # a day at 46 frames per second; a list of more is a file made to hurt
_LOST_SHARE = 0.1  # of the wanted frames; players show the frame before in the place of one that is lost


# FFmpeg goes by content, not by name, and some of its formats are lists of other files and addresses (concat, HLS).
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,gif,asf,flv"


def library() -> Any:
    """PyAV, quiet.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"reading it needs PyAV ({error}): install it with 'pip install foundation-pretrain[video]'"
        ) from error
    av.logging.set_level(av.logging.PANIC)
    return av


def open_container(data: bytes, formats: str = _FORMATS) -> Any:
    """The container of a file, as PyAV gives it; only formats that hold their own pictures and sound.

    Args:
        data: the file.
        formats: FFmpeg's names of those that may be tried, with commas between.

    Raises:
        UserError: PyAV is not installed.
        av.error.FFmpegError: not such a file.
    """
    av = library()
    options = {"format_whitelist": formats, "protocol_whitelist": "none"}
    return av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options=options)


def read(data: bytes, config: Config, share: float) -> tuple[NDArray[np.uint8], NDArray[np.float64], float]:
    """Decodes the chosen frames of a file.

    Args:
        data: the file.
        config: limits, span and rate.
        share: where the span begins, see :func:`choose`.

    Returns:
        uint8 [n, H, W, 3], upright; [n] when each begins to be shown; when the last one stops, both in seconds from
        the first frame of the file.

    Raises:
        VideoError: not a video, damaged, too large or too short.
    """
    import numpy as np

    av = library()
    try:
        with open_container(data) as container:
            if not container.streams.video:
                raise VideoError("missing", "the file has no video track")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise VideoError("decode", "the file does not say with which codec it was made, or with an unknown one")
            stream.thread_type = "NONE"  # loader workers are parallel already, and one thread gives the same bits
            reduced(context.height, context.width, config)
            stamps = _time_stamps(container, stream)
            if len(stamps) < stream.frames and looks_cut_off(data):
                raise VideoError("truncated", f"{len(stamps)} of the {stream.frames} frames that it promises are there")
            tick = float(stream.time_base)
            times = (stamps - stamps[0]) * tick
            end = float(times[-1]) + _last_duration(stream, times)
            chosen = choose(times, end, config, share)
            reduced(context.height, context.width, config, len(chosen))
            if config.backend == "torchcodec":
                from foundation.modalities.video.torchcodec import read_frames

                frames = read_frames(data, chosen, len(stamps), config)
            else:
                frames = _decode(container, stream, stamps[chosen], config)
    except av.error.FFmpegError as error:
        reason = "truncated" if looks_cut_off(data) else "decode"
        raise VideoError(reason, str(error)) from error
    except (ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, VideoError):
            if error.reason == "corrupt" and looks_cut_off(data):
                error.reason = "truncated"
            raise
        raise VideoError("decode", f"{type(error).__name__}: {error}") from error
    ends = np.append(times, end)
    return frames, times[chosen], float(ends[chosen[-1] + 1])


def _time_stamps(container: Any, stream: Any) -> NDArray[np.int64]:
    """[T] time stamps of all frames in the order in which they are shown, in ticks; read from packets alone."""
    import numpy as np

    stamps: list[int] = []
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            raise VideoError("decode", f"packet {len(stamps)} has no time stamp: convert the file to MP4 or Matroska")
        stamps.append(stamp)
        if len(stamps) > _MAX_PACKETS:
            raise VideoError("too_large", f"more than {_MAX_PACKETS} frames")
    if not stamps:
        raise VideoError("empty", "the video track has no frames")
    return np.unique(np.array(stamps, dtype=np.int64))


def _last_duration(stream: Any, times: NDArray[np.float64]) -> float:
    """Seconds for which the last frame is shown: as the one before it; of a single frame, by the nominal rate."""
    import numpy as np

    if len(times) > 1:
        return float(np.median(np.diff(times)[-9:]))
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 1.0


def _decode(container: Any, stream: Any, wanted: NDArray[np.int64], config: Config) -> NDArray[np.uint8]:
    """Frames with some time stamps, [n, H, W, 3]. Starts at the key frame before the first, ends with the last."""
    import numpy as np

    av = library()
    places = {int(stamp): place for place, stamp in enumerate(wanted.tolist())}
    container.seek(int(wanted[0]), stream=stream, backward=True)
    frames: NDArray[np.uint8] | None = None
    found = np.zeros(len(wanted), dtype=bool)
    errors: list[str] = []
    convert = av.video.reformatter.VideoReformatter()  # keeps its tables from frame to frame
    packets = container.demux(stream)
    while not found.all():
        packet = next(packets, None)
        if packet is None:
            break
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError as error:
            errors.append(str(error))
            continue
        for frame in decoded:
            stamp = frame.pts if frame.pts is not None else frame.dts
            place = places.get(stamp) if stamp is not None else None
            if place is None or found[place]:
                continue
            pixels = _upright(frame, config, convert)
            if frames is None:
                frames = np.zeros((len(wanted), *pixels.shape), dtype=np.uint8)
            if pixels.shape != frames.shape[1:]:
                sizes = f"{frames.shape[2]} x {frames.shape[1]} to {pixels.shape[1]} x {pixels.shape[0]}"
                raise VideoError("shape", f"the size of the frames changes from {sizes} in the middle")
            frames[place], found[place] = pixels, True
    lost = int((~found).sum())
    if frames is None or lost > _LOST_SHARE * len(wanted):
        why = f" ({errors[0]})" if errors else ""
        raise VideoError("corrupt", f"{lost} of {len(wanted)} frames cannot be decoded{why}")
    if lost:
        there = np.flatnonzero(found)
        missing = np.flatnonzero(~found)
        before = there[np.clip(np.searchsorted(there, missing) - 1, 0, len(there) - 1)]
        frames[missing] = frames[before]
    return frames


def _upright(frame: Any, config: Config, convert: Any) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3], reduced and turned as the file's display matrix says."""
    import numpy as np

    height, width = reduced(frame.height, frame.width, config)
    smaller = (height, width) != (frame.height, frame.width)
    options = {"width": width, "height": height, "interpolation": "AREA"} if smaller else {}
    pixels = convert.reformat(frame, format="rgb24", **options).to_ndarray()
    turns = round(frame.rotation / 90)  # counter-clockwise
    return np.rot90(pixels, turns) if turns % 4 else pixels
