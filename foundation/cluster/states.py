"""How jobs stand: what the queue says, what the run folder says, and what the processes left when they ended."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from foundation import schema
from foundation.cluster import endings, records, slurm
from foundation.cluster.records import JobOfLaunch, Launch
from foundation.errors import FoundationError, UserError
from foundation.plugins import near
from foundation.printable import printable
from foundation.run import runs
from foundation.voice import to_stderr

State: TypeAlias = Literal["waiting", "running", "ending", "done", "failed", "stopped", "lost", "unknown"]
_OF_SLURM: dict[str, State] = {
    "PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUED": "waiting", "REQUEUE_HOLD": "waiting",
    "SPECIAL_EXIT": "waiting", "RUNNING": "running", "SUSPENDED": "running", "STOPPED": "running",
    "COMPLETING": "ending", "PREEMPTED": "ending", "COMPLETED": "done", "CANCELLED": "stopped",
}  # fmt: skip
_PROCESSES = Path("/proc")  # as ps knows them, but whole and as bytes: ps masks letters where the locale is C
_WATCHER = (b"-m", b"submitit.local._local")  # arguments of the process that watches over a local job, then its folder


@dataclass(frozen=True)
class JobState:
    """One job and its run.

    Attributes:
        id: number of the job: SLURM's, or that of the process that watches over a local one.
        on: ``slurm`` or ``local``.
        folder: of the launch.
        run: the run folder.
        state: ``waiting`` in the queue (again, perhaps); ``running``; ``ending``; ``done``; ``failed``; ``stopped`` by
            ``foundation jobs stop`` or scancel; ``lost``: nobody works on it and it is not done; ``unknown``: the
            queue cannot be asked from here.
        nodes: where it runs or ran.
        step: optimiser steps done.
        total: at which it ends.
        loss: last one known.
        restarts: how often it was started again.
        seconds: since its last start, or that it took.
        reason: why it waits, failed or was stopped.
        code: exit code, None as long as it has none.
        notes: processes that are behind or silent.
        script: batch script of the job that the queue has under this number; empty for a local job.
    """

    id: str
    on: str
    folder: Path
    run: Path
    state: State
    nodes: str = ""
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    restarts: int = 0
    seconds: float | None = None
    reason: str = ""
    code: int | None = None
    notes: tuple[str, ...] = ()
    script: str = ""

    @property
    def over(self) -> bool:
        """Whether nobody works on it any more, and nobody will."""
        return self.state in ("done", "failed", "stopped", "lost")

    @property
    def log(self) -> Path:
        """Output of its first process."""
        return records.log_of(self.folder, self.id, 0)

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        found = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        return found | {"log": str(self.log)}


def of_launch(folder: Path) -> list[JobState]:
    """The jobs of a launch.

    Raises:
        FormError: what is kept of it is damaged.
        FileNotFoundError: there is none.
    """
    launch = records.read_launch(folder)
    entries: dict[str, slurm.QueueEntry] | None = {}
    if launch["on"] == "slurm":
        try:
            entries = slurm.entries(job["id"] for job in launch["jobs"])
        except FoundationError:
            entries = None
    return [_state(folder, launch, job, entries) for job in launch["jobs"]]


def find(folders: list[Path]) -> Iterator[JobState]:
    """The jobs below some folders, the oldest launch first.

    Raises:
        UserError: there is no such folder.
    """
    seen: set[Path] = set()
    found: list[JobState] = []
    for root in folders:
        if not root.is_dir():
            raise UserError(f"no folder {root}")
        for folder in records.launches(root.absolute()):
            if folder not in seen:
                seen.add(folder)
                found += [job for job in _readable(folder) if _belongs(job, root.absolute())]
    newest = {job.run: job for job in found}
    for job in found:  # step and loss stand in the run folder, and are those of the last job that trained there
        yield job if job is newest[job.run] else replace(job, step=None, total=None, loss=None)


def _readable(folder: Path) -> list[JobState]:
    """The jobs of a launch; of one that is damaged, none, and a line of warning: the others are shown all the same."""
    try:
        return of_launch(folder)
    except FileNotFoundError:  # removed in the meantime
        return []
    except schema.FormError as error:
        to_stderr(f"foundation: this launch is left out: {error}")
    except (OSError, UserError) as error:  # what it names cannot be looked at
        to_stderr(f"foundation: this launch is left out: {folder / records.LAUNCH}: {error}")
    return []


def require_own(job: JobState) -> None:
    """Refuse to touch what does not come from the launch of a job.

    Numbers are used again, and a folder may come from somebody else, whose ``launch.json`` could name any process or
    job of yours. What is touched is a local job whose process watches over this very folder, or a job whose batch
    script lies in it; and the folder is ``RUN/jobs/TIME``, or that of the sweep beside the run.

    Raises:
        UserError: it is something else.
    """
    place = job.folder.parent.parent
    mine = job.folder.parent.name == records.JOBS and any(_same(place, other) for other in (job.run, job.run.parent))
    if not mine:
        raise UserError(
            f"job {job.id} is left alone: {printable(job.folder)} is no folder of a launch into {printable(job.run)}"
        )
    if job.on == "local" and not _lives(job.id, job.folder):
        raise UserError(
            f"job {job.id} is left alone: "
            + (job.reason or f"the process of this number does not belong to {printable(job.folder)}")
        )
    if job.on == "slurm" and not (job.script and _same(Path(job.script).parent, job.folder)):
        raise UserError(
            f"job {job.id} is left alone: the queue's job of this number was not launched from "
            f"{printable(job.folder)} (its script: {printable(job.script) or 'none'}). Where it is the one that you "
            f"mean: scancel {job.id}"
        )


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _belongs(job: JobState, root: Path) -> bool:
    """Whether a job trains below a folder; launches of a sweep are found from each of its runs."""
    return job.run == root or root in job.run.parents or root in job.folder.parents


def living(folders: Iterable[Path]) -> list[JobState]:
    """Jobs that train, or will train, into some run folders; each launch is read once."""
    wanted = set(folders)
    places = wanted | {run.parent for run in wanted}
    launches = {path.parent for place in places for path in (place / records.JOBS).glob(f"*/{records.LAUNCH}")}
    jobs = [job for folder in sorted(launches) for job in _readable(folder)]
    return [job for job in jobs if job.run in wanted and job.state in ("waiting", "running", "ending")]


def named(words: list[str], default: Path) -> list[JobState]:
    """The jobs that a person names by numbers or folders; of a folder the newest job of each run.

    Args:
        words: numbers and folders.
        default: folder in which numbers are looked for.

    Raises:
        UserError: there is no such job.
    """
    found: dict[tuple[Path, str], JobState] = {}
    for word in words:
        if Path(word).is_dir():
            newest = {job.run: job for job in find([Path(word)])}
            if not newest:
                raise UserError(f"no job was launched into {word}")
            found |= {(job.folder, job.id): job for job in newest.values()}
            continue
        known = list(find([default])) if default.is_dir() else []
        jobs = [job for job in known if job.id == word or job.id.partition("_")[0] == word]
        if not jobs:
            similar = near(word, [job.id for job in known])
            raise UserError(
                f"no job {word} was launched into a folder below {default}{similar} ('foundation jobs' lists them; a "
                "run elsewhere is named by its folder)"
            )
        found |= {(job.folder, job.id): job for job in jobs}
    return list(found.values())


def _state(folder: Path, launch: Launch, job: JobOfLaunch, entries: dict[str, slurm.QueueEntry] | None) -> JobState:
    run, ends = Path(job["run"]), records.start_ends(folder, job["id"])
    summary = runs.summary(run) if runs.is_run(run) else None
    entry = None if entries is None else entries.get(job["id"])
    state, reason = _local(folder, job["id"], launch, summary) if launch["on"] == "local" else _slurm(entry, entries)
    last = ends[-1] if ends else None
    if state == "lost" and last is not None and last["decision"] in ("done", "failed"):
        state = "done" if last["decision"] == "done" else "failed"
    if state == "lost" and summary is not None and summary.state in ("done", "failed", "stopped"):
        state = "done" if summary.state == "done" else "failed" if summary.state == "failed" else "stopped"
    if state == "failed" and last is not None:
        reason = last["reason"]
    if state in ("failed", "lost", "stopped") and not reason and summary is not None and summary.reason:
        reason = summary.reason
    log = records.log_of(folder, job["id"], 0)
    return JobState(
        id=job["id"],
        on=launch["on"],
        folder=folder,
        run=run,
        state=state,
        nodes=entry.nodes if entry else launch["host"] if launch["on"] == "local" else "",
        step=None if summary is None else summary.step,
        total=None if summary is None else summary.total,
        loss=None if summary is None else summary.loss,
        restarts=entry.restarts if entry else max(0, records.starts(folder, job["id"]) - 1),
        seconds=entry.seconds if entry else _age(launch, log, state),
        reason=reason,
        code=last["code"] if last and state in ("failed", "done") else None,
        notes=tuple(endings.behind(run, _begun(entry))) if state == "running" else (),
        script=entry.script if entry else "",
    )


def _begun(entry: slurm.QueueEntry | None) -> float:
    """When this start of a job began, in seconds since 1970; 0 where the queue does not say."""
    return 0.0 if entry is None or entry.seconds is None else time.time() - entry.seconds


def _slurm(entry: slurm.QueueEntry | None, entries: dict[str, slurm.QueueEntry] | None) -> tuple[State, str]:
    if entries is None:
        return "unknown", "the queue cannot be asked from this machine"
    if entry is None:
        return "lost", ""
    state = _OF_SLURM.get(entry.state, "failed")
    if state == "waiting":
        return state, entry.reason
    return state, entry.state.lower().replace("_", " ") if state in ("failed", "stopped") else ""


def _local(folder: Path, job: str, launch: Launch, summary: runs.RunSummary | None) -> tuple[State, str]:
    if launch["host"] != socket.gethostname():
        running = summary is not None and summary.state == "running"
        return ("running" if running else "unknown"), f"launched on {launch['host']}: ask there"
    return ("running" if _lives(job, folder) else "lost"), ""


def _lives(pid: str, folder: Path) -> bool:
    """Whether a process is the one that watches over a local job: numbers are used again."""
    if not pid.isdigit() or int(pid) < 2:
        return False
    if not _PROCESSES.is_dir():
        asked = subprocess.run(["ps", "-ww", "-p", pid, "-o", "args="], capture_output=True)
        said = asked.stdout.rstrip(b"\n")
        return any(said.endswith(b" ".join([*_WATCHER, os.fsencode(name)])) for name in {folder, folder.resolve()})
    try:
        words = (_PROCESSES / pid / "cmdline").read_bytes().removesuffix(b"\0").split(b"\0")
    except OSError:
        return False
    return len(words) == 4 and tuple(words[1:3]) == _WATCHER and _same(Path(os.fsdecode(words[3])), folder)


def _age(launch: Launch, log: Path, state: State) -> float | None:
    if state == "running":
        return time.time() - launch["time"]
    try:
        return max(0.0, os.stat(log).st_mtime - launch["time"])
    except OSError:
        return None
