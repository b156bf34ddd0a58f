"""From the bytes of one audio file to a waveform, at the rate it was recorded with.

libsndfile (the package soundfile) reads WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU and CAF. Nothing is resampled
here: the rate travels with the waveform, and the views resample what they cut out.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from foundation.errors import SampleError, UserError
from foundation.modalities import members
from foundation.ranges import Seconds, check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foundation.types import Sample

EXTENSIONS = ("flac", "wav", "ogg", "oga", "opus", "mp3", "aiff", "aif", "au", "caf")
"""Members that count as the sound of a sample, in the order in which they are looked for."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sampling rates in Hz between which a header is believed."""

MOST_CHANNELS = 64
_BLOCK = 1 << 16  # frames read at once: a header that promises too much costs nothing


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
        ``audio``: float32 [T] mono, full scale is 1; ``audio_rate``: int, Hz; and ``label`` (int) where the sample has
        one, beside the ``__...__`` entries.

    Raises:
        SampleError: reason ``missing`` (no audio member), ``empty``, ``too_large``, ``truncated``, ``decode``,
            ``shape`` (a rate or a number of channels that cannot be) or ``not_finite``.
    """
    config = config or Config()
    name = members.required(raw, config.member, EXTENSIONS, "audio")
    try:
        waveform, rate = decode_bytes(raw[name], config.max_seconds, config.channels)
    except AudioError as error:
        raise SampleError(*members.place_of(raw), error.reason, f"{name} ({len(raw[name])} bytes): {error}") from None
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    import torch

    sample["audio"], sample["audio_rate"] = torch.from_numpy(waveform), rate
    label = members.label(raw, config.label)
    if label is not None:
        sample["label"] = label
    return sample


class AudioError(ValueError):
    """What is wrong with one audio file.

    Args:
        reason: one of :data:`foundation.errors.REASONS`.
        detail: for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decode_bytes(
    data: bytes, max_seconds: float = Config.max_seconds, channels: str = Config.channels
) -> tuple[NDArray[np.float32], int]:
    """Decodes one audio file.

    Args:
        data: the file.
        max_seconds: more than this is refused.
        channels: ``mean`` or ``first``.

    Returns:
        float32 [T] and the rate in Hz.

    Raises:
        AudioError: with its reason.
        UserError: soundfile is not installed.
    """
    import numpy as np

    if not data:
        raise AudioError("empty", "no bytes")
    kind = _kind(data)
    if kind is None:
        raise AudioError("decode", f"begins with {data[:8]!r}, which no audio file does (WAV, FLAC, Ogg, MP3, AIFF...)")
    cut = _cut_short(data, kind)
    if cut:
        raise AudioError("truncated", cut)
    soundfile = library()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, promised = int(file.samplerate), int(file.frames)
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise AudioError("shape", f"a rate of {rate} Hz: expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
            if not 1 <= file.channels <= MOST_CHANNELS:
                raise AudioError("shape", f"{file.channels} channels: expected 1 to {MOST_CHANNELS}")
            most = int(max_seconds * rate)
            known = 0 <= promised < 1 << 62  # a FLAC written to a pipe does not say how long it is
            if known and promised > most:
                raise AudioError("too_large", f"{promised / rate:g} s are more than max_seconds = {max_seconds:g}")
            blocks, frames = [], 0
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > most:
                    raise AudioError("too_large", f"more than max_seconds = {max_seconds:g}")
                blocks.append(block[:, 0] if channels == "first" else block.mean(1, dtype=np.float32))
    except AudioError:
        raise
    except (RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        short = "end of file" in str(error).lower() or "lost sync" in str(error).lower()
        raise AudioError("truncated" if short else "decode", str(error)) from error
    if not frames:
        raise AudioError("empty", f"a {kind} file without a single sample")
    if known and frames < promised and kind != "mp3":  # an MP3's length is an estimate
        raise AudioError("truncated", f"{frames} of {promised} samples could be read")
    waveform = np.ascontiguousarray(np.concatenate(blocks))
    if not np.isfinite(waveform).all():
        places = np.flatnonzero(~np.isfinite(waveform))
        raise AudioError(
            "not_finite", f"{len(places)} samples are NaN or infinite, the first at {places[0] / rate:g} s"
        )
    return waveform, rate


def facts(data: bytes) -> dict[str, Any]:
    """What the header of an audio file says: ``kind``, ``rate`` (Hz), ``seconds``, ``channels``. Decodes nothing.

    Raises:
        AudioError: no audio file, cut short, or a header that cannot be.
        UserError: soundfile is not installed.
    """
    kind = _kind(data)
    if kind is None:
        raise AudioError("decode", f"no audio file (begins with {data[:8]!r})")
    cut = _cut_short(data, kind)
    if cut:
        raise AudioError("truncated", cut)
    try:
        with library().SoundFile(io.BytesIO(data)) as file:
            rate, frames, channels = int(file.samplerate), int(file.frames), int(file.channels)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise AudioError("decode", str(error)) from error
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError("shape", f"a rate of {rate} Hz")
    found: dict[str, Any] = {"kind": kind, "rate": rate, "channels": channels}
    return found | ({"seconds": round(frames / rate, 3)} if 0 < frames < 1 << 62 else {})


def _kind(data: bytes) -> str | None:
    """Name of the container by its first bytes: an allow-list, so that libsndfile never guesses."""
    head = data[:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b".snd", "au"), (b"caff", "caf")):
        if head.startswith(magic):
            return name
    if head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return "mp3"
    return None


def _cut_short(data: bytes, kind: str) -> str:
    """Why a file ends before its end, for the containers whose readers hide it; else empty."""
    if kind == "wav" and data[:4] == b"RIFF":
        place = 12
        while place + 8 <= len(data):
            name, size = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
            if name == b"data":
                left = len(data) - place - 8
                # 0 and the largest numbers: written to a pipe, the length was never filled in.
                return f"{left} of {size} bytes of sound" if left < size < 0x7FFFF000 else ""
            place += 8 + size + size % 2
        return "the file ends before its sound begins"
    if kind == "ogg":
        last = data.rfind(b"OggS")
        segments = data[last + 26] if last + 26 < len(data) else 255
        table = data[last + 27 : last + 27 + segments]
        if len(table) < segments or last + 27 + segments + sum(table) > len(data):
            return "its last page is incomplete"
    return ""
