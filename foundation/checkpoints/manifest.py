"""The manifest of a checkpoint, by which each of its bytes can be checked, and the files that it may have.

A *whole* checkpoint, which one process has written, has one file of tensors for each group: ``student.safetensors``. A
*sharded* one, which all processes of a run have written together, has up to one for each group and process:
``student.00001-of-00004.safetensors``; each says which part of a tensor it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from foundation import schema
from foundation.errors import UserError
from foundation.printable import printable

MANIFEST = "MANIFEST.json"
STATE = "state.json"
WHOLE, SHARDED = 2, 3
"""Formats: of checkpoints that one process has written, and of those that all have written together."""
_CHUNK = 8 << 20
_MOST_MANIFEST, _MOST_STATE = 256 * schema.MEBIBYTE, 64 * schema.MEBIBYTE
_SHOW_PROGRESS_BYTES = 1_000_000_000
_NAME = re.compile(r"step-(\d{8,})")

Contents = dict[str, dict[str, tuple[str, list[int]]]]
"""Dtype and shape of tensors by group and key."""


class _InvalidError(Exception):
    pass


class FileEntry(TypedDict):
    """A file of a checkpoint: its size and SHA-256."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """What ``MANIFEST.json`` says: step, when it was written (seconds since 1970) and how long that took (seconds), the
    other files, dtype and shape of the tensors by group and key, and its own checksum; of a sharded checkpoint also the
    files by group."""

    format: int
    step: int
    time: float
    seconds: float
    files: dict[str, FileEntry]
    tensors: Contents
    parts: NotRequired[dict[str, list[str]]]
    manifest_sha256: str


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


def own_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all that a manifest says but this."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    try:
        content = schema.parse(schema.read_bytes(folder / MANIFEST, _MOST_MANIFEST), MANIFEST)
        if not isinstance(content, dict) or content.get("format") not in (WHOLE, SHARDED):
            found = content.get("format") if isinstance(content, dict) else None
            raise _InvalidError(
                f"{MANIFEST} has format {found!r}; this version of foundation reads formats {WHOLE} and {SHARDED}"
            )
        if content.get("manifest_sha256") != own_checksum(content):
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
    if (manifest["format"] == SHARDED) != ("parts" in manifest):
        raise _InvalidError(f"{MANIFEST} has files by group, which its format {manifest['format']} speaks against")
    if missing := [name for name in (STATE, *_tensor_files(manifest)) if name not in listed]:
        raise _InvalidError(f"{MANIFEST} does not list {missing[0]}")
    return manifest


def _tensor_files(manifest: Manifest) -> Iterator[str]:
    for group in manifest["tensors"]:
        yield from files_of(manifest, group)


def files_of(manifest: Manifest, group: str) -> list[str]:
    """Names of the files that hold a group of tensors."""
    if "parts" in manifest:
        return manifest["parts"].get(group, [])
    return [f"{group}.safetensors"]


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
    """Names of the groups of tensors of a checkpoint, such as ``student`` and ``optimizer``.

    Raises:
        UserError: it has no manifest that can be read.
    """
    return tuple(manifest_of(folder)["tensors"])


def digest_of(folder: Path, group: str) -> str:
    """What tells the tensors of a group from others: the SHA-256 of its file, or one of those of its files.

    Raises:
        UserError: there is no such group, or no manifest that can be read.
    """
    manifest = manifest_of(folder)
    if group not in manifest["tensors"]:
        raise UserError(f"checkpoint {folder} lacks {group}")
    digests = [manifest["files"][name]["sha256"] for name in files_of(manifest, group)]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


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
        read_state(folder)
    except (FileNotFoundError, schema.FormError) as error:
        return str(error)
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """The numbers of a checkpoint.

    Raises:
        FileNotFoundError, FormError: it has none, or they are damaged.
    """
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
