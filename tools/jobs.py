"""``foundation jobs``: the jobs of ``foundation launch``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.cluster.states import JobState

DESCRIPTION = """\
How the jobs of 'foundation launch' stand: what the queue says, and what their run folders say. Needs no accounting."""
EXAMPLES = """\
examples:
  foundation jobs                         all jobs below runs/
  foundation jobs runs/my sweeps --tail   of these folders, with the last lines of their logs
  foundation jobs logs runs/my            the log of the newest job of a run; of job 12: foundation jobs logs 12
  foundation jobs stop 12                 saves if it is quick, ends, and does not come back
  foundation jobs requeue 12              saves, ends and starts again

waiting: in the queue. ending: its processes are being ended. stopped: by 'jobs stop' or scancel; 'foundation launch'
with the same words goes on. lost: nobody works on it although it is not done. A job whose run is elsewhere is named by
its folder."""

ACTIONS = ("stop", "logs", "requeue")
_COLOURS = {"running": "green", "done": "blue", "failed": "red", "lost": "red", "stopped": "yellow", "waiting": "cyan"}
_BYTES_OF_A_LINE = 1024  # long ones; where all are longer, fewer are shown
_MOST_BYTES = 16 * 1024 * 1024  # of a log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.ranges import Count, Rank, argument

    parser.add_argument(
        "words", nargs="*", metavar="FOLDER | stop JOB | logs JOB | requeue JOB",
        help="folders to look in (default: runs), or what to do with which jobs, by number or run folder",
    )  # fmt: skip
    parser.add_argument("--tail", action="store_true", help="the last lines of each log as well")
    parser.add_argument("--lines", type=argument(Count), default=10, help="of a log (default: %(default)s)")
    parser.add_argument("--rank", type=argument(Rank), default=0, help="process whose log it is (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from foundation.cluster import states
    from foundation.errors import UserError

    words = arguments.words
    if words and words[0] in ACTIONS:
        if len(words) < 2:
            raise UserError(f"foundation jobs {words[0]}: which? Give the number of a job or a run folder")
        jobs = states.named(words[1:], Path("runs"))
        return {"stop": _stop, "logs": _logs, "requeue": _requeue}[words[0]](jobs, arguments)
    for word in words:
        if not Path(word).is_dir():
            from foundation.plugins import near

            raise UserError(f"no folder {word}{near(word, ACTIONS)} (actions: {', '.join(ACTIONS)})")
    folders = [Path(word) for word in words] or [Path("runs")]
    if not words and not folders[0].is_dir():
        print("no jobs: there is no folder runs")
        return 0
    return _list(list(states.find(folders)), folders, arguments)


def _list(jobs: list[JobState], folders: list[Path], arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from foundation.printable import cell, printable
    from foundation.voice import duration, to_stdout

    if arguments.json:
        print(json.dumps([job.plain() for job in jobs], indent=1))
        return 0
    if not jobs:
        to_stdout(f"no jobs were launched into {', '.join(map(str, folders))}")
        return 0
    table = Table("job", "run", "state", box=None, pad_edge=False)
    for title in ("nodes", "step", "loss", "restarts", "elapsed"):
        table.add_column(title, justify="right")
    for job in jobs:
        step = "" if job.step is None else f"{job.step:,}" + (f" / {job.total:,}" if job.total else "")
        table.add_row(
            job.id, cell(os.path.relpath(job.run)), f"[{_COLOURS.get(job.state, 'dim')}]{job.state}[/]",
            cell(job.nodes), step, "" if job.loss is None else f"{job.loss:.5g}", str(job.restarts),
            "" if job.seconds is None else duration(job.seconds),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for job in jobs:
        for line in (*([job.reason] if job.reason else []), *job.notes):
            to_stdout(f"job {job.id}: {printable(line)}")
        if arguments.tail:
            print(f"\n--- {printable(job.log)}")
            _print_end(job, arguments)
    return 0


def _logs(jobs: list[JobState], arguments: argparse.Namespace) -> int:
    from foundation.printable import printable

    for job in jobs:
        if len(jobs) > 1 or sys.stdout.isatty():
            print(f"--- {printable(_log(job, arguments))}")
        _print_end(job, arguments)
    return 0


def _log(job: JobState, arguments: argparse.Namespace) -> Path:
    from foundation.cluster.records import log_of

    return log_of(job.folder, job.id, arguments.rank)


def _print_end(job: JobState, arguments: argparse.Namespace) -> None:
    from foundation.cluster.records import log_tail, ranks_with_log
    from foundation.printable import printable
    from foundation.schema import FormError
    from foundation.voice import to_stderr

    try:
        lines = log_tail(_log(job, arguments), min(_BYTES_OF_A_LINE * arguments.lines, _MOST_BYTES)).splitlines()
    except FileNotFoundError:
        others = ranks_with_log(job.folder, job.id)
        there = f"; there is output of rank {', '.join(map(str, others))}" if others else ""
        print(f"no output of rank {arguments.rank} (job {job.id} is {job.state}){there}")
        return
    except FormError as error:
        to_stderr(f"foundation: {error}")
        return
    for line in lines[-arguments.lines :]:
        print(printable(line))


def _stop(jobs: list[JobState], _: argparse.Namespace) -> int:
    from foundation.cluster import slurm
    from foundation.cluster.states import require_own

    for job in jobs:
        if job.over:
            print(f"job {job.id} is {job.state} already")
            continue
        require_own(job)
        if job.on == "slurm":
            slurm.cancel(job.id)
            print(f"job {job.id} is being stopped")
        else:
            os.kill(int(job.id), signal.SIGTERM)
            print(f"job {job.id} saves and ends")
    return 0


def _requeue(jobs: list[JobState], _: argparse.Namespace) -> int:
    from foundation.cluster import slurm
    from foundation.cluster.states import require_own
    from foundation.errors import UserError

    for job in jobs:
        if job.on == "local":
            raise UserError(f"job {job.id} runs on this machine, which has no queue: stop it and launch it again")
        require_own(job)
        slurm.requeue(job.id)
        print(f"job {job.id} is queued again; it goes on from its newest checkpoint")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
