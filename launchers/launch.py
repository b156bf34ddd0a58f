"""``foundation launch``: train a recipe as a job, in the background of this machine or on a SLURM cluster."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from foundation.cluster import records
    from foundation.cluster.options import Options
    from foundation.cluster.rehearsal import Rehearsed
    from foundation.cluster.sweep import Variant

Runs: TypeAlias = list[tuple[Path, list[str]]]
"""Folder of each run, and its words of ``foundation pretrain``."""

_MOST_REHEARSED = 8  # runs of a sweep that are built before it is submitted: each takes seconds

_LONGEST_PAUSE = 30.0  # seconds between two questions to the queue, which has others to answer too

DESCRIPTION = """\
Train a recipe as a job: in the background of this machine, or on a SLURM cluster. The recipe is checked first, the
code is copied beside the run. At its time limit, when it is preempted and when a node fails, the job saves or goes back
to its newest checkpoint, is queued again, and goes on bit for bit. One process for each GPU; no torchrun."""

EXAMPLES = """\
examples:
  foundation launch my.yaml --on slurm --dry-run              what sbatch would be given
  foundation launch dinov2-vitl14 --profile slurm-gpu --nodes 12 --partition gpu --time 24:00:00
  foundation launch my.yaml --profile cluster.yaml            a profile of your own: YAML with these options
  foundation launch my.yaml --profile slurm-gpu --sweep optimizer.learning_rate.start=5e-4,1e-3,2e-3 --sweep seed=0,1
  foundation launch runs/my --on slurm --nodes 2              go on with a run, on as many nodes as you like
  foundation launch my.yaml --on local --gpus-per-node 2      in the background here
  foundation jobs                                             how they stand

--sweep trains each combination in a folder of its own below --run, as one array; 'foundation runs best FOLDER' picks.
The command line wins over the profile; --setup and --sbatch add to it. See docs/clusters.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.cluster import options
    from foundation.plugins import add_option
    from foundation.ranges import Count, CountOrNone, argument

    parser.add_argument("recipe", help="name of a shipped recipe, a YAML file, or a run folder to resume")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, e.g. train.batch_size=64"
    )
    parser.add_argument("--run", type=Path, help="run folder, or folder of a sweep (default: runs/NAME)")
    parser.add_argument("--on", choices=["local", "slurm"], help="where (default: local, or what the profile says)")
    parser.add_argument("--profile", metavar="NAME_OR_YAML", help="options from a file: a shipped one or your own")
    parser.add_argument("--nodes", type=argument(options.Nodes), help="machines")
    parser.add_argument("--gpus-per-node", type=argument(options.GPUs), help="GPUs, and processes, on each")
    parser.add_argument("--tasks-per-node", type=argument(options.Tasks), help="processes on each, without GPUs")
    parser.add_argument("--cpus-per-task", type=argument(Count), help="processor cores of each process")
    parser.add_argument("--mem", help="memory of each machine, such as 64GB")
    parser.add_argument("--time", help="time limit: minutes, HH:MM:SS or D-HH:MM:SS")
    parser.add_argument("--partition", help="partition of the cluster")
    parser.add_argument("--account", help="account that is charged")
    parser.add_argument("--qos", help="quality of service")
    parser.add_argument("--constraint", help="features that the nodes must have")
    parser.add_argument("--exclude", help="nodes that must not be used, such as n[3-5]")
    parser.add_argument("--setup", action="append", metavar="LINE", help="a line of shell before the run (repeatable)")
    parser.add_argument(
        "--sbatch", action="append", type=_sbatch, metavar="KEY=VALUE", help="a further option of sbatch (repeatable)"
    )
    parser.add_argument(
        "--signal-seconds", type=argument(options.SignalSeconds), help="lead of the signal before the time limit"
    )
    parser.add_argument(
        "--retries", type=argument(CountOrNone), help="how often a run that was lost is tried again without progress"
    )
    parser.add_argument("--array-parallelism", type=argument(Count), metavar="N", help="runs of a sweep at a time")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="key=a,b,c", help="a run for each value (repeatable: product)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the recipe, print what sbatch would be given, submit nothing"
    )
    parser.add_argument(
        "--accept-changes", action="store_true", help="go on although the recipe differs from the one in the folder"
    )
    parser.add_argument(
        "--allow-missing-shards",
        action="store_true",
        help="submit although shards are not here: only the nodes see them",
    )
    parser.add_argument("--wait", action="store_true", help="until all jobs have ended; the exit code is then theirs")
    add_option(parser)


def _sbatch(word: str) -> tuple[str, str]:
    name, sign, value = word.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{word!r}: write KEY=VALUE, such as reservation=spring")
    return name.lstrip("-"), value


def run(arguments: argparse.Namespace) -> int:
    from foundation.cluster import records, submit
    from foundation.voice import to_stdout

    submit.require_submitit()
    options = _options(arguments)
    root, runs, variants = _runs(arguments)
    for _, words in runs:
        _require_gpu(words, options)
    folder = records.new_folder(root.absolute())
    submit.require_path(folder)
    _refuse_running(runs)
    if arguments.dry_run:
        _show(folder, options, runs, variants)
        return 0
    if options.on == "slurm":
        submit.require_slurm()
    there = root.exists()
    try:
        launch = _submit(folder, options, runs, variants, arguments.allow_missing_shards)
    except BaseException:
        _forget(folder, root, there)
        raise
    records.write_launch(folder, launch)
    for job in launch["jobs"]:
        to_stdout(f"job {job['id']}: {job['run']}")
    first = launch["jobs"][0]["id"]
    to_stdout(f"look at it: foundation jobs {os.path.relpath(root)}; its log: foundation jobs logs {first}")
    return _wait(folder) if arguments.wait else 0


def _show(folder: Path, options: Options, runs: Runs, variants: list[Variant]) -> None:
    """What would be submitted."""
    from foundation.cluster import snapshot, submit
    from foundation.voice import to_stderr, to_stdout

    rehearsed = _rehearse(runs, options, variants, None)
    for line in (rehearsed.shown, *rehearsed.warnings):
        to_stderr(line)
    for variant in variants:
        to_stderr(f"run {variant.name}")
    if options.on == "local":
        to_stderr(f"{len(runs)} run(s) on this machine, {options.tasks} process(es) each; nothing is submitted")
        return
    code = folder / "code" if snapshot.is_checkout() else None
    executor = submit.executor(folder, options, folder.parent.parent.name, code)
    to_stdout(submit.text(executor, len(runs)))


def _rehearse(runs: Runs, options: Options, variants: list[Variant], code: Path | None) -> Rehearsed:
    """Build the run; of a sweep those in which each value occurs, eight at most."""
    from foundation.cluster import rehearsal, sweep
    from foundation.voice import to_stderr

    names = {variant.name for variant in sweep.chosen(variants, _MOST_REHEARSED)}
    some = [words for path, words in runs if not variants or path.name in names]
    rehearsed = rehearsal.rehearse([_checked(words, options) for words in some], code)
    if len(some) < len(runs):
        to_stderr(
            f"{len(some)} of {len(runs):,} runs of the sweep were checked; a mistake in another one ends that one"
        )
    return rehearsed


def _submit(folder: Path, options: Options, runs: Runs, variants: list[Variant], allow_missing: bool) -> records.Launch:
    """Copy the code, check what it would do, and hand the jobs over."""
    from foundation.cluster import snapshot, submit
    from foundation.cluster.environment import captured
    from foundation.errors import UserError
    from foundation.run.plan import NOT_HERE
    from foundation.submitit_job import Job
    from foundation.voice import to_stderr, to_stdout

    code = snapshot.snapshot(folder / "code")
    kept = [(path, _kept(folder, words)) for path, words in runs]
    rehearsed = _rehearse(kept, options, variants, code.path)
    to_stdout(rehearsed.shown)
    for line in rehearsed.warnings:
        if NOT_HERE in line and not allow_missing:
            raise UserError(
                f"nothing was submitted: {line.removeprefix('warning: ')}. Where only the nodes see them, say "
                "--allow-missing-shards"
            )
        to_stderr(line)
    to_stdout(f"code: {code.described()}")
    environment = captured()
    executor = submit.executor(folder, options, folder.parent.parent.name, code.path)
    calls = [Job(words) for _, words in kept]
    local = options.on == "local"
    ids = submit.submit_detached(executor, calls, code.path) if local else submit.submit(executor, calls)
    jobs: list[records.JobOfLaunch] = [
        {"id": job, "run": str(path.absolute()), "words": _shown(words)}
        for job, (path, words) in zip(ids, kept, strict=True)
    ]
    return {
        "on": options.on,
        "time": time.time(),
        "host": socket.gethostname(),
        "command": _shown(sys.argv),
        "tasks": options.world_size,
        "retries": options.retries,
        "jobs": jobs,
        "code": code.plain(),
        "environment": environment,
        "options": {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()},
    }


def _forget(folder: Path, root: Path, there: bool) -> None:
    """A launch that was refused leaves nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in (folder.parent, *(() if there else (root,))):
        try:
            path.rmdir()
        except OSError:  # other launches, or the run, lie in it
            return


def _options(arguments: argparse.Namespace) -> Options:
    from foundation.cluster.options import Options, merged, profile
    from foundation.errors import UserError

    base = profile(arguments.profile) if arguments.profile else Options()
    given = {item.name: arguments.__dict__.get(item.name) for item in fields(Options)}
    if given["sbatch"] is not None:
        given["sbatch"] = dict(given["sbatch"])
    options = merged(base, given)
    if arguments.array_parallelism and not arguments.sweep:
        raise UserError("--array-parallelism goes with --sweep: a single run is no array")
    return options


def _runs(arguments: argparse.Namespace) -> tuple[Path, Runs, list[Variant]]:
    """Folder of the launch, for each run its folder and its words, and the variants of a sweep."""
    from foundation import config, paths
    from foundation.cluster import sweep
    from foundation.errors import UserError

    given = Path(arguments.recipe)
    resumes = (given / "recipe.yaml").is_file()
    source = given / "recipe.yaml" if resumes else paths.recipe(arguments.recipe)
    allowed = [word for name in arguments.allow_plugins for word in ("--allow-plugins", name)]
    allowed += ["--accept-changes"] if arguments.accept_changes else []
    name = next((text[5:] for text in reversed(arguments.overrides) if text.startswith("name=")), None)
    if arguments.run is None and not resumes and name is None:
        name = config.read_plain(source).get("name")
        if not isinstance(name, str) or "/" in name:
            raise UserError(f"{source} has no plain name: say where the run goes, --run FOLDER")
    root = arguments.run or (given if resumes else Path("runs") / str(name))
    recipe = str(given.absolute()) if resumes else str(source.absolute()) if given.is_file() else arguments.recipe
    if resumes and arguments.sweep:
        raise UserError("--sweep starts new runs: give a recipe, not a run folder")
    variants = sweep.variants(arguments.sweep) if arguments.sweep else []
    found = []
    for variant in variants or [None]:
        path, further = (root, ()) if variant is None else (root / variant.name, variant.overrides)
        words = ["pretrain", recipe, *arguments.overrides, *further, *allowed, "--run", str(path.absolute())]
        found.append((path, words))
    return root, found, variants


def _kept(folder: Path, words: list[str]) -> list[str]:
    """The words with a copy of the recipe's file, which may be edited while the job waits; folders stay as they are."""
    recipe = Path(words[1])
    if not recipe.is_file():
        return words
    copy = folder / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(recipe, copy)
    return [words[0], str(copy), *words[2:]]


def _checked(words: list[str], options: Options) -> list[str]:
    """Words of the dry run: with as many processes, and on a machine that need not have the cluster's GPUs."""
    further = ["train.device=auto"] if _device(words) == "cuda" else []
    return [*words, *further, "--processes", str(min(options.world_size, 1024))]


def _require_gpu(words: list[str], options: Options) -> None:
    from foundation.errors import UserError

    if _device(words) == "cuda" and not options.gpus_per_node:
        raise UserError("train.device is cuda and the job asks for no GPU: add --gpus-per-node N")


def _device(words: list[str]) -> object:
    """What the recipe says of ``train.device``."""
    from foundation import config, paths

    resumed = Path(words[1]) / "recipe.yaml"
    source = resumed if resumed.is_file() else paths.recipe(words[1])
    train = config.read_plain(source).get("train")
    device = train.get("device") if isinstance(train, dict) else None
    return next((text[13:] for text in reversed(words) if text.startswith("train.device=")), device)


def _refuse_running(runs: Runs) -> None:
    """Two jobs in one run folder would end in the second being refused, after it has waited."""
    from foundation.cluster.states import living
    from foundation.errors import UserError
    from foundation.run.runs import locked

    for job in living(path.absolute() for path, _ in runs):
        raise UserError(
            f"job {job.id} ({job.state}) trains into {os.path.relpath(job.run)} already: 'foundation jobs stop "
            f"{job.id}' ends it, or choose another --run"
        )
    for path, _ in runs:
        if locked(path):
            raise UserError(f"another process is training in {path}: stop it or choose another --run")


def _shown(words: list[str]) -> list[str]:
    from foundation.redact import redact

    return [redact(word) for word in words]


def _wait(folder: Path) -> int:
    """Until all jobs of a launch have ended; says why each has failed."""
    from foundation.cluster.states import State, of_launch
    from foundation.voice import to_stderr, to_stdout

    said: dict[str, State] = {}
    pause = 0.5
    while True:
        jobs = of_launch(folder)
        for job in jobs:
            if said.get(job.id) != job.state:
                said[job.id] = job.state
                to_stdout(f"job {job.id}: {job.state}{f' on {job.nodes}' if job.nodes else ''}")
        if all(job.over for job in jobs):
            break
        time.sleep(pause)
        pause = min(1.2 * pause, _LONGEST_PAUSE)
    code = 0
    for job in jobs:
        if job.state != "done":
            to_stderr(f"foundation: job {job.id} {job.state}: {job.reason or 'foundation jobs logs ' + job.id}")
            code = code or job.code or 1
    return code


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
