"""Checkpoints: folders of safetensors and JSON that appear whole or not at all, and that are verified before use.

``step-00000123/`` holds the tensors of the training state, ``state.json`` its numbers, and ``MANIFEST.json`` size and
SHA-256 of every other file, keys, shapes and dtypes of the tensors, and a checksum of itself. It is written under a
temporary name, synced, and renamed; it is removed by being renamed first. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.checkpoints.manifest import (
    MANIFEST,
    STATE,
    WHOLE,
    Contents,
    FileEntry,
    Manifest,
    digest_of,
    files,
    files_of,
    manifest_of,
    name_of,
    own_checksum,
    problem,
    read_state,
    sha256,
    step_of,
    steps,
)
from foundation.checkpoints.reader import Reader
from foundation.errors import UserError
from foundation.files import TEMPORARY, sync_file, sync_folder, write_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MANIFEST", "STATE", "FileEntry", "Manifest", "Reader", "WriteError", "clean", "complete", "digest_of", "files",
    "files_of", "free_bytes", "manifest_of", "name_of", "newest", "problem", "prune", "read", "read_for", "remove",
    "require_room", "savable", "sha256", "step_of", "steps", "temporary_of", "write",
]  # fmt: skip


class WriteError(UserError):
    """A checkpoint that could not be written, most often because the disk is full.

    Attributes:
        path: of the checkpoint.
        needed: bytes that it takes.
        free: bytes left on the disk.
    """

    def __init__(self, path: Path, reason: object, needed: int, free: int) -> None:
        super().__init__(f"cannot write checkpoint {path}: {reason} (needs {needed:,} bytes, {free:,} free)")
        self.path, self.needed, self.free = path, needed, free


def write(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    begun: float | None = None,
) -> Path:
    """Write the checkpoint of one step, by this process alone.

    Args:
        root: the run's ``checkpoints`` folder.
        step: optimiser steps done.
        tensors: by group (the name of their file), then by key; on any device, none of them sharded. They must not
            change before this returns.
        state: JSON values.
        begun: ``time.perf_counter()`` when saving began, for the duration in the manifest; None: now.

    Returns:
        The finished folder. An existing valid checkpoint of the same step is kept as it is.

    Raises:
        WriteError: when the disk is full or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    begun = time.perf_counter() if begun is None else begun
    final = root / name_of(step)
    if final.exists() and problem(final) is None:
        return final
    temporary = temporary_of(final)
    numbers = json.dumps(dict(state), indent=1).encode()
    needed = len(numbers) + sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    try:
        require_room(root, needed)
        temporary.mkdir()
        write_file(temporary / STATE, numbers)
        for name, group in tensors.items():
            path = temporary / f"{name}.safetensors"
            save_file(savable(group), path)
            sync_file(path)
        written: dict[str, FileEntry] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(temporary.iterdir())
        }
        contents: Contents = {
            name: {key: (str(t.dtype).removeprefix("torch."), list(t.shape)) for key, t in group.items()}
            for name, group in tensors.items()
        }
        complete(temporary, final, {"format": WHOLE, "files": written, "tensors": contents}, begun)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        shutil.rmtree(temporary, ignore_errors=True)  # before the free room is looked at
        raise WriteError(final, error, needed, free_bytes(root)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def temporary_of(final: Path) -> Path:
    """A name for a checkpoint while it is written, which no other writer has."""
    return final.with_name(f"{final.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")


def require_room(root: Path, needed: int) -> None:
    """Make the folder of the checkpoints, and refuse to fill its disk for those who log on it.

    Raises:
        OSError: there is not so much room.
    """
    root.mkdir(parents=True, exist_ok=True)
    if free_bytes(root) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def complete(temporary: Path, final: Path, facts: Mapping[str, Any], begun: float) -> None:
    """Write the manifest of a checkpoint whose other files are written and synced, and give it its name.

    Args:
        temporary: the folder, as it is.
        final: the folder, as it shall be.
        facts: ``format``, ``files`` and ``tensors`` of the manifest, and what else it says.
        begun: ``time.perf_counter()`` when saving began.

    Raises:
        OSError: it cannot be done; nothing lies under the final name then.
    """
    manifest = {**facts, "step": step_of(final), "time": time.time(), "seconds": time.perf_counter() - begun}
    manifest["manifest_sha256"] = own_checksum(manifest)
    write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_folder(temporary)
    if final.exists():  # an invalid one: it could not be loaded, so nothing is lost
        remove(final)
    temporary.replace(final)
    sync_folder(final.parent)


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free
    except OSError:  # storage that does not answer has no room either
        return 0


def savable(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, and none sharing memory with another, as tied weights
    do."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        result[key] = plain.clone() if address in seen else plain
        seen.add(address)
    return result


def newest(root: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest checkpoint of which every byte holds, and the newer ones that were passed over with the reason."""
    skipped: list[tuple[Path, str]] = []
    for folder in reversed(steps(root)):
        reason = problem(folder)
        if reason is None:
            return folder, skipped
        skipped.append((folder, reason))
    return None, skipped


def read(
    folder: Path, names: tuple[str, ...] | None = None, *, verify: bool = True
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Whole tensors by group and key, and the state's numbers.

    Args:
        folder: a checkpoint, of one process or of many.
        names: groups to read; None reads all.
        verify: compare every byte with the manifest first; False for one that :func:`newest` has just verified.

    Raises:
        UserError: when the checkpoint is not valid, with the reason.
    """
    reason = problem(folder, hashes=verify)
    if reason is not None:
        raise UserError(f"checkpoint {folder} cannot be used: {reason}")
    with Reader(folder) as reader:
        wanted = names if names is not None else tuple(reader.contents)
        missing = [name for name in wanted if name not in reader.contents]
        if missing:
            raise UserError(f"checkpoint {folder} lacks {', '.join(missing)}")
        tensors = {name: {key: reader.tensor(name, key) for key in reader.contents[name]} for name in wanted}
    return tensors, read_state(folder)


def read_for(folder: Path, wanted: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a verified checkpoint, spread over processes as others are: each reads the part that it needs.

    Args:
        folder: a checkpoint, of any number of processes.
        wanted: plain or sharded tensors of the same shapes, by group and key.

    Returns:
        Plain tensors whole, on the CPU; sharded ones like those that are wanted. A wanted group without tensors is read
        whole.

    Raises:
        UserError: a tensor is not there, or its file is damaged.
    """
    from foundation.parallel.blocks import block_of
    from foundation.parallel.shards import laid_out_as

    found: dict[str, dict[str, Tensor]] = {}
    with Reader(folder) as reader:
        for name, group in wanted.items():
            found[name] = {}
            for key in group or reader.contents.get(name, {}):
                if key not in group:
                    found[name][key] = reader.tensor(name, key)
                    continue
                block = block_of(group[key])
                read = reader.block(name, key, block.offsets, block.tensor.shape)
                found[name][key] = laid_out_as(read, group[key])
    return found


def remove(folder: Path) -> None:
    """Remove a checkpoint; killed in the middle, what is left counts as a leftover and not as a damaged checkpoint."""
    if folder.is_symlink():  # what it leads to is another's
        folder.unlink()
        return
    doomed = folder.with_name(f"{folder.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
    folder.replace(doomed)
    shutil.rmtree(doomed)


def clean(root: Path) -> list[str]:
    """Remove what interrupted writes have left, and name it. Only for the process that holds the run's lock."""
    leftovers = sorted(path for path in root.glob("*") if TEMPORARY in path.name)
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return [path.name for path in leftovers]


def prune(root: Path, keep: int) -> None:
    """Remove leftovers of interrupted writes and all but the newest ``keep`` checkpoints."""
    clean(root)
    for folder in steps(root)[:-keep]:
        remove(folder)
