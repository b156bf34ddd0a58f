"""``foundation bench launch``: seconds from the launch of a job to its first step, and through a signal and back."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DESCRIPTION = """\
How long a job of this SLURM cluster takes: from the command to its first step; from the signal that a time limit and a
preemption send, to a checkpoint that is safe on disk; and from the start of the job after that to its first new step.
Each round is a run of its own, which is stopped then. Needs a recipe that takes more than a minute."""

EXAMPLES = """\
examples:
  foundation bench launch my.yaml --launch '--nodes 2 --gpus-per-node 8 --partition gpu' --out bench-launch"""

_LONGEST = 3600.0  # seconds that a job may wait in the queue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.ranges import Count, argument

    parser.add_argument("recipe", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--launch", default="", metavar="WORDS", help="options of foundation launch, as one word")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs, and launch.json with the figures")
    parser.add_argument("--rounds", type=argument(Count), default=3, help="rounds (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from foundation.files import replace_json

    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append(_round(arguments, arguments.out / f"round-{number}"))
        for name, seconds in rounds[-1].items():
            print(f"round {number}: {name}: {seconds:.1f} s", flush=True)
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    replace_json(arguments.out / "launch.json", {"rounds": rounds, "medians": medians})
    print("\n".join(f"{name:<45}{seconds:>7.1f} s" for name, seconds in medians.items()))
    return 0


def _round(arguments: argparse.Namespace, run: Path) -> dict[str, float]:
    """One run: launched, signalled, begun again, stopped. Seconds by name."""
    from foundation.cluster import records, slurm
    from foundation.errors import UserError
    from foundation.search_path import START

    every_step = "train.log_every=1"  # the lines of the metrics are what is waited for
    words = ["launch", arguments.recipe, every_step, *arguments.overrides, "--on", "slurm", "--run", str(run)]
    begun = time.time()
    command = [sys.executable, "-P", "-c", START, *words, *shlex.split(arguments.launch)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError("the job could not be launched; see above")
    submitted = time.time()
    (folder,) = records.launches(run.absolute())
    job = records.read_launch(folder)["jobs"][0]["id"]
    log = records.log_of(folder, job, 0)
    try:
        first = _wait(lambda: _steps(run) >= 1, "at its first step")
        _wait(lambda: _steps(run) >= 5, "at its fifth step")
        signalled = time.time()
        slurm.command("scancel", "--signal=USR2", job)
        _wait(lambda: bool(records.rank_ends(folder, job, 0)), "saved")
        saved = max(path.stat().st_mtime for path in run.glob("checkpoints/step-*/MANIFEST.json"))
        done = _steps(run)
        restarted = _wait(lambda: log.read_text().count("Starting with") > 1, "started again")
        again = _wait(lambda: _steps(run) > done, "at its first new step")
    finally:
        slurm.cancel(job)
    return {
        "command to submission (checks, copy of the code)": submitted - begun,
        "submission to first step": first - submitted,
        "signal to safe checkpoint": saved - signalled,
        "signal to new start of the job": restarted - signalled,
        "new start to first new step": again - restarted,
    }


def _steps(run: Path) -> int:
    """Last step in the metrics; 0 where there is none yet."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (FileNotFoundError, ValueError):
        return 0


def _wait(ready: Callable[[], bool], what: str) -> float:
    from foundation.errors import FoundationError

    end = time.monotonic() + _LONGEST
    while not ready():
        if time.monotonic() > end:
            raise FoundationError(f"the job was not {what} within {_LONGEST:g} s: foundation jobs shows how it stands")
        time.sleep(0.02)
    return time.time()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
