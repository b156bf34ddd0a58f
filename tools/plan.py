"""``foundation plan``: what a recipe would need and do on many GPUs. A prediction: nothing is trained."""

from __future__ import annotations

import argparse
import html
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundation.run.gpus import Card
    from foundation.run.plan import Plan
    from foundation.run.predict import Prediction
    from foundation.run.scaling import Estimate

DESCRIPTION = """\
Predict memory of each GPU, bytes on the wire, step time, samples each second, share of the peak (MFU) and days of a
recipe on GPUs that need not be there, for its 'parallel' section and for the alternatives. The model and its constants:
docs/scaling.md. Figures are predicted, not measured."""

EXAMPLES = """\
examples:
  foundation plan dinov2-vitl14 --gpus 96 --gpu h100
                                                      memory, step time and days; what fits and is fastest
  foundation plan my.yaml parallel.data=fsdp --gpus 16 --gpu a100 --per-node 4
  foundation plan dinov2-vitl14 --gpus 1,8,64,512 --gpu h100 --per-gpu 32 --json scaling.json --svg scaling.svg
                                                      weak scaling: the same micro-batch on more and more GPUs
  foundation plan my.yaml --gpus 8 --gpu my-gpu.yaml   rates of your own GPUs (docs/scaling.md)"""

SAMPLES = "samples/s"
_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.plugins import add_option
    from foundation.ranges import Count, argument

    parser.add_argument("recipe", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--gpus", required=True, help="GPUs in all, or several numbers: 1,8,64")
    parser.add_argument("--gpu", required=True, help="kind of GPU: h100, h200, b200, a100, ..., or a YAML file")
    parser.add_argument("--per-node", type=argument(Count), help="GPUs of a node (default: what the GPU's table says)")
    parser.add_argument(
        "--per-gpu",
        type=argument(Count),
        help="samples of a micro-batch on each GPU, so that the batch grows with the GPUs (default: they share it)",
    )
    parser.add_argument("--json", type=output_file, help="also write the figures there")
    parser.add_argument("--svg", type=output_file, help="draw samples each second and GPU against GPUs there")
    add_option(parser)


def run(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.files import write_output
    from foundation.run.gpus import card
    from foundation.run.predict import predict
    from foundation.voice import to_stderr

    chosen = card(arguments.gpu)
    try:
        numbers = [int(word) for word in arguments.gpus.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > 2**20:
        raise UserError(f"--gpus {arguments.gpus}: give a number from 1 to {2**20:,}, or several: 1,8,64")
    per_node = arguments.per_node or chosen.per_node
    found: list[Prediction] = []
    for number in numbers:
        before = found[-1] if found else None
        found.append(predict(planned(arguments, number), number, per_node, chosen, before))
    if len(found) == 1:
        show(found[0], chosen)
    else:
        show_many(found, chosen)
    if arguments.json:
        plain = {
            "recipe": found[0].plan.recipe.name,
            "settings": arguments.overrides,
            "gpu": asdict(chosen),
            "predicted": [in_plain(one, chosen) for one in found],
        }
        write_output(arguments.json, json.dumps(plain, indent=1) + "\n")
    if arguments.svg:
        title = f"{found[0].plan.recipe.name} on {chosen.name}: predicted {SAMPLES} and GPU"
        write_output(arguments.svg, drawn(found, title))
    to_stderr("note: all of this is predicted, not measured; docs/scaling.md says how, and what it leans on")
    return 0


def planned(arguments: argparse.Namespace, gpus: int) -> Plan:
    """The recipe as it would run on so many GPUs."""
    from foundation import config, paths
    from foundation.errors import RecipeError
    from foundation.run.plan import plan
    from foundation.run.recipe import Recipe

    source, settings = paths.recipe(arguments.recipe), [*arguments.overrides]
    recipe = config.load(Recipe, source, settings, own=True)
    if arguments.per_gpu:
        settings.append(f"train.batch_size={arguments.per_gpu * gpus * recipe.train.accumulate}")
        recipe = config.load(Recipe, source, settings, own=True)
    try:
        return plan(recipe, gpus)
    except RecipeError as error:
        raise config.located(error, source, settings) from None


def show(found: Prediction, card: Card) -> None:
    """Print what is predicted for one number of GPUs, and the alternatives."""
    from rich.console import Console
    from rich.table import Table

    one, figures = found.chosen, found.plan
    of = "" if figures.stage is None else f", stage {figures.stage}"
    title = f"{figures.recipe.name}{of}: predicted for {one.layout.gpus:,} x {card.name}, {one.layout}"
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    steps = figures.clock.total_steps
    needed = sum(one.memory.values())
    rows = [
        ("batch", f"{one.batch:,} samples, {one.rows:,} on each GPU" + f" x {one.accumulate}" * (one.accumulate > 1)),
        *((f"memory, {kind}", f"{size / _GIB:,.2f} GiB") for kind, size in one.memory.items()),
        ("memory of each GPU", f"{needed / _GIB:,.1f} GiB"),
        ("with what CUDA and its allocator take", f"{one.total(card):,.1f} of {card.memory:g} GiB{_fits(one)}"),
        ("host memory while a checkpoint is written", f"{one.staging / _GIB:,.2f} GiB for each GPU"),
        ("sent by each GPU in a step, inside its node", f"{one.link / _GIB:,.2f} GiB"),
        ("sent by each GPU in a step, to other nodes", f"{one.network / _GIB:,.2f} GiB"),
        *((f"step, {part}", f"{1e3 * value:,.1f} ms") for part, value in one.seconds.items()),
        ("step", f"{1e3 * one.step:,.1f} ms"),
        *((f"GPU, {_KINDS.get(kind, kind)}", f"{1e3 * value:,.1f} ms") for kind, value in one.busy.items()),
        (SAMPLES, f"{one.rate:,.1f} ({one.rate / one.layout.gpus:,.1f} of each GPU)"),
        ("MFU", f"{100 * one.mfu:.1f} %"),
        ("length", f"{steps:,} steps, {one.days(steps):,.2f} days"),
    ]
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    table = Table(title="alternatives", title_justify="left")
    for heading in ("data", "recompute", "GiB", "fits", "ms a step", SAMPLES, "MFU, %", "days"):
        table.add_column(heading, justify="left" if heading in ("data", "recompute") else "right")
    for other in found.others:
        shard = other.layout.parallel.shard
        data = other.layout.parallel.data + (f" ({shard})" if shard else "")
        cells = [f"{other.total(card):,.1f}", "yes" if other.fits else "no", f"{1e3 * other.step:,.1f}"]
        cells += [f"{other.rate:,.0f}", f"{100 * other.mfu:.1f}", f"{other.days(steps):,.2f}"]
        table.add_row(data, other.layout.checkpointing, *cells)
    console.print(table)
    best = found.best
    if best is None:
        console.print("none of them fits: lower train.batch_size, or raise train.accumulate or --gpus")
    else:
        console.print(
            f"the fastest that fits: {best.layout.settings} (differences below a third lie within the model's error)"
        )


_KINDS = {"matrix": "matrix products", "traffic": "elementwise traffic", "update": "optimizer and averages"}


def _fits(one: Estimate) -> str:
    return "" if one.fits else ": does not fit"


def show_many(found: list[Prediction], card: Card) -> None:
    """Print a row for each number of GPUs."""
    from rich.console import Console
    from rich.table import Table

    kinds = columns(found)
    first = found[0].chosen
    table = Table(
        title=f"{found[0].plan.recipe.name}: predicted {SAMPLES} of each {card.name}, by parallel.data; for "
        f"{first.layout.parallel.data} all samples/s, ms that a GPU waits in a step, and days",
        title_justify="left",
    )
    for heading in ("GPUs", "batch", *kinds, SAMPLES, "waits", "days", "fits"):
        table.add_column(heading, justify="right")
    for one in found:
        cells = []
        for kind in kinds:
            there = plain_of(one, kind)
            unfit = "" if there is None or there.fits else " *"
            cells.append("" if there is None else f"{there.rate / there.layout.gpus:,.1f}{unfit}")
        waits = one.chosen.step - one.chosen.seconds["GPU"]
        days = f"{one.chosen.days(one.plan.clock.total_steps):,.1f}"
        row = (
            f"{one.chosen.layout.gpus:,}",
            f"{one.chosen.batch:,}",
            *cells,
            f"{one.chosen.rate:,.0f}",
            f"{1e3 * waits:,.1f}",
            days,
        )
        table.add_row(*row, "yes" if one.chosen.fits else "no")
    Console().print(table, "* does not fit", sep="")


def columns(found: list[Prediction]) -> list[str]:
    """Kinds of sharing that are compared."""
    return [*dict.fromkeys(other.layout.parallel.data for one in found for other in one.others)]


def plain_of(one: Prediction, data: str) -> Estimate | None:
    """The alternative of this kind that checkpoints as the recipe does."""
    wanted = one.chosen.layout.checkpointing
    same = [e for e in one.others if e.layout.parallel.data == data and e.layout.checkpointing == wanted]
    return same[0] if same else None


def in_plain(one: Prediction, card: Card) -> dict[str, Any]:
    """As JSON has it."""
    steps = one.plan.clock.total_steps

    def of(estimate: Estimate) -> dict[str, Any]:
        return {
            "gpus": estimate.layout.gpus,
            "per_node": estimate.layout.per_node,
            "parallel": asdict(estimate.layout.parallel),
            "samples_per_gpu": estimate.rows,
            "accumulate": estimate.accumulate,
            "batch": estimate.batch,
            "memory_bytes": estimate.memory,
            "memory_gib_with_reserve": estimate.total(card),
            "fits": estimate.fits,
            "staging_bytes": estimate.staging,
            "link_bytes": estimate.link,
            "network_bytes": estimate.network,
            "step_seconds": estimate.seconds,
            "gpu_seconds": estimate.busy,
            "flops_per_gpu": estimate.flops,
            "samples_per_second": estimate.rate,
            "mfu": estimate.mfu,
            "days": estimate.days(steps),
        }

    return {
        "steps": steps,
        "recipe": of(one.chosen),
        "alternatives": [of(other) for other in one.others],
        "sensitivity": one.sensitivity,
    }


_COLOURS = {"ddp": "#3366aa", "fsdp": "#cc5522", "hsdp": "#228844", "fairscale": "#886699"}


def drawn(found: list[Prediction], title: str) -> str:
    """A picture as SVG: samples each second and GPU against GPUs, a line for each kind of sharing."""
    kinds = columns(found)
    width, height, left, top, bottom = 680, 380, 70, 50, 50
    gpus = [one.chosen.layout.gpus for one in found]
    lines = {
        kind: [(e.layout.gpus, e.rate / e.layout.gpus) for one in found if (e := plain_of(one, kind))] for kind in kinds
    }
    most = 1.1 * max(rate for line in lines.values() for _, rate in line)
    low, high = math.log2(min(gpus)), max(math.log2(max(gpus)), math.log2(min(gpus)) + 1)

    def at(number: int, rate: float) -> tuple[float, float]:
        x = left + (math.log2(number) - low) / (high - low) * (width - left - 30)
        return x, height - bottom - rate / most * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="24" font-size="15">{html.escape(title)}</text>',
    ]
    for tick in range(5):
        rate = most / 1.1 * tick / 4
        _, y = at(gpus[0], rate)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 30}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{rate:,.0f}</text>')
    for number in gpus:
        x, _ = at(number, 0.0)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 20}" text-anchor="middle">{number:,}</text>')
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 8}" text-anchor="middle">GPUs</text>')
    for place, (kind, line) in enumerate(lines.items()):
        points = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in line)
        colour = _COLOURS[kind]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += ['<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(*at(*point), colour) for point in line]
        y = height - bottom - 20 - 18 * place
        parts.append(f'<text x="{left + 14}" y="{y}" fill="{colour}">{kind}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
