"""Which track of a file is its film, and when each of its frames is shown: read from packets, without decoding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundation.errors import Note
from foundation.modalities.video.selection import VideoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_PACKETS = 4_000_000  # a day at 46 frames per second; a list of more is a file made to hurt
_EXACT = ("mov", "matroska")  # containers with an index, whose seeking ends at a key frame before the time asked for
_USUAL_RATE = 25.0


@dataclass(frozen=True)
class Film:
    """A file's film.

    Attributes:
        track: number of its stream in the file.
        stamps: [T] time stamps of its frames in the order in which they are shown, ticks.
        times: [T] when each begins to be shown, seconds from the first.
        end: when the last one stops, seconds.
        keys: by packet (in the order of the file) at which decoding may begin, the stamp of its frame.
        exact: whether seeking is.
        stamped: whether every packet says when its frame is shown; else frames are told by the order in which they are
            decoded.
        notes: what is worth knowing.
    """

    track: int
    stamps: NDArray[np.int64]
    times: NDArray[np.float64]
    end: float
    keys: dict[int, int]
    exact: bool
    stamped: bool
    notes: tuple[Note, ...]


@dataclass
class _Track:
    """Packets of one stream: when each frame is shown and decoded, and whether decoding may begin there."""

    shown: list[int | None]
    decoded: list[int | None]
    keys: list[int]

    def take(self, packet: Any) -> None:
        if packet.is_keyframe:
            self.keys.append(len(self.shown))
        self.shown.append(packet.pts)
        self.decoded.append(packet.dts)
        if len(self.shown) > _MAX_PACKETS:
            raise VideoError("too_large", f"more than {_MAX_PACKETS} frames")


def find_film(container: Any) -> Film:
    """The film of an open file: of several tracks the longest, of equally long ones the one with most pixels.

    Pictures that are attached to a recording (covers) are no film. Frames before the first key frame of a broadcast,
    which nothing can decode, do not count.

    Raises:
        VideoError: reason ``missing``, ``empty``, ``decode`` or ``too_large``.
    """
    streams = film_streams(container)
    tracks = {stream.index: _Track([], [], []) for stream in streams}
    for packet in container.demux(*streams):
        if packet.size and not packet.is_discard:
            tracks[packet.stream.index].take(packet)
    if not any(track.shown for track in tracks.values()):
        raise VideoError("empty", "the video track has no frames")
    films = [_film(container, stream, tracks[stream.index]) for stream in streams if tracks[stream.index].shown]
    pixels = {stream.index: stream.codec_context.width * stream.codec_context.height for stream in streams}
    films = [film for film in films if len(film.stamps) > 1] or films  # covers that Matroska does not mark as such
    best = max(films, key=lambda film: (round(film.end, 1), pixels[film.track], -film.track))
    if len(films) == 1:
        return best
    lengths = ", ".join(f"{film.end:.4g} s" for film in films)
    said = f"{len(films)} video tracks ({lengths}): track {best.track} is read, the longest or largest"
    return Film(**{**vars(best), "notes": (*best.notes, Note("conflict", said))})


def film_streams(container: Any) -> list[Any]:
    """Video tracks of an open file that are no attached pictures and whose codec is known.

    Raises:
        VideoError: reason ``missing`` or ``decode``: there are none.
    """
    from av.stream import Disposition

    videos = container.streams.video
    if not videos:
        raise VideoError("missing", "the file has no video track")
    films = [stream for stream in videos if not stream.disposition & Disposition.attached_pic]
    if not films:
        raise VideoError("missing", "the file has no video track, only a picture attached to it (a cover)")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise VideoError("decode", "the file does not say with which codec it was made, or with an unknown one")
    return known


def _film(container: Any, stream: Any, track: _Track) -> Film:
    import numpy as np

    notes: tuple[Note, ...] = ()
    # Bare pictures, or stamps that follow the order of the file though frames are shown in another (H.264 in AVI).
    exact = any(name in _EXACT for name in container.format.name.split(","))
    shown = [stamp for stamp in track.shown if stamp is not None]
    told = exact or shown != sorted(shown) or not stream.codec_context.has_b_frames
    stamped = len(shown) == len(track.shown) and told
    rate = float(stream.average_rate or stream.guessed_rate or _USUAL_RATE)
    tick = float(stream.time_base)
    ticks = [decoded if shown is None else shown for shown, decoded in zip(track.shown, track.decoded, strict=True)]
    if None in ticks:  # a bare stream of pictures
        ticks, tick, stamped = list(range(len(ticks))), 1.0 / rate, False
        notes = (Note("missing", f"no time stamps: the frames are taken as even, {rate:g} per second"),)
    keys = {packet: int(ticks[packet] or 0) for packet in track.keys}
    all_stamps = np.unique(np.array(ticks, dtype=np.int64))
    cut_in = bool(keys) and stamped and not exact
    stamps = all_stamps[all_stamps >= min(keys.values())] if cut_in else all_stamps
    times = (stamps - stamps[0]) * tick
    # The last frame is shown as long as those before it usually are; a single one, by the nominal rate.
    last = float(np.median(np.diff(times)[-9:])) if len(times) > 1 else 1.0 / rate
    return Film(stream.index, stamps, times, float(times[-1]) + last, keys, exact, stamped, notes)


def start_for(film: Film, stamp: int) -> int:
    """Number of the packet at which decoding begins for a frame: one key frame more than needed, since those of a
    broadcast may lean on what came before. Where the file names none, the first packet."""
    before = [packet for packet, shown in film.keys.items() if shown <= stamp]
    return before[-2] if len(before) > 1 else 0


def depth_notes(context: Any, bits: Iterable[int]) -> tuple[Note, ...]:
    """That brightness of more than 8 bits, or of high dynamic range, is squeezed into 8 bits.

    Args:
        context: of the codec.
        bits: of each component of a pixel.
    """
    transfer = {16: "PQ", 18: "HLG"}.get(int(context.color_trc or 0))
    most = max(bits, default=8)
    if transfer:
        return (
            Note("range", f"high dynamic range ({transfer}, {most} bits) becomes 8 bits without tone mapping: pale"),
        )
    return (Note("range", f"{most} bits of brightness become 8"),) if most > 8 else ()
