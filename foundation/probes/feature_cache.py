"""Features that were computed once, kept as safetensors with their key and a SHA-256 of all that was written.

An entry is checked whole when it is read (0.5 to 2 s for a GB): one that was cut, changed, emptied, swapped for that of
another key or written by another program is named, removed and made anew. Only a pass over the data is lost.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from foundation.files import sync_file, temporary_name
from foundation.paths import user_cache
from foundation.probes.features import FeatureSet

_log = logging.getLogger("foundation.probes")


class DamagedError(Exception):
    """A cache entry that is not what was written; the message says how."""


def save_features(path: Path, features: FeatureSet, key: str) -> None:
    """Write a feature set as safetensors, whole or not at all, with its key and a digest of all of it.

    Args:
        path: of the entry.
        features: to keep.
        key: of :func:`cache_key`.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"cls.{index}": layer.contiguous() for index, layer in enumerate(features.cls)}
    keys = torch.frombuffer(bytearray(json.dumps(features.keys).encode()), dtype=torch.uint8)
    tensors |= {"patches": features.patches.contiguous(), "labels": features.labels, "keys": keys, "ids": features.ids}
    tensors["prints"] = features.prints
    if features.patches.data_ptr() == features.cls[-1].data_ptr():
        tensors["patches"] = features.patches.clone()
    note = {"key": key, "skipped": json.dumps(dict(features.skipped)), "messages": json.dumps(features.messages)}
    note["names"] = json.dumps(features.names)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        save_file(tensors, temporary, metadata=note | {"sha256": _entry_digest(tensors, note)})
        sync_file(temporary)
        temporary.replace(path)
    except SafetensorError as error:  # how it says that the folder cannot be written
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_features(path: Path, key: str) -> FeatureSet | None:
    """Read what :func:`save_features` wrote; None where there is nothing.

    Raises:
        DamagedError: something else is there: other bytes than were written, the entry of another key, no entry at all.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise DamagedError("it is no file")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            note = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DamagedError(str(error).splitlines()[0]) from error
    written = note.pop("sha256", "")
    if not written or note.get("key") is None:
        raise DamagedError("it is no entry of this cache")
    if _entry_digest(tensors, note) != written:
        raise DamagedError("its SHA-256 is not that of what was written")
    if note["key"] != key:
        raise DamagedError("it is the entry of other weights, data or settings")
    return FeatureSet(
        cls=tuple(tensors[f"cls.{index}"] for index in range(sum(name.startswith("cls.") for name in tensors))),
        patches=tensors["patches"],
        labels=tensors["labels"],
        keys=tuple(json.loads(tensors["keys"].numpy().tobytes())),
        ids=tensors["ids"],
        skipped=json.loads(note["skipped"]),
        messages=tuple(json.loads(note["messages"])),
        names=tuple(json.loads(note["names"])),
        prints=tensors["prints"],
    )


def kept_features(path: Path, key: str) -> FeatureSet | None:
    """:func:`load_features`, but a damaged entry is named, removed and counts as none."""
    try:
        return load_features(path, key)
    except DamagedError as error:
        try:
            path.unlink()
            done = "removed; the features are computed again"
        except OSError as why:
            done = f"it cannot be removed ({why.strerror}); the features are computed again and not kept"
        _log.warning(f"damaged cache entry {path}: {error}: {done}")
        return None


def keep_features(path: Path, features: FeatureSet, key: str) -> None:
    """:func:`save_features`, but where that is impossible it is only said: a cache is no reason to lose an answer."""
    try:
        save_features(path, features, key)
    except OSError as error:
        _log.warning(f"the features are not kept in {path.parent}: {error.strerror or error}")


def _entry_digest(tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(note, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def default_cache() -> Path:
    """Folder for features of models that have no run folder."""
    return user_cache() / "features"
