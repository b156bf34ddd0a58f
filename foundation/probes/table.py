"""The table of a probe: one row for each feature, one column for each treatment of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundation.printable import cell, printable

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {"model": "the model", "untrained": "the same, untrained"}


def best_rows(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """For each feature (name and label), in order, the best row of each treatment."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        of = found.setdefault((row["name"], row["features"]), {})
        if row["treatment"] not in of or row["top1"] > of[row["treatment"]]["top1"]:
            of[row["treatment"]] = row
    return found


def show(title: str, model: str, rows: Sequence[Mapping[str, Any]], note: str, data: Mapping[str, Any]) -> None:
    """Print the table of a probe, which fits 80 columns, with what it is of above and how to read it below.

    Args:
        title: names the probe.
        model: what was scored; it is cut to one line.
        rows: of the result file: ``name``, ``features``, ``treatment``, ``top1``, ``balanced``, ``interval``, ``n``.
        note: on the settings.
        data: what the result file says of the splits.
    """
    from rich.console import Console

    samples = rows[0]["n"] if rows else 0
    console = Console()
    above = f"{title}: top-1 in %, {samples:,} test sample{'' if samples == 1 else 's'}\n{_cut(model, 78)}"
    best = "the best treatment (bold)" if console.is_terminal else "the best treatment"
    groups = data.get("groups", {}).get("test")
    together = f" Intervals count the samples of each of {groups:,} groups together." if groups else ""
    below = f"95 % interval and balanced accuracy are those of {best}.\n{note}{together}"
    console.print(above, markup=False, highlight=False)
    console.print(summary(rows))
    console.print(below, markup=False, highlight=False)


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each feature, one column for each treatment; arguments as for :func:`show`."""
    from rich import box
    from rich.table import Table

    features = best_rows(rows)
    treatments = list(dict.fromkeys(row["treatment"] for row in rows))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("features", min_width=16)
    for treatment in (*treatments, "95 %", "balanced"):
        table.add_column(treatment, justify="right", no_wrap=True)
    highest = max((row["top1"] for of in features.values() for row in of.values()), default=0)
    for (name, label), of in features.items():
        best = max(of.values(), key=lambda row: row["top1"])
        cells = []
        for treatment in treatments:
            row = of.get(treatment)
            shown = "" if row is None else percent(row["top1"])
            cells.append(f"[bold]{shown}[/bold]" if row is best else shown)
        style = "green" if best["top1"] == highest else None
        table.add_row(
            cell(LABELS.get(name, label)),
            *cells,
            span(best["interval"]),
            percent(best["balanced"]),
            style=style,
        )
    return table


def _cut(text: str, width: int) -> str:
    """One line that keeps both ends of a long text."""
    text = printable(text, isolates=True)
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[-(width - 1 - left) :]}"


def percent(value: float) -> str:
    """0.4567 -> ``45.7``."""
    return f"{100 * value:.1f}"


def span(interval: Sequence[float] | None) -> str:
    """95 % interval in percent."""
    if interval is None:
        return "none: one group"
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"
