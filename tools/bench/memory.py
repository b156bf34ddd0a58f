"""``foundation bench memory``: peak memory of real steps of a recipe beside the estimate of its dry run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

DESCRIPTION = """\
Peak memory of some training steps of a recipe on random views, in this fresh process, beside what
'foundation pretrain RECIPE --dry-run' predicts. On a CPU: every piece of memory that torch allocates and frees, by its
profiler, from before the model is built; with --resident the growth of the largest resident set size instead, which
has the libraries' own scratch memory in it. On a GPU: the largest amount that torch held."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, argument

    parser.add_argument("recipe", nargs="?", default="quickstart", help="recipe to weigh (default: quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--batch", type=argument(Count), default=4, help="samples per step (default: 4)")
    parser.add_argument("--steps", type=argument(Count), default=3, help="steps to take (default: 3)")
    parser.add_argument("--threads", type=argument(Count), help="threads of torch (default: its own choice)")
    parser.add_argument("--resident", action="store_true", help="on a CPU: memory of the process, not of torch alone")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation import config, paths
    from foundation.files import write_output
    from foundation.measure.memory import allocated
    from foundation.run import build
    from foundation.run.plan import plan
    from foundation.run.recipe import Recipe
    from foundation.run.rehearsal import Rehearsal, random_batch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    fixed = [f"train.batch_size={arguments.batch}", "train.accumulate=1"]
    recipe = config.load(Recipe, paths.recipe(arguments.recipe), [*arguments.overrides, *fixed], own=True)
    if not recipe.data.samples_per_epoch:
        recipe = config.load(
            Recipe,
            paths.recipe(arguments.recipe),
            [*arguments.overrides, *fixed, "data.samples_per_epoch=10000"],
            own=True,
        )
    estimate = plan(recipe).memory
    placement = build.placement(recipe)
    by_profiler = placement.device.type == "cpu" and not arguments.resident
    warm_up(recipe)

    def steps() -> None:
        step = Rehearsal(recipe, arguments.batch)
        batch = random_batch(recipe, arguments.batch).to(placement.device)
        for _ in range(arguments.steps):
            step(batch)

    if by_profiler:
        measured = allocated(steps)
    else:
        before = held(recipe)
        steps()
        measured = peak(recipe) - before
    figures = {
        "recipe": recipe.name,
        "batch": arguments.batch,
        "device": str(placement.device),
        "precision": str(placement.autocast or torch.float32),
        "counted": "torch's allocations"
        if by_profiler
        else "resident size"
        if placement.device.type == "cpu"
        else "held",
        "estimate": {name: size / 2**20 for name, size in estimate.items()},
        "estimate_mebibytes": sum(estimate.values()) / 2**20,
        "measured_mebibytes": measured / 2**20,
        "measured_over_estimate": measured / sum(estimate.values()),
    }
    table = Table(title=f"memory of {recipe.name}, batch {arguments.batch}", show_header=False, title_justify="left")
    flat = {k: v for k, v in figures.items() if k != "estimate"} | {
        f"estimate, {name}": mebibytes for name, mebibytes in figures["estimate"].items()
    }
    for key, value in flat.items():
        table.add_row(key.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


def warm_up(recipe) -> None:
    """Make the libraries allocate what they keep for themselves, so that it is not counted as the recipe's."""
    import torch

    from foundation.engine.adamw import AdamW
    from foundation.run import build

    placement = build.placement(recipe)
    with torch.autocast(placement.device.type, placement.autocast, enabled=placement.autocast is not None):
        layer = torch.nn.Linear(64, 64, device=placement.device)
        layer(torch.randn(64, 64, device=placement.device)).sum().backward()
    AdamW([list(layer.parameters())], (0.9, 0.999), 1e-8, fused=True).step()


def held(recipe) -> int:
    """Bytes in use now: of the process on a CPU, of torch on a GPU."""
    import torch

    from foundation.run import build

    if build.placement(recipe).device.type == "cuda":
        return torch.cuda.memory_allocated()
    # The high-water mark, not the current size: what an import used for a moment must not count either.
    return peak(recipe)


def peak(recipe) -> int:
    """The most bytes in use so far."""
    import torch

    from foundation.measure.memory import peak_of_process
    from foundation.run import build

    if build.placement(recipe).device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_of_process()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
