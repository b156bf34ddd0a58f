"""A family of sub-networks: accuracy of each size against its parameters and against its latency."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.files import replace_file
from foundation.printable import escape
from foundation.report import figures, names, parts
from foundation.report.figures import Series
from foundation.report.run import Run
from foundation.report.template import STYLE

PROBES = {"knn": "k nearest neighbours", "linear": "Linear probe"}
AXES = (("parameters", 1e-6, "parameters (millions)"), ("seconds", 1e3, "latency of one sample (ms)"))
"""What accuracy is drawn against: key of a row, factor, and how the axis is called."""
_MOST_ROWS = 60


def section(run: Run) -> str:
    """The newest result of ``foundation sizes``; nothing where there is none."""
    result = next((one for one in reversed(run.probes) if one["probe"] == "sizes"), None)
    drawn = [] if result is None else charts(result)
    if result is None or not drawn:
        return ""
    lead = (
        "Sub-networks cut out of the same weights, each scored as a model of its own (foundation zoo extract writes "
        "them). One colour for each width."
    )
    test = names.split_of(result, "test")
    timed = result.get("latency")
    said = [f"scored on {test}"] if test else []
    said += (
        [f"time of {timed['setting']}"] if isinstance(timed, Mapping) and isinstance(timed.get("setting"), str) else []
    )
    cards = "".join(parts.card(title, chart) for title, chart in drawn)
    under = f'<p class="constant">{parts.sentence(", ".join(said))}</p>' if said else ""
    return parts.section("One run, many sizes", lead, f'<div class="grid">{cards}</div>{under}{_table(result)}')


def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Write the charts of a result of ``foundation sizes`` as one picture (SVG)."""
    replace_file(path, poster(charts(result)).encode())
    return path


def charts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and drawing of each chart: every probe against every axis."""
    rows = _rows(result)
    found = []
    for probe, title in PROBES.items():
        for key, factor, axis in AXES:
            series = _series([row for row in rows if row["probe"] == probe], key, factor)
            chart = figures.line_chart(series, x_label=axis, y_label="top-1 accuracy (%)", percent=True)
            if series and chart:
                found.append((f"{title}, by {axis.partition(' (')[0]}", chart))
    return found


def _series(rows: Sequence[Mapping[str, Any]], key: str, factor: float) -> list[Series]:
    """A line for each width, and a dashed one for each baseline."""
    sizes = [row for row in rows if _is_number(row.get(key))]
    if not sizes:
        return []
    series = []
    for width in sorted({row["width"] for row in sizes}):
        own = sorted((row[key] * factor, row["top1"]) for row in sizes if row["width"] == width)
        series.append(Series(f"width {width}", [x for x, _ in own], [y for _, y in own], dots=True))
    ends = [min(row[key] for row in sizes) * factor, max(row[key] for row in sizes) * factor]
    for row in rows:
        if row["name"] != "model":
            series.append(Series(_LABELS.get(row["name"], str(row["name"])), ends, [row["top1"]] * 2, dashed=True))
    return series


_LABELS = {"untrained": "untrained, whole", "raw": "raw input"}


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best row of each size and probe that is sound, in order."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result.get("results") or []:
        sized = row.get("name") != "model" or _is_number(row.get("width"))
        if row.get("probe") not in PROBES or not _is_number(row.get("top1")) or not sized:
            continue
        place = (str(row["probe"]), str(row.get("features")))
        if place not in best or row["top1"] > best[place]["top1"]:
            best[place] = row
    return list(best.values())


def _table(result: Mapping[str, Any]) -> str:
    rows = _rows(result)
    by_name = {str(row.get("features")): row for row in rows}
    lines = []
    for name, row in list(by_name.items())[:_MOST_ROWS]:
        of = {one["probe"]: one for one in rows if str(one.get("features")) == name}
        lines.append(
            [
                _LABELS.get(name, name),
                f"{row['parameters']:,}" if _is_number(row.get("parameters")) else "",
                f"{1e3 * row['seconds']:.3g}" if _is_number(row.get("seconds")) else "",
                *(f"{100 * of[probe]['top1']:.1f}" if probe in of else "" for probe in PROBES),
            ]
        )
    head = ["size", "parameters", "one sample, ms", "kNN %", "linear %"]
    more = f"the {_MOST_ROWS} first of {len(by_name)}" if len(by_name) > _MOST_ROWS else ""
    table = parts.table(head, lines, "Sizes: exact figures", (1, 2, 3, 4), more)
    return f'<div class="card">{table}</div>'


def poster(
    charts: Sequence[tuple[str, str]], columns: int = 2, size: tuple[int, int] = (figures.WIDTH, figures.HEIGHT)
) -> str:
    """Charts as one picture that stands by itself, an SVG.

    Args:
        charts: title and chart of each, as :func:`figures.line_chart` gives it; their lines have the same labels.
        columns: charts side by side.
        size: width and height of each chart.
    """
    gap, above, columns = 24, 34, min(columns, len(charts))
    rows = -(-len(charts) // columns)
    width, height = columns * (size[0] + gap) + gap, rows * (size[1] + above) + gap + 24
    parts = []
    for place, (title, chart) in enumerate(charts):
        x, y = gap + place % columns * (size[0] + gap), place // columns * (size[1] + above)
        drawing = chart.partition("</svg>")[0].replace("<svg ", f'<svg x="{x}" y="{y + above}" width="{size[0]}" ', 1)
        drawing = drawing.replace("viewBox", f'height="{size[1]}" viewBox', 1)
        parts.append(f'<text class="name" x="{x + 60}" y="{y + above - 10}">{escape(title)}</text>{drawing}</svg>')
    labels = re.findall(r"</i>([^<]*)</span>", charts[0][1])
    for place, label in enumerate(labels):  # escaped already
        x, y = gap + 60 + place * 130, height - 18
        parts.append(f'<circle class="dot s{place % figures.COLOURS + 1}" cx="{x}" cy="{y - 4}" r="4.5"/>')
        parts.append(f'<text class="tick" x="{x + 10}" y="{y}">{label}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif"><style>{STYLE}</style>'
        f'<rect width="{width}" height="{height}" fill="var(--card)"/>{"".join(parts)}</svg>\n'
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
