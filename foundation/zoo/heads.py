"""Heads of a branch beside its exported encoder, so that one can go on training from an export with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from foundation.checkpoints import checkpoint, stream
from foundation.errors import UserError
from foundation.weights import check_finite, header
from foundation.zoo.entry import HEADS


class HeadsFile(TypedDict):
    """What an encoder's card says of the heads beside it.

    Attributes:
        file: its name.
        sha256: of the file.
        names: of the heads, as in the recipe.
    """

    file: str
    sha256: str
    names: list[str]


def path_of(weights: Path) -> Path:
    """Where the heads of an encoder's file lie."""
    return weights.with_suffix(HEADS)


def write_heads(weights: Path, tensors: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> HeadsFile | None:
    """Write the heads beside an encoder; one tensor at a time is asked for.

    Args:
        weights: file of the encoder.
        tensors: by ``HEAD.NAME``; dtypes and shapes alone count.
        read: gives a tensor by its name.

    Returns:
        For the card; None where the branch has no heads (a file of an earlier export is removed).
    """
    path = path_of(weights)
    if not tensors:
        path.unlink(missing_ok=True)
        return None
    digest = stream.write(path, tensors, read)
    return {"file": path.name, "sha256": digest, "names": names_of(tensors)}


def names_of(tensors: Mapping[str, object]) -> list[str]:
    """Names of the heads that tensors belong to."""
    return [*dict.fromkeys(name.partition(".")[0] for name in tensors)]


def read_heads(weights: Path, said: HeadsFile) -> dict[str, Tensor]:
    """The heads beside an export, by ``HEAD.NAME``.

    Raises:
        UserError: they are missing, damaged or not those of the card.
    """
    from safetensors.torch import load_file

    path = path_of(weights)
    if not path.is_file() or said["file"] != path.name:
        raise UserError(f"the card of {weights} tells of heads in {path.name}, which are not beside it: copy both")
    header(path)
    if (found := checkpoint.sha256(path)) != said["sha256"]:
        raise UserError(f"checksum mismatch: {path} is {found[:12]}…, the card of {weights.name} says otherwise")
    tensors = load_file(path)
    check_finite(tensors, str(path))
    return tensors


def reader_of(weights: Path, said: HeadsFile | None) -> Callable[[], dict[str, Tensor]] | None:
    """What reads the heads of an export when they are wanted; None where it has none."""
    return None if said is None else partial(read_heads, weights, said)
