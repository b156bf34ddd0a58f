"""Writing a safetensors file tensor by tensor, so that no more than one of them need be in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.files import replacing
from foundation.weights import DTYPES

_ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""In a file the widest come first, as safetensors itself has them."""


def write(path: Path | None, like: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> str:
    """Write a file of tensors, replaced whole, with the bytes that ``safetensors.torch.save`` gives.

    Args:
        path: of the file; None: nothing is written, for the processes that take part in ``read`` alone.
        like: dtype and shape of each tensor; they may be on the meta device, or sharded.
        read: gives a tensor whole, on any device; asked for each once.

    Returns:
        SHA-256 of the file, in hexadecimal; empty where none is written.

    Raises:
        OSError: it cannot be written; all tensors have been asked for then.
    """
    order = sorted(like, key=lambda key: (-_ORDER.index(DTYPES[like[key].dtype]), key))
    left = iter(order)
    try:
        if path is not None:
            return _write(path, like, order, (read(key) for key in left))
    except OSError:
        _take_part(left, read)
        raise
    _take_part(left, read)
    return ""


def _take_part(left: Iterator[str], read: Callable[[str], Tensor]) -> None:
    """Nothing is written, or no more, and other processes wait for this one in ``read``."""
    for key in left:
        read(key)


def _write(path: Path, like: Mapping[str, Tensor], order: list[str], tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    with replacing(path) as file:
        for content in chain([_header(like, order)], map(_bytes, tensors)):
            file.write(content)
            digest.update(content)
    return digest.hexdigest()


def _header(like: Mapping[str, Tensor], order: list[str]) -> bytes:
    entries, begin = {}, 0
    for key in order:
        end = begin + like[key].numel() * like[key].element_size()
        entries[key] = {"dtype": DTYPES[like[key].dtype], "shape": list(like[key].shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""
