"""Reading the tensors of a checkpoint, whole or sharded, one at a time or only the part that is wanted."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from foundation import schema
from foundation.checkpoints import manifest
from foundation.errors import UserError
from foundation.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

SHARDING = "DCP_SHARDING_INFO"
"""Where torch.distributed.checkpoint notes, in a file of shards, at which offsets of the tensors they begin."""
_MOST_OPEN = 64


class Saved(TypedDict):
    """Where a shard begins in its tensor."""

    saved_offsets: list[int]


@dataclass(frozen=True)
class _Piece:
    file: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Reader:
    """The tensors of one checkpoint, whose files should have been verified. Close it, or use it in a ``with`` block.

    Args:
        folder: the checkpoint.

    Attributes:
        contents: dtype and shape by group and key.

    Raises:
        UserError: there is no manifest that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = manifest.manifest_of(folder)
        self.contents = self._manifest["tensors"]
        self._pieces: dict[str, dict[str, list[_Piece]]] = {}
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].__exit__(None, None, None)

    def tensor(self, group: str, key: str) -> Tensor:
        """A whole tensor.

        Raises:
            UserError: it is not there, or its file does not hold what the manifest says.
        """
        shape = self._described(group, key)[1]
        return self.block(group, key, [0] * len(shape), shape)

    def block(self, group: str, key: str, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """A rectangular part of a tensor; no other part is read.

        Args:
            group: such as ``student``.
            key: in the group.
            offsets: where the part begins in each dimension.
            sizes: of the part, [sizes].

        Raises:
            UserError: it is not there, or its file does not hold what the manifest says.
        """
        import torch

        dtype, shape = self._described(group, key)
        result: Tensor | None = None
        for piece in self._pieces_of(group).get(key, []):
            begin = [max(a, b) for a, b in zip(offsets, piece.offsets, strict=True)]
            end = [
                min(a + n, b + m)
                for a, n, b, m in zip(offsets, sizes, piece.offsets, piece.sizes, strict=True)
            ]  # fmt: skip
            if any(b >= e for b, e in zip(begin, end, strict=True)):
                continue
            inside = tuple(slice(b - o, e - o) for b, e, o in zip(begin, end, piece.offsets, strict=True))
            part = self._slice(piece, group, key, inside)
            if str(part.dtype) != f"torch.{dtype}":
                raise self._error(f"{piece.file} has {printable(key)} as {part.dtype}, {manifest.MANIFEST} as {dtype}")
            if list(part.shape) == list(sizes):
                return part
            result = torch.zeros(tuple(sizes), dtype=part.dtype) if result is None else result
            result[tuple(slice(b - o, e - o) for b, e, o in zip(begin, end, offsets, strict=True))] = part
        if result is not None:
            return result
        if math.prod(sizes):
            raise self._error(f"no file holds {printable(key)} of {printable(group)}, shape {shape}")
        return torch.zeros(tuple(sizes), dtype=self.like(group, key).dtype)

    def like(self, group: str, key: str) -> Tensor:
        """A tensor of the same dtype and shape without memory, on the meta device.

        Raises:
            UserError: there is none, or of no kind of number that is known.
        """
        import torch

        from foundation.weights import DTYPES

        dtype, shape = self._described(group, key)
        found = next((kind for kind in DTYPES if str(kind) == f"torch.{dtype}"), None)
        if found is None or any(size < 0 for size in shape):
            raise self._error(f"{manifest.MANIFEST} has {printable(key)} as {printable(dtype)} {shape}")
        return torch.empty(shape, dtype=found, device="meta")

    def _described(self, group: str, key: str) -> tuple[str, list[int]]:
        try:
            return self.contents[group][key]
        except KeyError:
            raise UserError(f"checkpoint {self.folder} lacks {printable(key)} of {printable(group)}") from None

    def _pieces_of(self, group: str) -> dict[str, list[_Piece]]:
        """Where the tensors of a group lie: asked of its files once."""
        if group not in self._pieces:
            found: dict[str, list[_Piece]] = {}
            for file in manifest.files_of(self._manifest, group):
                for key, piece in self._read_header(file).items():
                    found.setdefault(key, []).append(piece)
            for key, (_, shape) in self.contents.get(group, {}).items():
                self._check(group, key, shape, found.get(key, []))
            self._pieces[group] = found
        return self._pieces[group]

    def _read_header(self, file: str) -> dict[str, _Piece]:
        with self._reading(file) as opened:
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            notes = (opened.metadata() or {}).get(SHARDING)
        if self._manifest["format"] == manifest.WHOLE:
            return {key: _Piece(file, (0,) * len(shape), shape) for key, shape in shapes.items()}
        try:
            known = schema.check(dict[str, Saved], schema.parse(notes or "{}", file), file)
        except schema.FormError as error:
            raise self._error(str(error)) from None
        if missing := sorted(shapes.keys() - known.keys()):
            raise self._error(f"{file} does not say which part of {printable(missing[0])} it holds")
        # The keys in the files of shards name the group as well: torch's own reader takes all files as one.
        return {
            key.partition("/")[2]: _Piece(file, tuple(known[key]["saved_offsets"]), shape)
            for key, shape in shapes.items()
        }

    def _check(self, group: str, key: str, shape: list[int], pieces: list[_Piece]) -> None:
        """The files together hold each number of a tensor once."""
        for piece in pieces:
            fits = len(piece.offsets) == len(piece.sizes) == len(shape) and all(
                o >= 0 and o + n <= most for o, n, most in zip(piece.offsets, piece.sizes, shape, strict=True)
            )
            if not fits:
                raise self._error(
                    f"{piece.file} has {printable(key)} of {printable(group)} as {list(piece.sizes)} at "
                    f"{list(piece.offsets)}, {manifest.MANIFEST} as {shape}"
                )
        held = sum(math.prod(piece.sizes) for piece in pieces)
        if held != math.prod(shape) or _overlap([piece for piece in pieces if 0 not in piece.sizes]):
            raise self._error(
                f"its files hold {held:,} of the {math.prod(shape):,} numbers of {printable(key)} of {printable(group)}"
                " or some of them twice"
            )

    def _slice(self, piece: _Piece, group: str, key: str, inside: tuple[slice, ...]) -> Tensor:
        name = key if self._manifest["format"] == manifest.WHOLE else f"{group}/{key}"
        with self._reading(piece.file) as opened:
            if all(part == slice(0, size) for part, size in zip(inside, piece.sizes, strict=True)):
                return opened.get_tensor(name)  # type: ignore[no-any-return]
            return opened.get_slice(name)[inside]  # type: ignore[no-any-return]

    @contextmanager
    def _reading(self, file: str) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            if file not in self._open:
                if len(self._open) >= _MOST_OPEN:
                    self._open.popitem(last=False)[1].__exit__(None, None, None)
                self._open[file] = safe_open(str(self.folder / file), framework="pt").__enter__()
            self._open.move_to_end(file)
            yield self._open[file]
        except (OSError, SafetensorError) as error:
            raise self._error(f"{file}: {printable(error)}") from None

    def _error(self, reason: str) -> UserError:
        return UserError(f"checkpoint {self.folder} cannot be used: {reason}")


def _overlap(pieces: Sequence[_Piece]) -> bool:
    """Whether any number of a tensor lies in two of its pieces, none of which is empty."""
    ordered = sorted(pieces, key=lambda piece: piece.offsets)
    rows = all(
        one.offsets[1:] == other.offsets[1:] and one.sizes[1:] == other.sizes[1:] for one, other in pairwise(ordered)
    )  # as shards of whole rows are: neighbours are enough
    return any(_meet(one, other) for one, other in (pairwise(ordered) if rows else combinations(ordered, 2)))


def _meet(one: _Piece, other: _Piece) -> bool:
    spans = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    return all(a < b + n and b < a + m for a, m, b, n in spans)
