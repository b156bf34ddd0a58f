"""SLURM by its commands, in their text form: that is the same in old and new versions, and needs no accounting."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from foundation.errors import FoundationError, UserError

_SECONDS = 30.0  # that a command may take: with a dead controller or without its configuration they wait long
_FIELD = re.compile(r"(?:^|\s)([A-Z][A-Za-z/:]*)=")
_UNKNOWN = ("Invalid job id", "job_id not found")

ALIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
         "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED", "SPECIAL_EXIT", "PREEMPTED")  # fmt: skip
"""States of a job that runs, or may run again."""


class SlurmError(FoundationError):
    """A command of SLURM failed; the message has its text."""


class NoSlurmError(UserError):
    """This machine has no SLURM."""


@dataclass(frozen=True)
class QueueEntry:
    """What the controller knows of a job.

    Attributes:
        id: ``12``, or ``12_3`` for an element of an array.
        state: in capitals, ``RUNNING``.
        reason: why it waits or has ended, empty where SLURM gives none.
        nodes: as SLURM writes them, ``n[1-2]``; empty before it runs.
        restarts: how often it was queued again.
        seconds: that it has run since its last start.
        exit_code: ``1:0``: exit status and signal.
        comment: step and loss as the run reports them.
        script: path of its batch script; empty where SLURM gives none.
    """

    id: str
    state: str
    reason: str
    nodes: str
    restarts: int
    seconds: float
    exit_code: str
    comment: str
    script: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs, or may run again."""
        return self.state in ALIVE


def command(*words: str, seconds: float = _SECONDS) -> str:
    """Run one of SLURM's commands and return what it prints.

    Raises:
        NoSlurmError: there is no such command here.
        SlurmError: it failed, or gave no answer in time.
    """
    if shutil.which(words[0]) is None:
        raise NoSlurmError(
            f"no {words[0]} on PATH: this machine has no SLURM. Log in to one that has, or use --on local"
        )
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{' '.join(words)}: no answer within {seconds:g} s: is the controller up (sinfo)?") from None
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise SlurmError(f"{' '.join(words)}: {said or f'exit code {done.returncode}'}")
    return done.stdout


def entry(job: str) -> QueueEntry | None:
    """What the controller knows of a job; None for one that it has forgotten (``MinJobAge``) or never knew."""
    return entries([job]).get(job)


def entries(jobs: Iterable[str]) -> dict[str, QueueEntry]:
    """What the controller knows of some jobs; those that it has forgotten are left out.

    Raises:
        SlurmError: the controller does not answer.
    """
    wanted = list(jobs)
    found: dict[str, QueueEntry] = {}
    for base in dict.fromkeys(job.partition("_")[0] for job in wanted):
        try:
            text = command("scontrol", "-o", "show", "job", base)
        except SlurmError as error:
            if any(sign in str(error) for sign in _UNKNOWN):
                continue
            raise
        for line in text.splitlines():
            found |= {item.id: item for item in parsed(line)}
    return {job: found[job] for job in wanted if job in found}


def parsed(line: str) -> Iterator[QueueEntry]:
    """Entries in one line of ``scontrol -o show job``: one, or one for each waiting element of an array."""
    found = list(_FIELD.finditer(line))
    ends = [after.start() for after in found[1:]] + [len(line)]
    fields = {field[1]: line[field.end() : end].strip() for field, end in zip(found, ends, strict=False)}
    if "JobId" not in fields:
        return
    plain = {name: "" if value in ("(null)", "None") else value for name, value in fields.items()}
    array, element = plain.get("ArrayJobId", ""), plain.get("ArrayTaskId", "")
    ids = [f"{array}_{number}" for number in numbers(element)] if array and element else [plain["JobId"]]
    for name in ids:
        yield QueueEntry(
            id=name,
            state=plain.get("JobState", "UNKNOWN").split(",")[0].split()[0],
            reason=plain.get("Reason", ""),
            nodes=plain.get("NodeList", ""),
            restarts=int(plain.get("Restarts") or 0),
            seconds=seconds_of(plain.get("RunTime", "")),
            exit_code=plain.get("ExitCode", ""),
            comment=plain.get("Comment", ""),
            script=plain.get("Command", ""),
        )


def numbers(text: str) -> list[int]:
    """Numbers of an array as SLURM writes them: ``0-3,7%2`` are 0, 1, 2, 3 and 7."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        last, _, step = last.partition(":")
        if first.isdigit():
            found.extend(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def seconds_of(text: str) -> float:
    """Seconds in a running time, ``1-02:03:04``; 0 for what is none."""
    days, _, clock = text.rpartition("-")
    try:
        parts = [float(part) for part in clock.split(":")]
        return float(days or 0) * 86400 + sum(value * 60**place for place, value in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def cancel(job: str) -> None:
    """``scancel``: the job saves if it is quick, and does not come back."""
    command("scancel", job)


def requeue(job: str) -> None:
    """``scontrol requeue``: the job ends and starts again."""
    command("scontrol", "requeue", job)


def comment(job: str, text: str) -> None:
    """Put a text into the queue's comment, which ``squeue -o %k`` shows."""
    command("scontrol", "update", f"JobId={job}", f"Comment={text}", seconds=10.0)


def hosts(node_list: str) -> Sequence[str]:
    """Names of the hosts in a node list, ``n[1-2]``, in the order of the tasks."""
    return command("scontrol", "show", "hostnames", node_list).split()
