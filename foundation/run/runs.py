"""The state of runs, read from their folders: files are the truth, and no service knows better. Needs no torch.

A run's own word in ``status.json`` is believed where the process can still write; a process that was killed cannot take
its ``running`` back, so that this word counts only together with the lock and the heartbeat.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, cast

from foundation import schema
from foundation.checkpoints import checkpoint
from foundation.errors import UserError
from foundation.files import matching
from foundation.redact import redact
from foundation.run.length import total_steps
from foundation.run.lines import is_number, number_or_none, read_lines, said_of

HEARTBEATS = "heartbeat"
"""Folder in which each process says what it is at."""
SILENT_AFTER = 600.0
"""Seconds without a sign of life after which a run that says it is running is called silent."""
_MOST_BYTES = 64 << 20  # of a list whose lines are counted
_TAIL = 1 << 20  # bytes of the metrics that are read for a run's last figures
_SPEED_LINES = 20
_PARTS = ("status.json", "metrics.jsonl", "checkpoints")

T = TypeVar("T")

State = Literal["running", "done", "stopped", "failed", "silent", "new"]


class Status(TypedDict, total=False):
    """``status.json``: the run's own word on how it stands, at a time in seconds since 1970."""

    state: str
    time: float
    pid: int
    step: int
    total: int | None
    reason: str | None
    stage: str | None


class Heartbeat(TypedDict, total=False):
    """``heartbeat/rank*.json``: what a process was at, at a time in seconds since 1970."""

    time: float
    pid: int
    host: str
    rank: int
    doing: str | None
    step: int | None
    total: int | None


@dataclass
class RunSummary:
    """How one run stands.

    Attributes:
        path: of the folder.
        name: of the run.
        state: ``running``; ``done``; ``stopped`` (by a signal or ``train.stop_after``: the same command goes on);
            ``failed``; ``silent`` (says it is running, but nobody holds its lock or its heartbeat is old); ``new`` (no
            step yet).
        step: optimiser steps done.
        total: steps at which it ends, where known.
        loss: last logged.
        probes: last value of each probe figure.
        checkpoint: newest that is whole by its manifest and sizes.
        damaged: newer ones that are not, with the reason.
        started: seconds since 1970.
        updated: last sign of life, seconds since 1970.
        seconds_per_step: over the last logged lines.
        samples_per_second: last logged.
        reason: why it stopped or failed.
        stage: name of the stage that it is in; None where its recipe has none.
        doing: what it was at by its last heartbeat.
        host: where.
        pid: process number of rank 0.
        alarms: symptoms of a collapse at the last look.
        bad_steps: lines of ``bad-steps.jsonl``.
        stalls: files with the stacks of processes that hung.
        unreadable: what of the folder is damaged and counts as not there, with the reason.
    """

    path: Path
    name: str
    state: State = "new"
    step: int = 0
    total: int | None = None
    loss: float | None = None
    probes: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    damaged: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    updated: float | None = None
    seconds_per_step: float | None = None
    samples_per_second: float | None = None
    reason: str | None = None
    stage: str | None = None
    doing: str | None = None
    host: str | None = None
    pid: int | None = None
    alarms: int = 0
    bad_steps: int = 0
    stalls: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """Estimate for a running run."""
        if self.state != "running" or self.total is None or self.seconds_per_step is None:
            return None
        return max(0, self.total - self.step) * self.seconds_per_step

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        content = {name: value for name, value in vars(self).items() if name != "path"}
        return {"path": str(self.path), **content, "seconds_left": self.seconds_left}


def is_run(folder: Path) -> bool:
    """Whether a folder looks like that of a run."""
    return (folder / "recipe.yaml").is_file() and any((folder / part).exists() for part in (*_PARTS, ".lock"))


def find(root: Path) -> Iterator[Path]:
    """Run folders below a folder (itself included), in the order of their names.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}")
    for folder, folders, _ in os.walk(root):
        if is_run(Path(folder)):
            folders.clear()
            yield Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def summary(folder: Path, now: float | None = None, silent_after: float = SILENT_AFTER) -> RunSummary:
    """Read one run folder; parts that are missing or damaged count as not there.

    Args:
        folder: of the run.
        now: seconds since 1970.
        silent_after: seconds without a sign of life after which a running run is called silent.

    Raises:
        UserError: the folder holds no run.
    """
    run = standing(folder, now=now, silent_after=silent_after)
    parts = _Parts(folder)
    run.bad_steps = parts.bad_steps()
    run.unreadable += tuple(parts.problems)
    for path in reversed(checkpoint.steps(folder / "checkpoints")):
        problem = checkpoint.problem(path, hashes=False)
        if problem is None:
            run.checkpoint = path.name
            break
        run.damaged[path.name] = problem
    found = matching(folder / "stalls", "*.txt")
    run.stalls = tuple(f"stalls/{path.name}" for path in found if _size(path))
    return run


def standing(
    folder: Path,
    lines: list[dict[str, Any]] | None = None,
    recipe: Mapping[str, Any] | None = None,
    now: float | None = None,
    silent_after: float = SILENT_AFTER,
) -> RunSummary:
    """How a run stands by the files that change with its steps: no checkpoints, bad steps or stalls are looked for.

    Args:
        folder: of the run.
        lines: the last of its metrics, where the caller has them; None: read here.
        recipe: its plain values, likewise.
        now: seconds since 1970.
        silent_after: as :func:`summary` takes it.

    Raises:
        UserError: the folder holds no run.
    """
    if not is_run(folder):
        raise UserError(f"{folder} is no run folder: it has no recipe.yaml beside {', '.join(_PARTS)}")
    now = time.time() if now is None else now
    parts = _Parts(folder)
    status: Status = parts.json(Status, "status.json") or {}
    recipe = parts.recipe() if recipe is None else recipe
    lines = parts.lines(_TAIL) if lines is None else lines
    found_beats = (
        parts.json(Heartbeat, f"{HEARTBEATS}/{path.name}") for path in matching(folder / HEARTBEATS, "rank*.json")
    )
    beats = sorted((beat for beat in found_beats if beat and "time" in beat), key=lambda beat: beat["time"])
    beat = next((beat for beat in beats if beat.get("rank") == 0), Heartbeat())
    if beat.get("time", 0) < status.get("time", 0) and status.get("state") != "running":
        beat = {**beat, "step": status.get("step")}
    name = recipe.get("name")
    run = RunSummary(folder, name if isinstance(name, str) and name else folder.resolve().name)
    run.unreadable = tuple(parts.problems)
    run.started = _mtime(folder / ".lock") or _mtime(folder / "recipe.yaml")
    signs = (status.get("time"), beats[-1]["time"] if beats else None, _mtime(folder / "metrics.jsonl"))
    run.updated = max((float(sign) for sign in signs if sign), default=None)
    run.host, run.pid, run.doing = beat.get("host"), status.get("pid") or beat.get("pid"), beat.get("doing")
    reason = status.get("reason")
    run.reason = None if reason is None else redact(reason)
    run.stage = status.get("stage")
    _figures(run, lines)
    logged = lines[-1]["step"] if lines else 0
    run.step = int(beat.get("step") or max(logged, status.get("step") or 0))
    # While it is going on, a run says where it will stop this time; afterwards, how long it is as a whole.
    ended = status.get("state") != "running"
    totals = (status.get("total"), beat.get("total")) if ended else (beat.get("total"), status.get("total"))
    run.total = next(filter(None, totals), None) or total_steps(recipe, lines)
    run.state = _state(folder, status, beat, run, now, silent_after)
    return run


def _state(folder: Path, status: Status, beat: Heartbeat, run: RunSummary, now: float, silent_after: float) -> State:
    held, word = locked(folder), status.get("state")
    if not held and word in ("done", "stopped", "failed"):
        return cast(State, word)
    if not held and word is None and run.step == 0:
        return "new"
    # A fresh start has a recipe of now while heartbeat and status are still those of the attempt before.
    sign = max(run.updated or 0.0, _mtime(folder / "recipe.yaml") or 0.0) if held else float(beat.get("time") or 0.0)
    # Locks of other machines cannot be seen everywhere; their heartbeats can.
    elsewhere = beat.get("host") not in (None, socket.gethostname())
    return "running" if (held or elsewhere) and now - sign <= silent_after else "silent"


def locked(folder: Path) -> bool:
    """Whether a process holds the run folder's lock. Takes it for an instant where nobody does."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def tail(folder: Path, size: int = _TAIL) -> list[dict[str, Any]]:
    """The last lines of a run's metrics, as many as lie whole within ``size`` bytes; damaged ones are left out."""
    return _Parts(folder).lines(size)


class _Parts:
    """Reads the parts of a run folder; one that is damaged is as one that is not there, and stands in ``problems``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def json(self, form: type[T], name: str) -> T | None:
        try:
            return schema.read_json(form, self.folder / name)
        except FileNotFoundError:
            return None
        except schema.FormError as error:
            self.problems.append(str(error))
            return None

    def lines(self, last_bytes: int | None = None) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        try:
            found, damaged = read_lines(path, last_bytes)
        except schema.FormError as error:
            self.problems.append(str(error))
            return []
        self.problems += said_of(damaged, path)
        return found

    def bad_steps(self) -> int:
        try:
            return schema.read_bytes(self.folder / "bad-steps.jsonl", _MOST_BYTES).count(b"\n")
        except FileNotFoundError:
            return 0
        except schema.FormError as error:
            self.problems.append(str(error))
            return 0

    def recipe(self) -> dict[str, Any]:
        from foundation import config

        try:
            return config.read_plain(self.folder / "recipe.yaml")
        except FileNotFoundError:
            return {}
        except UserError as error:
            self.problems.append(str(error))
            return {}


def _figures(run: RunSummary, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        run.probes |= {key: value for key, value in line.items() if key.startswith("probe/") and is_number(value)}
    training = [line for line in lines if "loss" in line]
    if not training:
        return
    last = training[-1]
    run.loss = number_or_none(last["loss"])
    run.samples_per_second = number_or_none(last.get("throughput/samples_per_second"))
    run.alarms = int(number_or_none(last.get("collapse/alarms")) or 0)
    first = last
    for line in reversed(training[-_SPEED_LINES:]):
        seconds = line.get("time/seconds")
        if not is_number(seconds) or not is_number(last.get("time/seconds")) or seconds > first["time/seconds"]:
            break  # the lines of an attempt before: its clock began anew
        first = line
    if first["step"] < last["step"]:
        run.seconds_per_step = (last["time/seconds"] - first["time/seconds"]) / (last["step"] - first["step"])


def series(folder: Path, say: Callable[[str], object] | None = None) -> Iterator[tuple[int | None, dict[str, float]]]:
    """All figures of a run: those of its metrics by step, then those of its probe results (``knn/top1``).

    Args:
        folder: of the run.
        say: is told what is damaged and left out.
    """
    from foundation.probes.results import read_results

    parts = _Parts(folder)
    for line in parts.lines():
        yield line["step"], {key: float(value) for key, value in line.items() if key != "step" and is_number(value)}
    for result in read_results(folder / "probes", parts.problems.append):
        for row in result.get("results", ()):
            if row.get("name") == "model":
                yield None, {f"{result['probe']}/{k}": float(v) for k, v in row.items() if is_number(v)}
    if say is not None:
        for problem in parts.problems:
            say(problem)


def best(
    folder: Path, metric: str, lowest: bool = False, say: Callable[[str], object] | None = None
) -> tuple[float, int | None] | None:
    """The best value that a figure ever had in a run, with its step (None for a probe result), or None."""
    found = [(values[metric], step) for step, values in series(folder, say) if metric in values]
    return (min if lowest else max)(found, key=lambda item: item[0], default=None)


def objectives(folder: Path) -> str:
    """What a run minimises, as its recipe says: ``dino + ibot + 0.1 koleo``; empty where that cannot be read."""
    listed = _Parts(folder).recipe().get("objectives")
    parts = []
    for part in listed if isinstance(listed, list) else ():
        if isinstance(part, dict):
            weight = part.get("weight", 1)
            plain = not isinstance(weight, (int, float)) or weight == 1
            parts.append(f"{'' if plain else f'{weight:g} '}{part.get('name')}")
    return " + ".join(parts)


def names(folder: Path) -> set[str]:
    """Names of all figures of a run."""
    return {key for _, values in series(folder) for key in values}


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
