"""What an array member (``npy``, ``npz``, ``wav``) says about itself, read without unpickling and without trusting it.

The header is read first; the numbers are then looked through in pieces, so that a header that promises terabytes costs
nothing. NPY: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html; WAV: Microsoft's RIFF, 1991.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from foundation.data.shard_bytes import MAX_MEMBER_BYTES
from foundation.data.sound import SoundError, find_sound, kind_of_sound
from foundation.errors import SampleError

ARRAYS = ("npy", "npz", "wav")
"""Extensions of which :func:`array_facts` knows something."""

PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill")
"""Extensions of files that run code when they are read. They are never opened."""

_PIECE = 1 << 20  # bytes looked through at a time
_WAV_TYPES = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "int24", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}


@dataclass(frozen=True)
class ArrayFacts:
    """One array of a member.

    Attributes:
        name: inside a member that holds several; empty otherwise.
        dtype: number type in NumPy's words.
        shape: sizes of the axes; [samples, channels] for sound.
        rate: samples per second of sound; 0 for other arrays.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rate: int = 0


class MemberFile(io.RawIOBase):
    """A member of an archive as a file of its own, for readers that want one.

    Args:
        descriptor: of the archive.
        offset: where the payload begins.
        size: of it.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        super().__init__()
        self._descriptor, self._offset, self._size, self._position = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._descriptor, wanted, self._offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def array_facts(
    file: IO[bytes], extension: str, size: int, shard: str = "", key: str = "", finite: bool = True
) -> list[ArrayFacts]:
    """Look through a member that holds numbers.

    Args:
        file: the member's bytes; must be able to seek.
        extension: of the member; what follows the last dot decides.
        size: bytes of the member.
        shard: for messages.
        key: for messages.
        finite: refuse NaN and infinity; else that is left to the decoder.

    Returns:
        One entry per array; none for a member that holds no numbers.

    Raises:
        SampleError: reason ``unsafe`` (objects, which only pickle can read), ``too_large``, ``truncated``, ``decode``
            or ``not_finite``.
    """
    kind = extension.rpartition(".")[2]
    try:
        if kind == "npy":
            return [_npy(file, size, "", finite)]
        if kind == "npz":
            return list(_npz(file, finite))
        if kind == "wav":
            return _wav(file, size, finite)
        return []
    except _Bad as bad:
        raise SampleError(shard, key, bad.reason, f"member .{extension}: {bad.detail}") from None
    except SoundError as error:
        raise SampleError(shard, key, error.reason, f"member .{extension}: {error}") from None
    except Exception as error:  # damaged headers end in zlib.error, tokenize.TokenError and more than can be listed
        said = f"{type(error).__name__}: {error}"
        raise SampleError(shard, key, "decode", f"member .{extension} is not what its name says: {said}") from error


class _Bad(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _npy(file: IO[bytes], size: int, name: str, finite: bool) -> ArrayFacts:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    where = f"{name}: " if name else ""
    if dtype.hasobject:
        raise _Bad("unsafe", f"{where}an array of objects, which only pickle could read; it is never opened")
    if any(axis < 0 for axis in shape):
        raise _Bad("decode", f"{where}impossible shape {list(shape)}")
    begin = file.tell()
    what = f"{where}{dtype} {list(shape)}"
    _look_through(file, dtype, math.prod(shape) * dtype.itemsize, size - begin, what, finite)
    return ArrayFacts(name, str(dtype), tuple(shape))


def _npz(file: IO[bytes], finite: bool) -> Iterator[ArrayFacts]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.file_size > MAX_MEMBER_BYTES:
                raise _Bad("too_large", f"{entry.filename} unpacks to {entry.file_size:,} bytes")
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as array:
                    yield _npy(array, entry.file_size, entry.filename.removesuffix(".npy"), finite)


def _wav(file: IO[bytes], size: int, finite: bool) -> list[ArrayFacts]:
    file.seek(0)
    kind = kind_of_sound(file.read(32))
    if kind is None:
        raise _Bad("decode", "not a WAV file")
    if kind != "wav":  # training goes by what a file holds, not by its name
        return []
    sound = find_sound(file, size)
    assert sound is not None
    if not (sound.channels and sound.rate and sound.bits):
        raise _Bad("decode", f"{sound.channels} channels of {sound.bits} bits at {sound.rate} Hz")
    dtype = _WAV_TYPES.get((sound.code, sound.bits), f"format {sound.code} of {sound.bits} bits")
    frames = sound.length // max(1, sound.channels * sound.bits // 8)
    numbers = np.dtype(sound.order + dtype[1:]) if dtype[:1] == "<" else np.dtype("u1")
    file.seek(sound.begin)
    whole = sound.length // numbers.itemsize * numbers.itemsize
    _look_through(file, numbers, whole, size - sound.begin, f"{dtype} [{frames}, {sound.channels}]", finite)
    return [ArrayFacts("", dtype.strip("<"), (frames, sound.channels), sound.rate)]


def _look_through(file: IO[bytes], dtype: np.dtype[Any], wanted: int, there: int, what: str, finite: bool) -> None:
    if wanted > there:
        raise _Bad("truncated", f"{what} takes {wanted:,} bytes, {max(0, there):,} are there")
    if dtype.kind not in "fc" or not finite:
        return
    left, offset = wanted, 0
    while left:
        piece = file.read(min(left, _PIECE // dtype.itemsize * dtype.itemsize))
        if not piece or len(piece) % dtype.itemsize:
            raise _Bad("truncated", f"{what} ends {left - len(piece):,} bytes early")
        good = np.isfinite(np.frombuffer(piece, dtype))
        if not good.all():
            first = offset + int(np.argmin(good))
            raise _Bad("not_finite", f"{what} has NaN or infinity, first at number {first}")
        left, offset = left - len(piece), offset + len(piece) // dtype.itemsize
