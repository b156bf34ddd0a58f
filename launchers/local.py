"""``foundation pretrain``: train a recipe on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.run.recipe import Recipe

DESCRIPTION = """\
Pretrain an encoder as a recipe says. The run lives in one folder: resolved recipe, metrics, checkpoints, export.
The same command again resumes it from the newest valid checkpoint."""

EXAMPLES = """\
examples:
  foundation pretrain cifar10-dino-ibot-nano 'data.shards=[data/cifar10/train-*.tar]'
  foundation pretrain dinov2-vitl14 --dry-run --processes 96
                                                      steps, parameters, tokens per step, memory
  foundation pretrain my.yaml train.batch_size=64 --show-recipe
                                                      every setting, those that the file leaves out as well
  foundation pretrain my.yaml optimizer.learning_rate.start=1e-3 --run runs/trial
  foundation pretrain runs/trial                      resume a run by its own recipe
  foundation pretrain my.yaml --processes 2           data parallel on this machine
  torchrun --nproc-per-node 8 -m foundation pretrain my.yaml

Ctrl-C, SIGTERM and SIGUSR2 save and end with exit code 75; the same command goes on from there. Several processes also
find each other by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, whoever starts them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option
    from foundation.ranges import Processes, argument

    parser.add_argument("recipe", help="name of a shipped recipe, a YAML file, or a run folder to resume")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, e.g. train.batch_size=64"
    )
    parser.add_argument("--run", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, print steps, parameters, memory and what does not fit, train nothing",
    )
    parser.add_argument(
        "--show-recipe", action="store_true", help="print every setting as it stands, as YAML, and train nothing"
    )
    parser.add_argument(
        "--processes",
        type=argument(Processes),
        default=1,
        help="processes on this machine that share the batch (default: 1)",
    )
    parser.add_argument("--fresh", action="store_true", help="start from step 0; refuses a folder that holds a run")
    parser.add_argument("--overwrite", action="store_true", help="with --fresh: remove the run that is in the folder")
    parser.add_argument(
        "--accept-changes", action="store_true", help="resume although the recipe differs from the one in the folder"
    )
    add_option(parser)


def run(arguments: argparse.Namespace) -> int:
    from foundation import config, lifeline, paths
    from foundation.errors import RecipeError, UserError
    from foundation.run.recipe import Recipe
    from foundation.voice import to_stdout

    lifeline.end_with_launcher()
    given = Path(arguments.recipe)
    resumes = (given / "recipe.yaml").is_file()
    source = given / "recipe.yaml" if resumes else paths.recipe(arguments.recipe)
    earlier = ["train.stop_after=null"] if resumes else []  # folders of older versions keep it
    overrides = [*earlier, *arguments.overrides]
    try:
        recipe = config.load(Recipe, source, overrides, own=not resumes)
    except UserError as error:
        if resumes and "teachers" in config.read_plain(source):
            raise UserError(
                f"{given} is a run of an earlier version (its recipe has 'teachers', which are branches now) and "
                f"cannot be gone on from. Its encoders are read as before: foundation knn {given}, foundation export "
                f"{given}, or initial.weights={given} in a new run"
            ) from error
        raise
    programs = [text for text in recipe.data.patterns if text.startswith("pipe:")]
    if resumes and programs and not any(text.startswith("data.allow_pipes=") for text in arguments.overrides):
        raise UserError(
            f"{source} starts programs ({programs[0]!r}), and a run folder may come from someone else: if you trust "
            "it, add data.allow_pipes=true"
        )
    if arguments.show_recipe:
        to_stdout(config.dump(recipe))
    if arguments.dry_run:
        from foundation.run.plan import show_plan

        try:
            show_plan(recipe, arguments.processes)
        except RecipeError as error:
            raise config.located(error, source, overrides) from None
        there = None if arguments.run is None else arguments.run / "recipe.yaml"
        if there is not None and there.is_file() and not (arguments.fresh or arguments.accept_changes):
            from foundation.run.resume import refuse_another_recipe

            refuse_another_recipe(arguments.run, there, recipe)
    if arguments.dry_run or arguments.show_recipe:
        return 0
    if arguments.overwrite and not arguments.fresh:
        raise UserError("--overwrite goes with --fresh; without them a run resumes")
    if arguments.processes < 1:
        raise UserError(f"--processes must be at least 1, got {arguments.processes}")
    if arguments.processes > 1 and "RANK" not in os.environ:
        return start_processes(arguments)
    try:
        train(recipe, arguments.run or (given if resumes else Path("runs") / recipe.name), arguments)
    except RecipeError as error:
        raise config.located(error, source, overrides) from None
    return 0


def start_processes(arguments: argparse.Namespace) -> int:
    """Run this command again in several processes."""
    from foundation.parallel.launch import again, run_processes
    from foundation.voice import to_stderr

    flags = [
        f"--{name.replace('_', '-')}" for name in ("fresh", "overwrite", "accept_changes") if arguments.__dict__[name]
    ]
    run = ["--run", str(arguments.run)] if arguments.run else []
    allowed = [word for name in arguments.allow_plugins for word in ("--allow-plugins", name)]
    command = again(["pretrain", arguments.recipe, *arguments.overrides, *run, *flags, *allowed])
    return run_processes(command, arguments.processes, say=lambda line: to_stderr(f"foundation: {line}"))


def train(recipe: Recipe, path: Path, arguments: argparse.Namespace) -> None:
    """Train in the folder, together with the other processes of the run; the first one keeps the folder."""
    from foundation.parallel.collective import on_first_rank
    from foundation.parallel.process_group import process_group, ranks_from_environment
    from foundation.run.resume import nothing_left
    from foundation.run.run_folder import RunFolder
    from foundation.run.trainer import Trainer
    from foundation.voice import Voice

    voice = Voice()
    say = voice if ranks_from_environment()[0] == 0 else _silent
    with process_group(recipe.train.device, recipe.train.peer_timeout_seconds), ExitStack() as stack:
        stack.callback(voice.close)
        folder = RunFolder(path)

        def enter() -> str | None:
            if not (arguments.fresh or arguments.accept_changes) and (word := nothing_left(path, recipe)):
                return word
            stack.enter_context(folder)
            prepare(folder, recipe, arguments.fresh, arguments.overwrite, arguments.accept_changes)
            return None

        if finished := on_first_rank(enter):
            say(finished)
            return
        trainer = Trainer(recipe, folder, say, arguments.accept_changes)
        on_first_rank(lambda: begin(folder, trainer))
        trainer.run()
        look = f"export in {folder.export}; look at it: foundation report {shlex.quote(str(folder.path))}"
        say(f"{trainer.stopped_early or f'done: {folder.path}'} ({look})")


def begin(folder, trainer) -> None:
    """Of a run that has no checkpoint yet, keep the recipe, and refuse a folder without room for one. One that goes on
    keeps the recipe that it had until its first save: should it not get so far, it was never changed."""
    from foundation import config

    if trainer.keeper.last is None:
        folder.require_free_bytes(trainer.stage.bytes)
        folder.write_recipe(config.dump(trainer.recipe.lasting), new=True)


def _silent(_: str) -> None:
    return


def prepare(folder, recipe, fresh: bool, overwrite: bool, accept_changes: bool) -> None:
    """Make sure that the folder is new, or holds this very run."""
    from foundation.errors import UserError
    from foundation.run.resume import refuse_another_recipe

    if not folder.used():
        return
    if fresh:
        if not overwrite:
            raise UserError(
                f"{folder.path} already holds a run: leave out --fresh to resume it, choose another --run, "
                "or add --overwrite to remove it"
            )
        folder.clear()
    elif folder.recipe.is_file() and not accept_changes:
        refuse_another_recipe(folder.path, folder.recipe, recipe)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
