"""Reading a sub-network out of a file of weights: its slices alone, whatever the size of the file (POA).

A safetensors file is a header, which says where each tensor lies, and the numbers, row by row. A slice of a tensor is
some runs of bytes in it; these are read, and no others, into the tensors of the smaller encoder.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from foundation import schema
from foundation.encoders.elastic import Index, Leading, Piece, SubNetwork, size_named
from foundation.errors import UserError
from foundation.printable import printable
from foundation.seeded import seeded
from foundation.weights import DTYPES, unfilled

_TORCH = {name: dtype for dtype, name in DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # bytes, as the format allows


class _Place(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        dtype: of its numbers.
        shape: of the whole.
        begin: first byte, from the beginning of the file.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


class SliceReader:
    """A safetensors file of which parts of tensors are read.

    Args:
        path: of the file, for messages.
        descriptor: of the file.

    Attributes:
        places: of the tensors, by name.
        bytes_read: so far, the header among them.

    Raises:
        UserError: it is no such file, or is damaged.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor, self.bytes_read = path, descriptor, 0
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(self._read(0, min(8, size)), "little")
        if size < 8 or not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise self._damaged("it is no safetensors file")
        found: Any = schema.parse(self._read(8, length), str(path))
        if not isinstance(found, dict):
            raise self._damaged("its header is no mapping")
        found.pop("__metadata__", None)
        self.places = {name: self._place(name, facts, 8 + length, size) for name, facts in found.items()}

    def _place(self, name: str, facts: Any, begin: int, size: int) -> Place:
        known = schema.check(_Place, facts, f"{self.path}, {printable(name[:60])}")
        first, last = known["data_offsets"]
        dtype, shape = _TORCH.get(known["dtype"]), tuple(known["shape"])
        if dtype is None:
            raise self._damaged(f"{name!r} is of {known['dtype']!r}, which is not read here")
        wanted = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or first < 0 or last - first != wanted or begin + last > size:
            raise self._damaged(f"{name!r} does not lie where it should")
        return Place(dtype, shape, begin + first)

    def piece(self, piece: Piece) -> Tensor:
        """A piece of a tensor, in the precision of the file and without the piece's factor.

        Raises:
            UserError: the file ends too early.
        """
        place = self.places[piece.source]
        whole = [slice(None)] * (len(place.shape) - len(piece.index))
        kept = [runs(one, length) for one, length in zip([*piece.index, *whole], place.shape, strict=True)]
        shape = [sum(stop - start for start, stop in axis) for axis in kept]
        numbers = torch.empty(shape, dtype=place.dtype)
        target: Any = numbers.view(-1).view(torch.uint8).numpy().data if numbers.numel() else memoryview(b"")
        filled = 0
        for start, count in _contiguous(kept, place.shape):
            size = count * place.dtype.itemsize
            self._fill(target[filled : filled + size], place.begin + start * place.dtype.itemsize)
            filled += size
        return numbers

    def _read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data), offset)
        return bytes(data)

    def _fill(self, target: memoryview, offset: int) -> None:
        while target:
            read = os.preadv(self._descriptor, [target], offset)
            if not read:
                raise self._damaged("it ends too early")
            self.bytes_read += read
            target, offset = target[read:], offset + read

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path} is damaged: {printable(what)}")


@contextmanager
def opened(path: Path) -> Iterator[SliceReader]:
    """A file of weights, open for reading slices.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with schema.opened(path) as file:
            yield SliceReader(path, file.fileno())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None


def runs(index: Index, length: int) -> list[tuple[int, int]]:
    """Which entries of an axis an index takes, as beginnings and ends, in its order."""
    if isinstance(index, Leading):
        share = length // index.parts
        return _joined([(part * share, part * share + index.count) for part in range(index.parts)])
    if isinstance(index, Tensor):
        return _joined([(number, number + 1) for number in index.tolist()])
    return _joined([(number, number + 1) for number in range(*index.indices(length))])


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def _contiguous(kept: Sequence[Sequence[tuple[int, int]]], shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First number and count of each run of numbers that lie together, in the order of the result."""
    if 0 in shape or any(not axis for axis in kept):
        return
    partial = [axis for axis, ranges in enumerate(kept) if list(ranges) != [(0, shape[axis])]]
    last = max(partial, default=0)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if not shape:
        yield 0, 1
        return
    outer = [[number for start, stop in kept[axis] for number in range(start, stop)] for axis in range(last)]
    for numbers in itertools.product(*outer):
        begin = sum(number * stride for number, stride in zip(numbers, strides, strict=False))
        for start, stop in kept[last]:
            yield begin + start * strides[last], (stop - start) * strides[last]


def read_sub_network(
    path: Path, encoder_config: Any, width: int | None, depths: Sequence[int] | None
) -> tuple[nn.Module, SubNetwork, int]:
    """The encoder of a sub-network, its weights read out of the file of the whole.

    Args:
        path: weights of the whole, which have been found to fit ``encoder_config``.
        encoder_config: Config of the whole, which must not fetch weights.
        width: of the sub-network; None: the whole one.
        depths: likewise; see :func:`foundation.encoders.elastic.size_named`.

    Returns:
        What :func:`foundation.encoders.elastic.stand_alone` gives, bit for bit; its size; the bytes that were read.

    Raises:
        UserError: the encoder has no such sub-network, or the file is damaged.
    """
    with opened(path) as reader:
        whole: Any = unfilled(encoder_config, len(reader.places), str(path))
        size = size_named(whole, width, depths)
        part = whole.slice_of(size)
        with seeded(0):
            alone: nn.Module = part.config.build()
        part.prepare(alone)
        types = {name: tensor.dtype for name, tensor in whole.state_dict().items()}
        tensors = {}
        for name in alone.state_dict():
            piece = part.pieces[name]
            # First into the precision of the whole encoder, then times the factor: as if all had been loaded.
            numbers = reader.piece(piece).to(types[piece.source])
            tensors[name] = replace(piece, index=()).of(numbers)
        alone.load_state_dict(tensors)
    return alone, size, reader.bytes_read
