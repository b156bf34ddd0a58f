"""Why a start of a job ended: which process failed first, which left no word, which were behind the others."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation import config, schema
from foundation.cluster import explain, records
from foundation.cluster.records import RankEnd
from foundation.errors import FoundationError, UserError
from foundation.files import matching
from foundation.run.runs import HEARTBEATS, Heartbeat, Status

AGAIN = 75
"""Exit code of a process that asks to be started again."""
HOPELESS = (2, 3, 4)
"""Exit codes of what another start would meet again: a mistake, bad data, numerics."""
_SILENT_SECONDS = 20.0  # a heartbeat is written each second
_BEHIND_SECONDS = 5.0
_LOG_BYTES = 64 * 1024
_START = "Starting with JobEnvironment"


@dataclass(frozen=True)
class Ending:
    """How a start ended.

    Attributes:
        code: exit code that stands for the start.
        asked: signal by which it was asked to stop, None where it was not.
        reason: in words, with cause and advice where they are known.
        dead: ranks that left no word.
    """

    code: int
    asked: str | None
    reason: str
    dead: tuple[int, ...]


def of_start(folder: Path, job: str, start: int, run: Path, tasks: int, code: int) -> Ending:
    """Put together what the processes of a start have left.

    Args:
        folder: of the launch.
        job: number of the job.
        start: number of the start.
        run: the run folder.
        tasks: processes.
        code: that srun ended with.
    """
    ends = records.rank_ends(folder, job, start)
    dead = tuple(sorted(set(range(tasks)) - {end["rank"] for end in ends}))
    failed = [end for end in ends if end["code"] not in (0, AGAIN)]
    asked = _asked(ends, failed, dead)
    if asked:
        return Ending(AGAIN, asked, f"asked to stop by {asked}; saved", dead)
    if code == 0 and not failed and not any(end["code"] for end in ends):
        return Ending(0, None, "done", ())
    if failed:
        first, exit_code = failed[0], failed[0]["code"]
        reason = f"rank {first['rank']} on {first['host']} failed first: {first['error'] or f'exit code {exit_code}'}"
        known = explain.of_run(first["error"] or "", *_recipe(run, tasks))
    else:
        reason = _without_failure(run, ends, dead, code)
        exit_code, said = AGAIN if ends and not dead else code or AGAIN, f"{reason}\n{_output(folder, job)}"
        known = explain.of_run(said, *_recipe(run, tasks))
    slow = behind(run)
    parts = [reason, *([f"({'; '.join(slow)})"] if slow else []), *([f"Cause: {known}"] if known else [])]
    return Ending(exit_code, None, " ".join(parts), dead)


def _asked(ends: Sequence[RankEnd], failed: Sequence[RankEnd], dead: Sequence[int]) -> str | None:
    """The signal that ended all of a start. USR2 comes from the scheduler alone; TERM also from srun, which ends the
    other processes when one has failed or was lost: it counts only where it ended all."""
    signals = [end["signal"] for end in ends if end["signal"]]
    if "SIGUSR2" in signals:
        return "SIGUSR2"
    lost = any(end["code"] and not end["signal"] for end in ends)
    return signals[0] if signals and not (failed or dead or lost) else None


def _without_failure(run: Path, ends: Sequence[RankEnd], dead: Sequence[int], code: int) -> str:
    """Words for a start in which no process could say what was wrong."""
    word = _status(run)
    if code == 5 and word:
        return f"stalled: {word}"
    hosts = _hosts(run)
    # A port that is taken comes of no other process's end; srun then ends those that wait for this one.
    portless = next((end for end in ends if re.search(explain.PORT_TAKEN, end["error"] or "", re.IGNORECASE)), None)
    if portless:
        return f"rank {portless['rank']} on {portless['host']}: {portless['error']}"
    if dead:
        names = ", ".join(f"{rank}{f' on {hosts[rank]}' if rank in hosts else ''}" for rank in dead[:8])
        more = f" and {len(dead) - 8} more" if len(dead) > 8 else ""
        how = f" (killed by signal {code - 128})" if 128 < code < 160 else ""
        return f"rank {names}{more} ended without a word{how}"
    if ends:
        first = next((end for end in ends if end["signal"] is None and end["error"]), ends[0])
        return f"rank {first['rank']} on {first['host']}: {first['error'] or 'ended'}"
    return word or f"exit code {code}"


def _status(run: Path) -> str | None:
    try:
        return schema.read_json(Status, run / "status.json").get("reason")
    except (FileNotFoundError, schema.FormError):
        return None


def _beats(run: Path) -> list[tuple[Path, Heartbeat]]:
    found = []
    for path in matching(run / HEARTBEATS, "rank*.json"):
        try:
            found.append((path, schema.read_json(Heartbeat, path)))
        except (FileNotFoundError, schema.FormError):
            continue
    return found


def _hosts(run: Path) -> dict[int, str]:
    return {beat["rank"]: beat["host"] for _, beat in _beats(run) if "rank" in beat and "host" in beat}


def behind(run: Path, since: float = 0.0) -> list[str]:
    """Processes that are behind the others or have fallen silent, by the heartbeats, a few words each.

    A heartbeat is written every second as long as its process lives; its step is the last that the process has done,
    its time when that was. All processes do the same step, so that one that has not done it some seconds after another
    one is what the others wait for.

    Args:
        run: the run folder.
        since: seconds since 1970; what was written before is of an earlier start, and tells nothing of this one.
    """
    beats = _beats(run)
    try:
        signs = {path: os.stat(path).st_mtime for path, _ in beats}
    except OSError:
        return []
    beats = [(path, beat) for path, beat in beats if signs[path] >= since]
    if len(beats) < 2:
        return []
    newest = max(signs[path] for path, _ in beats)
    furthest, reached = max((beat.get("step") or 0, -beat.get("time", 0.0)) for _, beat in beats)
    found = []
    for path, beat in beats:
        name, step = f"rank {beat.get('rank')} on {beat.get('host')}", beat.get("step") or 0
        if newest - signs[path] > _SILENT_SECONDS:
            found.append(f"{name} has been silent for {newest - signs[path]:.0f} s")
        elif step < furthest and signs[path] + reached > _BEHIND_SECONDS:
            found.append(f"{name} is at step {step:,}, others at {furthest:,}")
    return found[:8]


def _recipe(run: Path, tasks: int) -> tuple[dict[str, object] | None, int]:
    try:
        return config.read_plain(run / "recipe.yaml"), tasks
    except (FileNotFoundError, FoundationError):
        return None, tasks


def _output(folder: Path, job: str) -> str:
    """What process 0 and srun have said in the last start."""
    return last_start(records.log_of(folder, job, 0))


def last_start(path: Path) -> str:
    """The end of a log, as far as it is of the last start; at most 64 KiB."""
    try:
        text = records.log_tail(path, _LOG_BYTES)
    except (FileNotFoundError, schema.FormError):
        return ""
    return text[max(0, text.rfind(_START)) :]


def run_of(folder: Path, job: str, seconds: float = 0.0) -> tuple[Path, records.Launch]:
    """Run folder and launch of a job.

    Args:
        folder: of the launch.
        job: number of the job.
        seconds: to wait for the launch to be written down.

    Raises:
        FileNotFoundError: it is not.
        UserError: the launch knows no such job.
    """
    end = time.monotonic() + seconds
    while not (folder / records.LAUNCH).exists() and time.monotonic() < end:
        time.sleep(0.2)
    launch = records.read_launch(folder)
    for item in launch["jobs"]:
        if item["id"] == job:
            return Path(item["run"]), launch
    raise UserError(f"{folder / records.LAUNCH} knows no job {job}")
