"""``foundation bench checkpoint``: how long training stands still for a checkpoint, synchronous and asynchronous."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.run.recipe import Recipe

DESCRIPTION = """\
Time that training stands still for a checkpoint of a recipe's whole state (student, EMA teacher, AdamW), written in the
foreground and in the background, and how much slower the steps are while it is written. The steps are real ones on
random views. Needs the memory of the state twice and room for three checkpoints. Several processes (torchrun) measure a
sharded state that all write: parallel.data=fsdp."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, argument

    parser.add_argument("recipe", nargs="?", default="quickstart", help="recipe whose state to save (quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--batch", type=argument(Count), default=1, help="samples per step (default: 1)")
    parser.add_argument(
        "--rounds", type=argument(Count), default=3, help="checkpoints of each kind, in turn (default: 3)"
    )
    parser.add_argument(
        "--steps", type=argument(Count), default=3, help="steps that nothing disturbs, in each round (default: 3)"
    )
    parser.add_argument("--threads", type=argument(Count), help="threads of torch (default: its own choice)")
    parser.add_argument("--out", type=Path, help="folder on the disk to measure (default: the temporary folder)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    from foundation import config, paths
    from foundation.parallel.process_group import process_group
    from foundation.run.recipe import Recipe

    recipe = config.load(Recipe, paths.recipe(arguments.recipe), [*arguments.overrides, "train.accumulate=1"], own=True)
    with process_group(recipe.train.device):
        return measure(arguments, recipe)


def measure(arguments: argparse.Namespace, recipe: Recipe) -> int:
    """In each process of the run."""
    import shutil
    import statistics
    import time

    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.checkpoints.saver import Config, Saver
    from foundation.engine import state
    from foundation.errors import UserError
    from foundation.files import write_output
    from foundation.parallel.blocks import any_sharded
    from foundation.parallel.collective import on_first_rank, rank, world_size
    from foundation.run.rehearsal import Rehearsal, random_batch
    from foundation.schedules import Clock, Duration

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    step = Rehearsal(recipe, arguments.batch)
    batch = random_batch(recipe, arguments.batch).to(step.placement.device)
    number = 0

    def timed(action: Callable[[], object]) -> float:
        begun = time.perf_counter()
        action()
        if step.placement.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def train(kind: str) -> None:
        begun = time.thread_time()
        figures[f"{kind}_step"].append(timed(lambda: step(batch)))
        figures[f"{kind}_step_processor"].append(time.thread_time() - begun)

    timed(lambda: step(batch))
    captured = state.capture(step.learner, step.optimizer)
    size = sum(t.numel() * t.element_size() for group in captured.values() for t in group.values())
    sharded = any_sharded(captured)
    if world_size() > 1 and not sharded:
        raise UserError("several processes measure a sharded state: say parallel.data=fsdp")
    figures: dict[str, list[float]] = {
        "undisturbed_step": [], "undisturbed_step_processor": [], "synchronous": [], "asynchronous": [],
        "asynchronous_writing": [], "disturbed_step": [], "disturbed_step_processor": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.out) as own_folder:
        folder = on_first_rank(lambda: own_folder)
        if shutil.disk_usage(folder).free < 3.2 * size:
            raise UserError(f"{folder} has no room for three checkpoints of {size:,} bytes: choose a disk by --out")
        savers = {}
        for kind in ("synchronous", "asynchronous"):
            settings = Config(every=Duration(1), asynchronous=kind == "asynchronous")
            savers[kind] = Saver(Path(folder), settings, Clock(1000, 100.0), print)
        preparing = timed(lambda: savers["asynchronous"].prepare(state.capture(step.learner, step.optimizer)))

        def save(kind: str) -> float:
            nonlocal number
            number += 1
            numbers = {"step": number}
            return timed(lambda: savers[kind].save(number, state.capture(step.learner, step.optimizer), numbers))

        for _ in range(arguments.rounds):
            for _ in range(arguments.steps):
                train("undisturbed")
            figures["synchronous"].append(save("synchronous"))
            timed(lambda: step(batch))  # takes its memory back from the disk's cache
            own = savers["asynchronous"]
            figures["asynchronous"].append(save("asynchronous"))
            while on_first_rank(own.writing):
                train("disturbed")
            own.wait()
            figures["asynchronous_writing"].append(own.seconds or 0.0)
        for each in savers.values():
            each.close()
        on_first_rank(lambda: None)  # process 0 removes the folder
    middle = {f"{name}_seconds": statistics.median(values) for name, values in figures.items() if values}
    parameters = sum(p.numel() for p in step.optimizer.parameters())
    ratios = [a / b for a, b in zip(figures["asynchronous"], figures["synchronous"], strict=True)]
    result = {
        "recipe": recipe.name, "parameters": parameters, "checkpoint_gigabytes": size / 1e9,
        "device": str(step.placement.device), "processes": world_size(),
        "threads": torch.get_num_threads(), "rounds": arguments.rounds, **middle,
        "preparing_seconds": preparing, "asynchronous_over_synchronous": statistics.median(ratios),
        "asynchronous_over_synchronous_min": min(ratios), "asynchronous_over_synchronous_max": max(ratios),
    }  # fmt: skip
    for kind in ("step", "step_processor"):  # the second is the training thread's own time: no waiting for a processor
        if figures[f"disturbed_{kind}"]:
            ratio = result[f"disturbed_{kind}_seconds"] / result[f"undisturbed_{kind}_seconds"]
            result[f"disturbed_over_undisturbed_{kind}"] = ratio
    if rank() != 0:
        return 0
    table = Table(title=f"checkpoint of {recipe.name}", show_header=False, title_justify="left")
    for key, value in result.items():
        shown = f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        table.add_row(key.replace("_", " "), shown)
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(result | {"all_seconds": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
