"""Video files through PyAV, whose wheel brings its own FFmpeg."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.modalities.video.film import Film, depth_notes, find_film, start_for
from foundation.modalities.video.selection import Clip, SelectionConfig, VideoError, choose, reduced
from foundation.modalities.video.torchcodec import read_frames

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOST_SHARE = 0.1  # of the wanted frames; players show the frame before in the place of one that is lost


# FFmpeg goes by content, not by name, and some of its formats are lists of other files and addresses (concat, HLS).
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,gif,asf,flv,mxf,ivf,h264,hevc"


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


def read(data: bytes, config: SelectionConfig, share: float) -> Clip:
    """Decodes the chosen frames of a file.

    Args:
        data: the file.
        config: limits, span and rate.
        share: where the span begins, see :func:`choose`.

    Raises:
        VideoError: not a video, damaged, too large or too short.
    """
    import numpy as np

    av = library()
    try:
        with open_container(data) as container:
            film = find_film(container)
            stream = container.streams[film.track]
            context = stream.codec_context
            reduced(context.height, context.width, config)
            if len(film.stamps) < stream.frames and looks_cut_off(data):
                there = f"{len(film.stamps)} of the {stream.frames} frames that it promises are there"
                raise VideoError("truncated", there)
            chosen = choose(film.times, film.end, config, share)
            reduced(context.height, context.width, config, len(chosen))
            bits = [component.bits for component in context.format.components] if context.format else []
            notes = (*film.notes, *depth_notes(context, bits))
            if config.backend == "torchcodec" and film.stamped:
                frames = read_frames(data, film.track, chosen, len(film.stamps), config)
            elif film.exact and film.stamped:
                stream.thread_type = "NONE"  # loader workers are parallel already, and one thread gives the same bits
                container.seek(int(film.stamps[chosen[0]]), stream=stream, backward=True)
                frames = _decode(container.demux(stream), film, chosen, config)
            else:
                frames = _from_the_start(data, film, chosen, config)
    except av.error.FFmpegError as error:
        reason = "truncated" if looks_cut_off(data) else "decode"
        raise VideoError(reason, str(error)) from error
    except (ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, VideoError):
            if error.reason == "corrupt" and looks_cut_off(data):
                error.reason = "truncated"
            raise
        raise VideoError("decode", f"{type(error).__name__}: {error}") from error
    ends = np.append(film.times, film.end)
    return Clip(frames, film.times[chosen], float(ends[chosen[-1] + 1]), notes)


def facts(data: bytes) -> dict[str, Any]:
    """What a file's film is like: ``codec``, ``width``, ``height``, ``fps``, ``seconds``. Decodes nothing.

    Raises:
        VideoError: (a ValueError) not a video.
        UserError: PyAV is not installed.
    """
    av = library()
    try:
        with open_container(data) as container:
            film = find_film(container)
            context = container.streams[film.track].codec_context
            if not context.width or not context.height:
                raise VideoError("decode", "the frames have no pixels")
            known = {"codec": context.name, "width": context.width, "height": context.height}
            return known | {"fps": round(len(film.stamps) / film.end, 3), "seconds": round(film.end, 3)}
    except av.error.FFmpegError as error:
        raise VideoError("decode", str(error)) from error


def every_frame(data: bytes) -> Iterator[tuple[float, Any]]:
    """All frames of a file's film as they are shown: seconds since the first, and the frame as PyAV gives it.

    Raises:
        VideoError: (a ValueError) not a video.
        UserError: PyAV is not installed.
    """
    av = library()
    try:
        with open_container(data) as container:
            film = find_film(container)
        reliable = film.exact and film.stamped
        seconds = dict(zip(film.stamps.tolist(), film.times.tolist(), strict=True))
        with open_container(data) as container:
            number = -1
            for packet in _packets(container, film, 0):
                for frame in packet.decode():
                    number += 1
                    if reliable and frame.pts in seconds:
                        yield seconds[frame.pts], frame
                    elif not reliable and number < len(film.times):
                        yield float(film.times[number]), frame
    except av.error.FFmpegError as error:
        raise VideoError("truncated" if looks_cut_off(data) else "decode", str(error)) from error


class _OutOfOrder(Exception):
    """Frames leave the decoder, which gives them as they are shown, in another order than their time stamps say."""


def _from_the_start(data: bytes, film: Film, chosen: NDArray[np.int64], config: SelectionConfig) -> NDArray[np.uint8]:
    """As :func:`_decode`, for files in which seeking or time stamps cannot be relied on: packets are passed over."""
    if film.stamped:
        first = start_for(film, int(film.stamps[chosen[0]]))
        try:
            with open_container(data) as container:
                return _decode(_packets(container, film, first), film, chosen, config)
        except _OutOfOrder:  # H.264 with B-frames in AVI: stamps follow the order of the file
            pass
    with open_container(data) as container:
        return _decode(_packets(container, film, 0), film, chosen, config, counted=True)


def _packets(container: Any, film: Film, first: int) -> Iterator[Any]:
    stream = container.streams[film.track]
    stream.thread_type = "NONE"
    number = 0
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            number += 1
            if number <= first:
                continue
        yield packet


def _decode(
    packets: Iterator[Any], film: Film, chosen: NDArray[np.int64], config: SelectionConfig, counted: bool = False
) -> NDArray[np.uint8]:
    """The chosen frames, [n, H, W, 3]; those that cannot be decoded look like the one before.

    Args:
        packets: of the film, from a key frame before the first of them on.
        film: theirs.
        chosen: [n] ascending.
        config: limits.
        counted: frames are told by how many came before, not by their time stamps.

    Raises:
        VideoError: reason ``corrupt`` or ``shape``.
    """
    import numpy as np

    av = library()
    names = chosen if counted else film.stamps[chosen]
    places = {int(name): index for index, name in enumerate(names.tolist())}
    frames: NDArray[np.uint8] | None = None
    found = np.zeros(len(chosen), dtype=bool)
    errors: list[str] = []
    convert = av.video.reformatter.VideoReformatter()  # keeps its tables from frame to frame
    number, before = -1, None
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
            number += 1
            stamp = frame.pts if frame.pts is not None else frame.dts
            if not counted and not film.exact and stamp is not None:
                if before is not None and stamp <= before:
                    raise _OutOfOrder
                before = stamp
            name = number if counted else stamp
            index = places.get(name) if name is not None else None
            if index is None or found[index]:
                continue
            pixels = _upright(frame, config, convert)
            if frames is None:
                frames = np.zeros((len(chosen), *pixels.shape), dtype=np.uint8)
            if pixels.shape != frames.shape[1:]:
                sizes = f"{frames.shape[2]} x {frames.shape[1]} to {pixels.shape[1]} x {pixels.shape[0]}"
                raise VideoError("shape", f"the size of the frames changes from {sizes} in the middle")
            frames[index], found[index] = pixels, True
    lost = int((~found).sum())
    if frames is None or lost > _LOST_SHARE * len(chosen):
        why = f" ({errors[0]})" if errors else ""
        raise VideoError("corrupt", f"{lost} of {len(chosen)} frames cannot be decoded{why}")
    if lost:
        there = np.flatnonzero(found)
        missing = np.flatnonzero(~found)
        frames[missing] = frames[there[np.clip(np.searchsorted(there, missing) - 1, 0, len(there) - 1)]]
    return frames


def _upright(frame: Any, config: SelectionConfig, convert: Any) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3], reduced and turned as the file's display matrix says."""
    import numpy as np

    height, width = reduced(frame.height, frame.width, config)
    smaller = (height, width) != (frame.height, frame.width)
    options = {"width": width, "height": height, "interpolation": "AREA"} if smaller else {}
    pixels = convert.reformat(frame, format="rgb24", **options).to_ndarray()
    turns = round(frame.rotation / 90)  # counter-clockwise
    return np.rot90(pixels, turns) if turns % 4 else pixels


def looks_cut_off(data: bytes) -> bool:
    """Whether an MP4 or MOV file says that it is longer than it is, or lacks its table of frames (ISO/IEC 14496-12)."""
    if data[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return False
    offset, names = 0, set()
    while offset + 8 <= len(data):
        size, header = int.from_bytes(data[offset : offset + 4], "big"), 8
        names.add(data[offset + 4 : offset + 8])
        if size == 1:
            size, header = int.from_bytes(data[offset + 8 : offset + 16], "big"), 16
        elif size == 0:  # to the end of the file
            size = len(data) - offset
        if size < header:
            return False
        offset += size
    return offset > len(data) or b"moov" not in names
