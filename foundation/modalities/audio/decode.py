"""From the bytes of one audio file to a waveform, at the rate it was recorded with.

libsndfile (the package soundfile) reads WAV, W64, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU and CAF; PyAV, where it is
installed, AAC, ALAC, WMA and AMR in their containers. What a file is, its first bytes say, never its name. Nothing is
resampled here: the rate travels with the waveform, and the views resample what they cut out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from foundation.data import members
from foundation.data.sound import SoundError, kind_of_sound, mended
from foundation.errors import Note, SampleError, UserError
from foundation.modalities.audio.errors import AudioError
from foundation.ranges import Seconds, check
from foundation.voice import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foundation.types import Sample

EXTENSIONS = (
    *("flac", "wav", "ogg", "oga", "opus", "mp3", "aiff", "aif", "aifc", "au", "snd", "caf", "w64", "rf64"),
    *("m4a", "m4b", "aac", "mka", "weba", "wma", "amr", "ac3", "wv", "spx"),
)
"""Members that count as the sound of a sample, in the order in which they are looked for."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sampling rates in Hz between which a header is believed."""

MOST_CHANNELS = 64
_BLOCK = 1 << 16  # frames read at once: a header that promises too much costs nothing
_LOUDEST = 8.0  # times full scale; engineers leave headroom above 1, but not that much
_FFMPEG = ("mp4", "aac", "matroska", "wma", "amr", "ac3", "wv")
"""Kinds of files that only PyAV reads. Others are tried by it when libsndfile does not know their codec."""
_UNKNOWN_CODEC = (1, 4)  # libsndfile's errors: format not recognised, encoding not supported


@dataclass(frozen=True, kw_only=True)
class Config:
    """How audio files become waveforms."""

    max_seconds: Seconds = 1800.0
    """Recordings that last longer are refused before they are decoded; cut them into pieces first."""
    channels: Literal["mean", "first"] = "mean"
    """Several channels become one: their mean, or the first."""
    member: str | None = None
    """The recording's member, such as ``flac`` or ``microphone.wav``; None: the first with an audio extension."""
    label: str = "label"
    """Key of the class number in a sample's ``json`` member, used where it has no ``cls`` member."""

    def __post_init__(self) -> None:
        check(self, "decode")
        if self.channels not in ("mean", "first"):
            raise UserError(f"decode.channels is {self.channels!r}; choose mean or first")

    def build(self) -> Callable[[Mapping[str, Any]], Sample]:
        """The function from a raw sample to a sample.

        Raises:
            UserError: soundfile is not installed.
        """
        library()
        return partial(decode, config=self)


def library() -> Any:
    """The package soundfile.

    Raises:
        UserError: it is not installed, or finds no libsndfile.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise UserError(
            f"reading sound needs the package soundfile ({error}): pip install 'foundation-pretrain[audio]'"
        ) from None
    return soundfile


def decode(raw: Mapping[str, Any], config: Config | None = None) -> Sample:
    """Decodes the recording and the label of one sample.

    Args:
        raw: members of the sample by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``. An extension
            may have a prefix (``microphone.wav``); the plain one is preferred.
        config: limits; the defaults when absent.

    Returns:
        ``audio``: float32 [T] mono, full scale is 1; ``audio_rate``: int, Hz; and ``label`` where the sample has
        one, beside the ``__...__`` entries.

    Raises:
        SampleError: reason ``missing`` (no audio member), ``empty``, ``too_large``, ``truncated``, ``decode``,
            ``shape`` (a rate or a number of channels that cannot be) or ``not_finite``.
    """
    config = config or Config()
    name = members.required(raw, config.member, EXTENSIONS, "audio")
    try:
        heard = read(raw[name], config.max_seconds, config.channels)
    except AudioError as error:
        raise SampleError(*members.origin_of(raw), error.reason, f"{name} ({len(raw[name])} bytes): {error}") from None
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    import torch

    sample["audio"], sample["audio_rate"] = torch.from_numpy(heard.samples), heard.rate
    members.note(sample, *heard.notes)
    members.put_label(sample, raw, config.label)
    return sample


@dataclass(frozen=True)
class Waveform:
    """What a file sounds like.

    Attributes:
        samples: float32 [T], full scale is 1, finite.
        rate: Hz.
        kind: of the file, such as ``wav``.
        channels: of the file.
        notes: what is worth knowing.
    """

    samples: NDArray[np.float32]
    rate: int
    kind: str
    channels: int
    notes: tuple[Note, ...]


def decode_bytes(
    data: bytes, max_seconds: float = Config.max_seconds, channels: str = Config.channels
) -> tuple[NDArray[np.float32], int]:
    """The samples, float32 [T], and the rate in Hz of one audio file; see :func:`read`."""
    heard = read(data, max_seconds, channels)
    return heard.samples, heard.rate


def read(data: bytes, max_seconds: float = Config.max_seconds, channels: str = Config.channels) -> Waveform:
    """Decodes one audio file.

    Args:
        data: the file.
        max_seconds: more than this is refused.
        channels: ``mean`` or ``first``.

    Raises:
        AudioError: with its reason.
        UserError: soundfile is not installed; or PyAV, and only it can read this file.
    """
    import numpy as np

    if not data:
        raise AudioError("empty", "no bytes")
    kind = kind_of_sound(data[:32])
    if kind is None:
        raise AudioError("decode", f"begins with {data[:8]!r}, which no audio file does (WAV, FLAC, Ogg, MP3, AIFF...)")
    blocks: list[NDArray[np.float32]] = []
    frames = 0
    stream = _open(data, kind)
    most = int(max_seconds * stream.rate)
    if stream.promised > most:
        said = f"{stream.promised / stream.rate:g} s are more than max_seconds = {max_seconds:g}"
        raise AudioError("too_large", f"{said}: cut it into pieces")
    for block in stream:
        frames += len(block)
        if frames > most:
            raise AudioError("too_large", f"more than max_seconds = {max_seconds:g}")
        blocks.append(block[:, 0] if channels == "first" else block.mean(1, dtype=np.float32))
    if not frames:
        raise AudioError("empty", f"a {kind} file without a single sample")
    if frames < stream.promised and kind != "mp3":  # an MP3's length is an estimate
        raise AudioError("truncated", f"{frames} of {stream.promised} samples could be read")
    waveform = np.ascontiguousarray(np.concatenate(blocks))
    if not np.isfinite(waveform).all():
        places = np.flatnonzero(~np.isfinite(waveform))
        first = f"the first at {places[0] / stream.rate:g} s"
        raise AudioError("not_finite", f"{plural(len(places), 'sample is', 'samples are')} NaN or infinite, {first}")
    return Waveform(waveform, stream.rate, kind, stream.channels, (*stream.notes, *_notes(waveform, stream.fractions)))


def _notes(waveform: NDArray[np.float32], fractions: bool) -> Iterator[Note]:
    if not waveform.any():
        yield Note("range", "digital silence: every sample is 0")
    elif fractions and (loudest := float(abs(waveform).max())) > _LOUDEST:
        said = f"samples of up to {loudest:.6g}, where full scale is 1: divide them before they are written"
        yield Note("range", said)


def _open(data: bytes, kind: str) -> _Stream:
    try:
        data = mended(data)
    except SoundError as error:
        raise AudioError(error.reason, str(error)) from None
    cut = _cut_short(data, kind)
    if cut:
        raise AudioError("truncated", cut)
    stream = _reader(data, kind)
    if not LOWEST_RATE <= stream.rate <= HIGHEST_RATE:
        raise AudioError("shape", f"a rate of {stream.rate} Hz: expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    if not 1 <= stream.channels <= MOST_CHANNELS:
        raise AudioError("shape", f"{stream.channels} channels: expected 1 to {MOST_CHANNELS}")
    return stream


def _reader(data: bytes, kind: str) -> _Stream:
    if kind not in _FFMPEG:
        try:
            return _Libsndfile(data)
        except AudioError as error:
            cause = error.__cause__
            unknown = isinstance(cause, library().LibsndfileError) and cause.code in _UNKNOWN_CODEC
            if not unknown or kind in ("flac", "mp3"):
                raise
    from foundation.modalities.audio.ffmpeg import FFmpeg

    return FFmpeg(data, kind)


class _Stream(Protocol):
    """Sound, block by block [n, channels], full scale 1.

    Attributes:
        rate: Hz.
        channels: of the file.
        promised: samples that the header says there are; 0 where it does not say.
        fractions: whether the file holds fractions, which may exceed full scale.
        notes: what is worth knowing.
    """

    rate: int
    channels: int
    promised: int
    fractions: bool
    notes: tuple[Note, ...]

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


@lru_cache(maxsize=1)
def _forward() -> Any:
    """Files read from begin to end: soundfile seeks after each block, which a FLAC of unknown length refuses."""

    class Forward(library().SoundFile):  # type: ignore[misc, name-defined]
        def seekable(self) -> bool:
            return False

    return Forward


class _Libsndfile:
    notes: tuple[Note, ...] = ()

    def __init__(self, data: bytes) -> None:
        try:
            self._file = _forward()(io.BytesIO(data))
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise _damaged(error) from error
        self.rate, self.channels = int(self._file.samplerate), int(self._file.channels)
        known = 0 <= self._file.frames < 1 << 62  # a FLAC written to a pipe does not say how long it is
        self.promised = int(self._file.frames) if known else 0
        self.fractions = self._file.subtype in ("FLOAT", "DOUBLE")

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        with self._file as file:
            try:
                while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                    yield block
            except (RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
                raise _damaged(error) from error


def _damaged(error: Exception) -> AudioError:
    short = "end of file" in str(error).lower() or "lost sync" in str(error).lower()
    return AudioError("truncated" if short else "decode", str(error))


def facts(data: bytes) -> dict[str, Any]:
    """What the header of an audio file says: ``kind``, ``rate`` (Hz), ``channels`` and, where it is known, ``seconds``.

    Raises:
        AudioError: no audio file, cut short, or a header that cannot be.
        UserError: see :func:`read`.
    """
    kind = kind_of_sound(data[:32])
    if kind is None:
        raise AudioError("decode", f"no audio file (begins with {data[:8]!r})")
    stream = _open(data, kind)
    known = {"seconds": round(stream.promised / stream.rate, 3)} if stream.promised else {}
    return {"kind": kind, "rate": stream.rate, "channels": stream.channels} | known


def _cut_short(data: bytes, kind: str) -> str:
    """Why an Ogg file ends before its end, which its reader hides; else empty."""
    if kind == "ogg":
        last = data.rfind(b"OggS")
        segments = data[last + 26] if last + 26 < len(data) else 255
        table = data[last + 27 : last + 27 + segments]
        if len(table) < segments or last + 27 + segments + sum(table) > len(data):
            return "its last page is incomplete"
    return ""
