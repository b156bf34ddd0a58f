"""Checkpoints: folders of safetensors and JSON that appear whole or not at all, and that are verified before use.

``step-00000123/`` holds the tensors of the training state, ``state.json`` its numbers, and ``MANIFEST.json`` size and
SHA-256 of every other file. It is written under a temporary name, synced, and renamed. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from foundation.errors import UserError
from foundation.files import TEMPORARY as _TEMPORARY
from foundation.files import sync_folder, write_file

MANIFEST = "MANIFEST.json"
STATE = "state.json"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_of(step: int) -> str:
    """Folder name of a step."""
    return f"step-{step:08d}"


def write(root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of one step.

    Args:
        root: the run's ``checkpoints`` folder.
        step: optimiser steps done.
        tensors: by file name (without ``.safetensors``), then by tensor name; on the CPU, contiguous.
        state: JSON values.

    Returns:
        The finished folder. An existing valid checkpoint of the same step is kept as it is.

    Raises:
        UserError: when the disk is full or cannot be written; names path, needed and free bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = root / name_of(step)
    if final.exists() and problem(final) is None:
        return final
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f"{name_of(step)}{_TEMPORARY}{uuid.uuid4().hex[:8]}"
    needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    try:
        temporary.mkdir()
        write_file(temporary / STATE, json.dumps(dict(state), indent=1).encode())
        for name, group in tensors.items():
            path = temporary / f"{name}.safetensors"
            save_file(dict(group), path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(temporary.iterdir())
        }
        contents = {
            name: {key: [str(t.dtype).removeprefix("torch."), list(t.shape)] for key, t in group.items()}
            for name, group in tensors.items()
        }
        manifest = {"format": 1, "step": step, "files": files, "tensors": contents}
        write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_folder(temporary)
        if final.exists():  # an invalid one: it could not be loaded, so nothing is lost
            shutil.rmtree(final)
        temporary.replace(final)
        sync_folder(root)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        free = shutil.disk_usage(root).free
        raise UserError(f"cannot write checkpoint {final}: {error} (needs {needed:,} bytes, {free:,} free)") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def problem(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when every byte is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = dict(manifest["files"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}"
        if sha256(path) != expected["sha256"]:
            return f"checksum mismatch in {name}"
    return None


def steps(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first, valid or not."""
    return sorted(path for path in root.glob("step-*") if _TEMPORARY not in path.name and path.is_dir())


def newest(root: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest checkpoint whose manifest holds, and the newer ones that were passed over with the reason."""
    skipped: list[tuple[Path, str]] = []
    for folder in reversed(steps(root)):
        reason = problem(folder)
        if reason is None:
            return folder, skipped
        skipped.append((folder, reason))
    return None, skipped


def read(folder: Path, names: tuple[str, ...] | None = None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file and name, and the state's numbers.

    Args:
        folder: a checkpoint; verified here.
        names: files to read (without ``.safetensors``); None reads all.

    Raises:
        UserError: when the checkpoint is not valid, with the reason.
    """
    from safetensors.torch import load_file

    reason = problem(folder)
    if reason is not None:
        raise UserError(f"checkpoint {folder} cannot be used: {reason}")
    manifest = json.loads((folder / MANIFEST).read_text())
    wanted = names if names is not None else tuple(manifest["tensors"])
    missing = [name for name in wanted if name not in manifest["tensors"]]
    if missing:
        raise UserError(f"checkpoint {folder} lacks {', '.join(missing)}")
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in wanted}
    return tensors, json.loads((folder / STATE).read_text())


def prune(root: Path, keep: int) -> None:
    """Remove leftovers of interrupted writes and all but the newest ``keep`` checkpoints."""
    for leftover in root.glob(f"step-*{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in steps(root)[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
