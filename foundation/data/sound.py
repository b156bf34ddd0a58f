"""What kind of sound file some bytes are, where the sound lies in it, and how much: check and training read it here.

WAV (RIFF, RIFX, RF64, BW64), W64, AIFF, AU and CAF write the length of the sound in front of it. A recorder that writes
to a pipe, or was switched off, cannot know it and leaves a placeholder there: nothing, or the largest number. A
placeholder means "to the end of the file"; any other length that exceeds the file means that the file was cut off.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO

_UNKNOWN = 0x7FFFF000
"""32-bit lengths from here on are placeholders: recorders write 0x7FFFF000, 0x7FFFFFFF, 0x80000000 and 0xFFFFFFFF."""
_FORMAT_BYTES = 64  # of a WAV's format; the longest one takes 40


class SoundError(ValueError):
    """A header that cannot be followed; ``reason`` is one of :data:`foundation.errors.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Sound:
    """The sound of a file.

    Attributes:
        begin: its first byte.
        length: its bytes, all of them there.
        mends: (place, bytes) of the header that must stand there for readers that take a placeholder at its word.
        code: of a WAV's encoding (1 whole numbers, 3 fractions); 0, like the next three, for other containers.
        channels: of the sound.
        rate: Hz.
        bits: of a number.
        order: of its bytes, ``<`` or ``>``.
    """

    begin: int
    length: int
    mends: tuple[tuple[int, bytes], ...] = ()
    code: int = 0
    channels: int = 0
    rate: int = 0
    bits: int = 0
    order: str = "<"


_KINDS = {
    b"fLaC": "flac", b"OggS": "ogg", b".snd": "au", b"caff": "caf", b"ID3": "mp3", b"wvpk": "wv", b"#!AMR": "amr",
    b"\x1aE\xdf\xa3": "matroska", b"0&\xb2u\x8ef\xcf\x11": "wma", b"\x0bw": "ac3", b"ADIF": "aac",
}  # fmt: skip


def kind_of_sound(head: bytes) -> str | None:
    """Name of a container by its first 32 bytes: an allow-list, so that no library guesses; None for all others."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return "wav" if head[8:12] == b"WAVE" else None
    if head[:4] == b"riff":
        return "w64" if head[24:28] == b"wave" else None
    if head[:4] == b"FORM":
        return "aiff" if head[8:12] in (b"AIFF", b"AIFC") else None
    if head[4:8] == b"ftyp":
        return "mp4"
    for magic, name in _KINDS.items():
        if head.startswith(magic):
            return name
    # The word that frames begin with: AAC says layer 0 after it, MPEG audio 1 to 3.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac" if head[1] & 0xF0 == 0xF0 else None
    return None


def find_sound(file: IO[bytes], size: int) -> Sound | None:
    """The sound of a file whose header says how long it is; None for files of other kinds.

    Args:
        file: able to seek.
        size: bytes of it.

    Raises:
        SoundError: reason ``truncated`` or ``decode``.
    """
    head = _at(file, 0, 40)
    match kind_of_sound(head):
        case "wav":
            return _wav(file, size, head)
        case "w64":
            return _w64(file, size)
        case "aiff":
            return _aiff(file, size)
        case "au":
            return _au(head, size)
        case "caf":
            return _caf(file, size)
    return None


def mended(data: bytes) -> bytes:
    """A file whose header says how long its sound is, where it held a placeholder; the same file otherwise.

    Raises:
        SoundError: see :func:`find_sound`.
    """
    found = find_sound(io.BytesIO(data), len(data))
    if found is None or not found.mends:
        return data
    whole = bytearray(data)
    for offset, content in found.mends:
        whole[offset : offset + len(content)] = content
    return bytes(whole)


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _length(stated: int, left: int, unknown: bool) -> int:
    """Bytes of sound: as stated, or all that are left."""
    if unknown:
        return left
    if stated > left:
        raise SoundError("truncated", f"{left} of {stated} bytes of sound")
    return stated


def _wav(file: IO[bytes], size: int, head: bytes) -> Sound:
    order = ">" if head[:4] == b"RIFX" else "<"
    long = head[:4] in (b"RF64", b"BW64")
    outer = struct.unpack_from(order + "I", head, 4)[0]
    offset, wide, described = 12, 0, (0, 0, 0, 0)
    while offset + 8 <= size:
        name, stated = struct.unpack(order + "4sI", _at(file, offset, 8))
        begin = offset + 8
        if name == b"fmt ":
            described = _wav_format(_at(file, begin, min(stated, _FORMAT_BYTES)), order)
        elif name == b"ds64" and long:
            outer, wide = struct.unpack("<QQ", _at(file, begin, 16).ljust(16, b"\0"))
        elif name == b"data":
            if long and stated == 0xFFFFFFFF:
                unknown = wide >= 1 << 62 or (wide == 0 and outer <= begin)
                stated = wide
            else:
                # Nothing: only where the whole file, too, is said to end before its sound.
                unknown = stated >= _UNKNOWN and stated > size - begin
                unknown = unknown or (stated == 0 and (outer + 8 <= begin or outer >= _UNKNOWN))
            length = _length(stated, size - begin, unknown)
            mends: tuple[tuple[int, bytes], ...] = ()
            if (unknown or long) and length <= 0xFFFFFFFF:
                # As a plain WAV, which every reader knows; RF64 differs from it in its first letters and lengths alone.
                mends = ((offset + 4, struct.pack(order + "I", length)),)
                mends += ((4, struct.pack(order + "I", min(size - 8, 0xFFFFFFFF))),)
                mends += ((0, b"RIFF"),) if long else ()
            code, channels, rate, bits = described
            return Sound(begin, length, mends, code, channels, rate, bits, order)
        offset = begin + stated + stated % 2
    raise SoundError("truncated", "the file ends before its sound begins")


def _wav_format(content: bytes, order: str) -> tuple[int, int, int, int]:
    """Code, channels, rate and bits."""
    if len(content) < 16:
        raise SoundError("decode", "the format of a WAV file takes 16 bytes or more")
    code, channels, rate, _, _, bits = struct.unpack_from(order + "HHIIHH", content)
    if code == 0xFFFE and len(content) >= 26:  # the extensible form names the code further on
        (code,) = struct.unpack_from(order + "H", content, 24)
    return code, channels, rate, bits


def _w64(file: IO[bytes], size: int) -> Sound:
    offset = 40
    while offset + 24 <= size:
        head = _at(file, offset, 24)
        stated, begin = struct.unpack_from("<Q", head, 16)[0], offset + 24
        if head[:4] == b"data":
            left = size - begin
            unknown = stated >= 1 << 62 or (stated <= 24 and left > 0)
            length = _length(stated - 24, left, unknown)
            return Sound(begin, length, ((offset + 16, struct.pack("<Q", length + 24)),) if unknown else ())
        if stated < 24:
            raise SoundError("decode", f"a part of {stated} bytes at byte {offset}")
        offset += (stated + 7) // 8 * 8
    raise SoundError("truncated", "the file ends before its sound begins")


def _aiff(file: IO[bytes], size: int) -> Sound:
    offset = 12
    while offset + 8 <= size:
        name, stated = struct.unpack(">4sI", _at(file, offset, 8))
        if name == b"SSND":
            left = size - offset - 8
            length = _length(stated, left, stated == 0 or (stated >= _UNKNOWN and stated > left))
            return Sound(offset + 16, max(0, length - 8))
        offset += 8 + stated + stated % 2
    raise SoundError("truncated", "the file ends before its sound begins")


def _au(head: bytes, size: int) -> Sound:
    if len(head) < 24:
        raise SoundError("truncated", "the file ends before its sound begins")
    begin, stated = struct.unpack_from(">II", head, 4)
    left = max(0, size - begin)
    unknown = stated == 0xFFFFFFFF or (stated == 0 and left > 0)
    length = _length(stated, left, unknown)
    return Sound(begin, length, ((8, struct.pack(">I", length)),) if unknown else ())


def _caf(file: IO[bytes], size: int) -> Sound:
    offset = 8
    while offset + 12 <= size:
        name, stated = struct.unpack(">4sq", _at(file, offset, 12))
        begin = offset + 12
        if name == b"data":
            length = _length(stated, size - begin, stated == -1)
            mends = ((offset + 4, struct.pack(">q", length)),) if stated == -1 else ()
            return Sound(begin + 4, max(0, length - 4), mends)  # four bytes count the edits
        if stated < 0:
            raise SoundError("decode", f"a part of {stated} bytes at byte {offset}")
        offset = begin + stated
    raise SoundError("truncated", "the file ends before its sound begins")
