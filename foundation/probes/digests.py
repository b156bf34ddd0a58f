"""What the features of an encoder depend on, as digests: its weights, the shards, the evaluation view.

Kept features are found by them, and result files name them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from foundation.data.addresses import name_of
from foundation.data.origins import Origin

CACHE_VERSION = 4
"""Part of every cache key: raise it when the meaning of the stored numbers changes."""


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def data_digest(origins: Iterable[Origin]) -> str:
    """SHA-256 of what identifies a list of shards: the checksums of their index, else names, sizes and times of change
    (of remote ones what the server calls their version).

    The folder does not count, so that moved data keeps its features. Contents are not read: a data set may have
    terabytes.

    Args:
        origins: of :func:`foundation.probes.road.find_shards`.
    """
    digest = hashlib.sha256()
    for origin in origins:
        expected, name = origin.expected, name_of(origin.address)
        known = expected.sha256 or f"{expected.size}:{expected.tag}"
        digest.update(f"{name}:{known};".encode())
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """A config as JSON-ready values, to be hashed or written down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def cache_key(weights: str, data: str, evaluation: Any, **more: Any) -> str:
    """Name of a cache entry: changes with the weights, the data, the preprocessing and anything in ``more``."""
    content = {"version": CACHE_VERSION, "weights": weights, "data": data, "evaluation": plain(evaluation), **more}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
