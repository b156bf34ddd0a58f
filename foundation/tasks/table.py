"""The table that a person sees in the terminal when an evaluation is done."""

from __future__ import annotations

import sys

from foundation.printable import cell
from foundation.tasks.comparison import Comparison
from foundation.tasks.evaluation import Evaluation
from foundation.tasks.values import interval, shown
from foundation.tasks.words import method, said

_SHORT = {"the same encoder, untrained": "untrained"}


def show(found: Evaluation) -> None:
    """Print one row for each figure of the model, the baselines beside it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for label in found.baselines:
        table.add_column(cell(_SHORT.get(label, label)), justify="right", overflow="fold", max_width=12)
    roomy = len(found.baselines) <= 2
    if roomy:
        table.add_column("setting")
    for answer in found.answers:
        scores = answer.outcome.scores if answer.outcome else ()
        for place, score in enumerate(score for score in scores if score.features == "model"):
            beside = {other.features: shown(other) for other in scores if other.metric == score.metric}
            table.add_row(
                answer.name if place == 0 else "",
                cell(score.metric),
                shown(score),
                interval(score),
                *(beside.get(label, "") for label in found.baselines),
                *([cell(score.setting)] if roomy else []),
            )
    console = Console(width=None if sys.stdout.isatty() else 110)
    loaded = found.subject.loaded
    for line in (loaded.description, *found.conditions):
        console.print(line, markup=False, highlight=False)
    console.print(table)
    for answer in found.answers:
        for warning in answer.outcome.warnings if answer.outcome else ():
            console.print(f"warning: {answer.name}: {warning}", markup=False, highlight=False)
    for answer in found.answers:
        if answer.outcome is None:
            why = answer.reason.partition("\n")[0]
            console.print(f"left out: {answer.name}: {why}", markup=False, highlight=False)


def show_comparison(comparison: Comparison, resamples: int) -> None:
    """Print one row for each figure, a column for each model, then the differences in words."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in comparison.names:
        table.add_column(cell(name), justify="right", overflow="fold")
    for figure in comparison.figures:
        values = ["" if score is None else shown(score) for score in figure.scores]
        table.add_row(cell(figure.task), cell(figure.metric), *values)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    for warning in comparison.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    for figure in comparison.figures:
        for one in figure.differences:
            text = f"{figure.task}, {figure.metric}: {said(comparison, figure, one)}"
            console.print(text, markup=False, highlight=False)
    how = method(comparison, resamples) or "no differences: none of these figures is a mean over common test samples"
    console.print(how, markup=False, highlight=False)
