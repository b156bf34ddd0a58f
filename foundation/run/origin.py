"""What a run's numbers come from: code, libraries and machine, a line of ``starts.jsonl`` at each start of the run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from foundation.copied_code import commit_of
from foundation.parallel.collective import rank, world_size
from foundation.version import VERSION

if TYPE_CHECKING:
    from foundation.run.run_folder import RunFolder

STARTS = "starts.jsonl"
_SECONDS = 5.0  # that git may take


class Start(TypedDict, total=False):
    """One start of a run.

    ``time`` in seconds since 1970; ``step`` from which it went on; ``commit`` of the code and whether it was
    ``modified`` since, None where the code is in no checkout; ``device``, ``processor`` and ``precision`` as in
    checkpoints; ``cores`` that a process may use.
    """

    time: float
    step: int
    processes: int
    cores: int
    device: str
    processor: str
    precision: str
    foundation: str
    commit: str | None
    modified: bool | None
    python: str
    torch: str


def record_start(folder: RunFolder, step: int, computed: Mapping[str, str]) -> None:
    """Add the line of a start; process 0 does it for all.

    Args:
        folder: of the run.
        step: that the run goes on from.
        computed: device, processor and precision.
    """
    import torch

    if rank() != 0:
        return
    commit, modified = code()
    content: Start = {
        "time": time.time(),
        "step": step,
        "processes": world_size(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "foundation": VERSION,
        "commit": commit,
        "modified": modified,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    folder.append(STARTS, {**content, **computed})


def code() -> tuple[str | None, bool | None]:
    """Git commit of this package and whether its files differ from it; None where that is unknown.

    Of a checkout git says it, of a copy that ``foundation launch`` has made a file beside it, of a package that pip
    installed from a repository its metadata.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return commit or None, None if changed is None else bool(changed)
    if (copied := commit_of(root)) is not None:
        return copied["commit"], copied["modified"]
    return _installed(), None


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed() -> str | None:
    from importlib import metadata

    try:
        text = metadata.distribution("foundation-pretrain").read_text("direct_url.json")
        commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError, AttributeError, OSError):
        return None
    return commit if isinstance(commit, str) else None
