"""Writes ``docs/model_zoo.md`` from the cards in ``model_zoo``: what each model is, what it scored, its licence."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.zoo.entry import Entry

DESCRIPTION = "Write docs/model_zoo.md from the cards in model_zoo."

INTRODUCTION = """\
# The models of the zoo

<!-- Written by tools/zoo_page.py (make docs). Do not edit. -->

Each is loaded by its name, `foundation.load("NAME")`, and every command takes the name where it takes a model. How
models are pulled, checked and published: [the model zoo](use-the-zoo.md). Scores stand with their 95 % intervals; those
of models that were trained here were measured by the command below them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is out of date")
    parser.add_argument("--out", type=Path, default=None, help="file to write (default: docs/model_zoo.md)")


def run(arguments: argparse.Namespace) -> int:
    root = Path(__file__).resolve().parents[1]
    out: Path = arguments.out or root / "docs" / "model_zoo.md"
    text = page(root / "model_zoo")
    if arguments.check:
        fresh = out.is_file() and out.read_text(encoding="utf-8") == text
        print(f"{out} is {'up to date' if fresh else 'out of date: run `make docs`'}")
        return 0 if fresh else 1
    out.write_text(text, encoding="utf-8")
    print(f"wrote {out}")
    return 0


def page(folder: Path) -> str:
    """The whole page about the cards in a folder."""
    from foundation.zoo.entry import read

    entries = [read(path) for path in sorted(folder.glob("*.yaml"))]
    lines = [INTRODUCTION, "| name | modality | parameters | licence | what it is |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| [{entry.name}](#{anchor(entry.name)}) | {entry.modality} | {entry.architecture.parameters:,} | "
        f"{cell(entry.licence)} | {cell(entry.summary)} |"
        for entry in entries
    ]
    for entry in entries:
        lines += ["", f"## {entry.name}", "", *section(entry)]
    return "\n".join(lines) + "\n"


def anchor(name: str) -> str:
    """Of a heading, as Markdown viewers make it."""
    return name.replace(".", "")


def cell(text: str) -> str:
    """A text in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def section(entry: Entry) -> list[str]:
    """About one model."""
    from foundation.zoo.overview import size_of

    kind, fed = entry.architecture, entry.input
    details = "".join(f", {key.replace('_', ' ')} {value}" for key, value in kind.details.items())
    depth = "-".join(map(str, kind.depth))
    lines = [f"{entry.summary}.", ""]
    lines += [
        f"- encoder: `{kind.encoder}`, {kind.parameters:,} parameters, width {kind.width}, depth {depth}{details}"
    ]
    rate = f", {fed.rate:g} per second" if fed.rate else ""
    lines += [f"- input: {' x '.join(map(str, fed.shape))}{rate}" + (f", {fed.units}" if fed.units else "")]
    if fed.mean:
        lines += [f"- normalised: mean {numbers(fed.mean)}, deviation {numbers(fed.deviation)}"]
    lines += [f"- recipe: {linked(entry.recipe)}"] if entry.recipe else []
    lines += [f"- data: {data.name} ({data.licence})" + (f", <{data.url}>" if data.url else "") for data in entry.data]
    lines += [f"- licence of the weights: {entry.licence}"]
    lines += [f"- {parent.how} from `{parent.of}`" for parent in entry.parents]
    lines += [f"- files: {size_of(entry.size)}, in the package"] if entry.files else []
    lines += [f"- loaded by: `{entry.loads}`"] if entry.loads else []
    lines += [f"- {entry.notes}"] if entry.notes else []
    if entry.reproduce:
        lines += ["", "Trained again by", "", "```", entry.reproduce, "```"]
    if entry.metrics:
        lines += ["", "| task | score | 95 % | n | protocol |", "| --- | --- | --- | --- | --- |"]
        for metric in entry.metrics:
            ends = "-".join(f"{end:.3f}" for end in metric.interval) if metric.interval else ""
            count = f"{metric.n:,}" if metric.n else ""
            score = f"{metric.metric} {metric.value:.3f}"
            lines.append(f"| {cell(metric.task)} | {score} | {ends} | {count} | {cell(metric.protocol)} |")
        commands = dict.fromkeys(metric.command for metric in entry.metrics if metric.command)
        lines += ["", "```", *commands, "```"] if commands else []
    return lines


def linked(text: str) -> str:
    """The name of a recipe, or words with addresses."""
    return f"`{text}`" if " " not in text else text.replace("(http", "(<http").replace(")", ">)")


def numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
