"""Parts of a measurement one after the other, each in a process with a limit, under one limit for all.

A part that crashes, hangs or is ended at its limit is reported with the end of its output and with what it has found;
the next one goes on. The results are written after every part.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation import paths
from foundation.measure.part import Settings, command, load_part

TAIL_LINES = 30
_LEAST_SECONDS = 5.0  # a part with less has no time for more than its imports
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Outcome:
    """How a part ended.

    Attributes:
        title: what was measured.
        state: ``done``, ``failed``, ``timed out`` or ``not reached``.
        seconds: taken.
        limit_seconds: allowed.
        rows: of its table.
        notes: about the table.
        tail: end of its output, where it was not done.
    """

    title: str
    state: str
    seconds: float
    limit_seconds: float
    rows: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    tail: str = ""


def run_parts(
    files: Sequence[Path],
    folder: Path,
    *,
    rehearse: bool,
    seed: int,
    seconds: float,
    begun: Callable[[str, str, float], None],
    ended: Callable[[str, Outcome, Mapping[str, Any]], None],
) -> None:
    """Run parts.

    Args:
        files: of the parts, the most wanted first.
        folder: for logs and results.
        rehearse: tiny shapes.
        seed: of everything drawn.
        seconds: for all together.
        begun: gets name, title and limit of each part that begins.
        ended: gets name and outcome of each part, and what it says of the machine.
    """
    end = time.monotonic() + seconds
    for path in files:
        module = load_part(path)
        limit = min(float(module.SECONDS), end - time.monotonic())
        if limit < _LEAST_SECONDS:
            ended(path.stem, Outcome(module.TITLE, "not reached", 0.0, max(limit, 0.0)), {})
            continue
        begun(path.stem, module.TITLE, limit)
        settings = Settings(folder / "parts" / f"{path.stem}.json", rehearse, seed, limit, folder)
        ended(path.stem, *run_part(path, module.TITLE, settings))


def run_part(path: Path, title: str, settings: Settings) -> tuple[Outcome, Mapping[str, Any]]:
    """Run one part in a process of its own, and end it and all that it has started at its limit.

    Returns:
        Its outcome, and what it says of the machine.
    """
    settings.file.parent.mkdir(parents=True, exist_ok=True)
    settings.file.unlink(missing_ok=True)
    log, start = settings.file.with_suffix(".log"), time.monotonic()
    root = str(paths.PACKAGE.parent)
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    # A part that is ended while it compiles leaves half a file, which the next one would take for a whole one.
    with log.open("wb") as output, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as compiled:
        further = {"PYTHONPATH": search, "PYTHONUNBUFFERED": "1", **_caches(compiled)}
        process = subprocess.Popen(
            command(path, settings), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | further, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(settings.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    found = json.loads(settings.file.read_text(encoding="utf-8")) if settings.file.exists() else {}
    state = "timed out" if code is None else "done" if code == 0 and found.get("whole") else "failed"
    tail = "" if state == "done" else _tail(log, code)
    outcome = Outcome(
        title, state, round(time.monotonic() - start, 1), round(settings.seconds, 1),
        found.get("rows", ()), found.get("notes", ()), tail,
    )  # fmt: skip
    return outcome, found.get("machine", {})


def _caches(folder: str) -> dict[str, str]:
    """Variables that say where torch and Triton keep what they compile."""
    return {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a part: it leads a group of its own, so that nothing else is meant."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _tail(log: Path, code: int | None) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    ended = [] if code is None or code >= 0 else [f"ended by signal {-code}"]
    return "\n".join([*lines[-TAIL_LINES:], *ended])
