"""What a launch leaves beside its run: which jobs, of which code, in which environment; and how each process ended.

::

    RUN/jobs/20300102-030405/       one launch; of a sweep beside the folders of its runs
      launch.json                   jobs and their runs, command, code, environment
      code/                         the code that the jobs run
      JOB_submission.sh             what sbatch was given
      JOB_RANK_log.out              output of each process, over all starts
      JOB_starts.json               how often the job has been started
      JOB_start2_rank0.json         how a process ended in the start that is numbered 2
      JOB_start2_end.json           what was done then, and why

A folder may come from somebody else: what is read there is a regular file, and no more of it than a bounded part.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, TypeVar

from foundation import schema
from foundation.files import replace_json
from foundation.printable import printable

JOBS = "jobs"
"""Folder of all launches, in that of the run or of the sweep."""
LAUNCH = "launch.json"
T = TypeVar("T")
_SKIPPED = ("code", "checkpoints", "export", "probes", "tensorboard", "heartbeat", "stalls")


class JobOfLaunch(TypedDict):
    """One job and the run that it trains."""

    id: str
    run: str
    words: list[str]


class Launch(TypedDict):
    """``launch.json``; ``time`` in seconds since 1970, ``host`` where the command was given."""

    on: Literal["local", "slurm"]
    time: float
    host: str
    command: list[str]
    tasks: int
    retries: int
    jobs: list[JobOfLaunch]
    code: dict[str, str | bool | None]
    environment: dict[str, str]
    options: NotRequired[dict[str, object]]


class Starts(TypedDict):
    """``JOB_starts.json``: how often a job has been started."""

    starts: int


class RankEnd(TypedDict):
    """How one process of a start ended; ``signal`` that asked it to, ``error`` in one or more lines."""

    rank: int
    host: str
    time: float
    code: int
    signal: str | None
    error: str | None


class StartEnd(TypedDict):
    """What was done when all processes of a start had ended, and why; ``asked`` is the signal that ended it."""

    start: int
    asked: str | None
    time: float
    code: int
    decision: Literal["done", "again", "failed", "left"]
    reason: str
    progress: str | None


def new_folder(root: Path) -> Path:
    """A folder for a launch that is about to be made; not made yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        path = root / JOBS / (stamp if number == 1 else f"{stamp}-{number}")
        if not path.exists():
            return path
    raise FileExistsError(root / JOBS / stamp)


def write_launch(folder: Path, launch: Launch) -> None:
    """Keep a launch in its folder."""
    replace_json(folder / LAUNCH, launch)


def read_launch(folder: Path) -> Launch:
    """The launch in a folder.

    Raises:
        FileNotFoundError: there is none.
        FormError: it is damaged, or a number of a job is none: what is said to the queue comes from here.
    """
    launch = schema.read_json(Launch, folder / LAUNCH)
    for job in launch["jobs"]:
        if not re.fullmatch(r"[0-9]{1,18}(_[0-9]{1,18})?", job["id"]):
            raise schema.FormError(f"{printable(folder / LAUNCH)} is damaged: {job['id'][:40]!r} is no number of a job")
        if "\0" in job["run"]:
            raise schema.FormError(f"{printable(folder / LAUNCH)} is damaged: job {job['id']} names no folder")
    return launch


def launches(root: Path) -> Iterator[Path]:
    """Folders of launches below a folder, those of the sweep that it is a run of as well; oldest first."""
    found = (
        {path.parent for path in (root.parent / JOBS).glob(f"*/{LAUNCH}")} if (root / "recipe.yaml").exists() else set()
    )
    for folder, folders, files in os.walk(root):
        if LAUNCH in files:
            found.add(Path(folder))
            folders.clear()
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
    return iter(sorted(found, key=lambda path: path.name))


def log_of(folder: Path, job: str, rank: int) -> Path:
    """Output of a process, over all starts of its job."""
    return folder / f"{job}_{rank}_log.out"


def ranks_with_log(folder: Path, job: str) -> list[int]:
    """Processes of a job that have an output."""
    names = (path.name.removeprefix(f"{job}_").removesuffix("_log.out") for path in folder.glob(f"{job}_*_log.out"))
    return sorted(int(name) for name in names if name.isdecimal())


def log_tail(path: Path, size: int) -> str:
    """The end of a log, which may be a pipe, a device or a link if the folder is somebody else's: these are refused.

    Args:
        path: of the log.
        size: bytes, at most.

    Raises:
        FileNotFoundError: there is none.
        FormError: it is no regular file of this folder, or cannot be read.
    """
    if stat.S_ISLNK(_mode(path)):
        raise schema.FormError(f"{printable(path)} is a link, not a log")
    with schema.opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size).decode(errors="replace")


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise schema.FormError(f"{printable(path)} cannot be read: {error}") from None


def write_starts(folder: Path, job: str, number: int | None = None) -> None:
    """Keep that a job starts.

    Args:
        folder: of the launch.
        job: its number.
        number: how often it has been started, this time included; None: once more than is written down.
    """
    content: Starts = {"starts": starts(folder, job) + 1 if number is None else number}
    replace_json(folder / f"{job}_starts.json", content)


def starts(folder: Path, job: str) -> int:
    """How often a job has been started; 0 where nothing is known of it."""
    try:
        return max(0, schema.read_json(Starts, folder / f"{job}_starts.json")["starts"])
    except (FileNotFoundError, schema.FormError):
        return 0


def write_rank_end(folder: Path, job: str, start: int, end: RankEnd) -> None:
    """Keep how a process ended."""
    replace_json(folder / f"{job}_start{start}_rank{end['rank']}.json", end)


def rank_ends(folder: Path, job: str, start: int) -> list[RankEnd]:
    """How the processes of a start ended, the earliest first; those that were killed are not among them."""
    return sorted(_read(RankEnd, folder, f"{job}_start{start}_rank"), key=lambda end: end["time"])


def write_start_end(folder: Path, job: str, end: StartEnd) -> None:
    """Keep what was done when all processes of a start had ended."""
    replace_json(folder / f"{job}_start{end['start']}_end.json", end)


def start_ends(folder: Path, job: str) -> list[StartEnd]:
    """What was done at the end of each start, in their order."""
    return sorted(_read(StartEnd, folder, f"{job}_start", "_end"), key=lambda end: end["start"])


def _read(form: type[T], folder: Path, prefix: str, suffix: str = "") -> Iterator[T]:
    pattern = re.compile(rf"{re.escape(prefix)}\d+{suffix}\.json")
    for path in folder.glob(f"{prefix}*.json"):
        if pattern.fullmatch(path.name):
            try:
                yield schema.read_json(form, path)
            except (FileNotFoundError, schema.FormError):  # being written, or cut off when its node died
                continue
