"""The last line of a batch script: whether a job that has ended is queued again.

``python -m foundation.cluster.settle EXIT_CODE FOLDER``, in the environment of the job. All processes have left by
then, so that none is killed while it still writes; and the controller is asked what it has in mind with the job: one
that it is cancelling, or queues again by itself, is left alone.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from foundation.checkpoints import checkpoint
from foundation.cluster import endings, records, slurm
from foundation.cluster.endings import AGAIN, HOPELESS, Ending
from foundation.cluster.records import StartEnd
from foundation.errors import FoundationError
from foundation.voice import plural, to_stderr

_PATIENCE_SECONDS = 30.0  # for the launch to be written down: a job may end at once
_WAIT_SECONDS = 120.0  # for the controller to end this script, once the job is queued again


def main() -> int:
    """Decide, say it, do it; returns the exit code of the job."""
    code, folder = int(sys.argv[1]), Path(sys.argv[2])
    job, start = job_of(os.environ), start_of(os.environ)
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    run, launch = endings.run_of(folder, job, _PATIENCE_SECONDS)
    ending = endings.of_start(folder, job, start, run, tasks, code)
    earlier = records.start_ends(folder, job)
    end = decide(ending, _state(job), start, newest(run), earlier, launch["retries"])
    records.write_start_end(folder, job, end)
    _say(end)
    if end["decision"] != "again":
        return end["code"]
    try:
        slurm.requeue(job)
    except FoundationError as error:
        to_stderr(
            f"foundation: the job could not be queued again: {error}. Where the cluster forbids it, give the same "
            f"command again: the run goes on from its newest checkpoint"
        )
        return end["code"]
    time.sleep(_WAIT_SECONDS)
    return end["code"]


def job_of(environment: os._Environ[str]) -> str:
    """Number of the job that a process is in: ``12``, or ``12_3`` for an element of an array."""
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment["SLURM_JOB_ID"]


def start_of(environment: os._Environ[str]) -> int:
    """How often SLURM has queued the job again: the number of this start."""
    return int(environment.get("SLURM_RESTART_COUNT") or 0)


def newest(run: Path) -> str | None:
    """Name of the newest checkpoint that is whole by its sizes: how far a run has got."""
    steps = checkpoint.steps(run / "checkpoints")
    return next((path.name for path in reversed(steps) if checkpoint.problem(path, hashes=False) is None), None)


def decide(
    ending: Ending, state: str, start: int, progress: str | None, earlier: list[StartEnd], retries: int
) -> StartEnd:
    """What is to be done when a start has ended.

    Args:
        ending: how it ended.
        state: of the job, as the controller gives it.
        start: its number.
        progress: newest checkpoint.
        earlier: what was done at the end of earlier starts.
        retries: failures without progress that are tried again.

    Returns:
        ``done``; ``again``: queue the job again; ``failed``: do not; ``left``: the controller has the job in hand.
    """
    reason = ending.reason.rstrip(".")
    end: StartEnd = {
        "start": start, "time": time.time(), "code": ending.code, "decision": "failed",
        "reason": ending.reason, "progress": progress, "asked": ending.asked,
    }  # fmt: skip
    if ending.code == 0:
        return {**end, "decision": "done"}
    if state != "RUNNING":
        return {**end, "decision": "left", "reason": f"{reason} (the controller says {state})"}
    if ending.asked is not None:
        return {**end, "decision": "again"}
    if ending.code in HOPELESS:
        return {**end, "reason": f"{reason}. It is not tried again: it would end in the same way"}
    if ending.code != AGAIN and progress in (None, checkpoint.name_of(0)) and not ending.dead:
        return {**end, "reason": f"{reason}. It is not tried again: nothing had been learnt yet"}
    spent = 0
    for before in reversed(earlier):
        if before["decision"] != "again" or before["progress"] != progress:
            break
        spent += before["asked"] is None
    if spent >= retries:
        return {**end, "reason": f"{reason}. It is not tried again: {plural(spent, 'try', 'tries')} got no further"}
    return {**end, "decision": "again", "reason": f"{reason}. Queued again: try {spent + 1} of {retries}"}


def _state(job: str) -> str:
    try:
        entry = slurm.entry(job)
    except FoundationError as error:
        to_stderr(f"foundation: the controller cannot be asked about job {job}: {error}")
        return "UNKNOWN"
    return "UNKNOWN" if entry is None else entry.state


def _say(end: StartEnd) -> None:
    words = {"done": "done", "again": "queued again", "failed": "failed", "left": "left to the controller"}
    to_stderr(f"foundation: start {end['start']} has ended: {words[end['decision']]}. {end['reason']}")


if __name__ == "__main__":
    sys.exit(main())
