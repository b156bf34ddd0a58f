"""Checkpoints: folders of safetensors and JSON that appear whole or not at all, and that are verified before use.

``step-00000123/`` holds the tensors of the training state, ``state.json`` its numbers, and ``MANIFEST.json`` size and
SHA-256 of every other file, keys, shapes and dtypes of the tensors, and a checksum of itself. It is written under a
temporary name, synced, and renamed; it is removed by being renamed first. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from foundation import schema
from foundation.errors import UserError
from foundation.files import TEMPORARY, sync_file, sync_folder, write_file
from foundation.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "MANIFEST.json"
STATE = "state.json"
FORMAT = 2
_CHUNK = 8 << 20
_MOST_MANIFEST, _MOST_STATE = 256 * schema.MEBIBYTE, 64 * schema.MEBIBYTE
_SHOW_PROGRESS_BYTES = 1_000_000_000
_NAME = re.compile(r"step-(\d{8,})")


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


class _InvalidError(Exception):
    pass


class FileEntry(TypedDict):
    """A file of a checkpoint: its size and SHA-256."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """What ``MANIFEST.json`` says: step, when it was written (seconds since 1970) and how long that took (seconds), the
    other files, dtype and shape of the tensors by file and key, and its own checksum."""

    format: int
    step: int
    time: float
    seconds: float
    files: dict[str, FileEntry]
    tensors: dict[str, dict[str, tuple[str, list[int]]]]
    manifest_sha256: str


def sha256(path: Path, seen: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: of the file.
        seen: called with the number of bytes after each part.
    """
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            if seen is not None:
                seen(count)
    return digest.hexdigest()


def name_of(step: int) -> str:
    """Folder name of a step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Step of a folder that :func:`steps` lists."""
    return int(folder.name.removeprefix("step-"))


def steps(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first, valid or not."""
    found = [path for path in root.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def write(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    begun: float | None = None,
) -> Path:
    """Write the checkpoint of one step.

    Args:
        root: the run's ``checkpoints`` folder.
        step: optimiser steps done.
        tensors: by file name (without ``.safetensors``), then by tensor name; on any device. They must not change
            before this returns.
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
    temporary = root / f"{final.name}{TEMPORARY}{uuid.uuid4().hex[:8]}"
    numbers = json.dumps(dict(state), indent=1).encode()
    needed = len(numbers) + sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    try:
        root.mkdir(parents=True, exist_ok=True)
        if free_bytes(root) < needed:  # do not fill the disk for those who log on it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        write_file(temporary / STATE, numbers)
        for name, group in tensors.items():
            path = temporary / f"{name}.safetensors"
            save_file(_savable(group), path)
            sync_file(path)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(temporary.iterdir())
        }
        contents = {
            name: {key: [str(t.dtype).removeprefix("torch."), list(t.shape)] for key, t in group.items()}
            for name, group in tensors.items()
        }
        manifest: dict[str, Any] = {"format": FORMAT, "step": step, "time": time.time()}
        manifest |= {"seconds": time.perf_counter() - begun, "files": files, "tensors": contents}
        manifest["manifest_sha256"] = _own_checksum(manifest)
        write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_folder(temporary)
        if final.exists():  # an invalid one: it could not be loaded, so nothing is lost
            remove(final)
        temporary.replace(final)
        sync_folder(root)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        shutil.rmtree(temporary, ignore_errors=True)  # before the free room is looked at
        raise WriteError(final, error, needed, free_bytes(root)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free
    except OSError:  # storage that does not answer has no room either
        return 0


def _savable(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and none sharing memory with another (as tied weights do), which the format refuses."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        result[key] = plain.clone() if address in seen else plain
        seen.add(address)
    return result


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    try:
        content = schema.parse(schema.read_bytes(folder / MANIFEST, _MOST_MANIFEST), MANIFEST)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise _InvalidError(f"{MANIFEST} has format {found!r}; this version of foundation reads format {FORMAT}")
        if content.get("manifest_sha256") != _own_checksum(content):
            raise _InvalidError(f"checksum mismatch in {MANIFEST}")
        manifest = schema.check(Manifest, content, MANIFEST)
    except FileNotFoundError:
        raise _InvalidError(f"{MANIFEST} is missing") from None
    except schema.FormError as error:
        raise _InvalidError(str(error)) from None
    if folder.name != name_of(manifest["step"]):
        raise _InvalidError(f"{MANIFEST} is of step {manifest['step']}: the folder was renamed, or files mixed up")
    listed = manifest["files"]
    if any(Path(name).name != name for name in listed):
        raise _InvalidError(f"{MANIFEST} names files outside its folder")
    if missing := [name for name in (STATE, *_tensor_files(manifest)) if name not in listed]:
        raise _InvalidError(f"{MANIFEST} does not list {missing[0]}")
    return manifest


def _tensor_files(manifest: Manifest) -> list[str]:
    return [f"{name}.safetensors" for name in manifest["tensors"]]


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        UserError: when it is missing or damaged.
    """
    try:
        return _read_manifest(folder)
    except _InvalidError as error:
        raise UserError(f"checkpoint {folder} cannot be used: {error}") from error


def files(folder: Path) -> tuple[str, ...]:
    """Names of the tensor files of a checkpoint, without ``.safetensors``.

    Raises:
        UserError: it has no manifest that can be read.
    """
    return tuple(manifest_of(folder)["tensors"])


def problem(folder: Path, *, hashes: bool = True) -> str | None:
    """Why a checkpoint cannot be used, or None.

    Args:
        folder: the checkpoint.
        hashes: read every byte; False looks at the manifest, names and sizes only.
    """
    try:
        manifest = _read_manifest(folder)
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{printable(name)} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{printable(name)} has {path.stat().st_size} bytes, not {expected['bytes']}"
    except _InvalidError as error:
        return printable(error)
    except OSError as error:
        return f"it cannot be read: {printable(error)}"
    if not hashes:
        return None
    return _hash_problem(folder, manifest["files"]) or _state_problem(folder)


def _state_problem(folder: Path) -> str | None:
    """Bytes that are those of the manifest can still be no state, when someone wrote both."""
    try:
        _read_state(folder)
    except (FileNotFoundError, schema.FormError) as error:
        return str(error)
    return None


def _read_state(folder: Path) -> dict[str, Any]:
    return schema.read_json(dict[str, Any], folder / STATE, _MOST_STATE)


def _hash_problem(folder: Path, files: Mapping[str, Any]) -> str | None:
    from tqdm import tqdm

    total = sum(expected["bytes"] for expected in files.values())
    bar = tqdm(
        total=total, unit="B", unit_scale=True, desc=f"verifying {folder.name}", leave=False,
        disable=True if total < _SHOW_PROGRESS_BYTES else None,
    )  # fmt: skip
    lock = threading.Lock()

    def seen(count: int) -> None:
        with lock:
            bar.update(count)

    def check(name: str) -> str | None:
        try:
            good = sha256(folder / name, seen) == files[name]["sha256"]
        except OSError as error:
            return f"{name} cannot be read: {error}"
        return None if good else f"checksum mismatch in {name}"

    with bar, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return next((reason for reason in pool.map(check, files) if reason is not None), None)


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
    """Tensors by file and name, and the state's numbers.

    Args:
        folder: a checkpoint.
        names: files to read (without ``.safetensors``); None reads all.
        verify: compare every byte with the manifest first; False for one that :func:`newest` has just verified.

    Raises:
        UserError: when the checkpoint is not valid, with the reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    reason = problem(folder, hashes=verify)
    if reason is not None:
        raise UserError(f"checkpoint {folder} cannot be used: {reason}")
    manifest = manifest_of(folder)
    wanted = names if names is not None else tuple(manifest["tensors"])
    missing = [name for name in wanted if name not in manifest["tensors"]]
    if missing:
        raise UserError(f"checkpoint {folder} lacks {', '.join(missing)}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in wanted:
        try:
            tensors[name] = load_file(folder / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"checkpoint {folder} cannot be used: {name}.safetensors: {printable(error)}") from None
    return tensors, _read_state(folder)


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
