"""One HTML page that sets models side by side, and the same as JSON."""

from __future__ import annotations

from typing import Any

from foundation.printable import escape
from foundation.report import figures, parts
from foundation.report.evaluation import footer, notes
from foundation.report.template import PAGE, STYLE
from foundation.tasks.comparison import LEVEL, RESAMPLES, Comparison, Figure
from foundation.tasks.values import interval, shown
from foundation.tasks.words import method, said

FORMAT = 1


def render(comparison: Comparison, resamples: int = RESAMPLES) -> str:
    """The page.

    Args:
        comparison: of two models or more.
        resamples: of its bootstrap.
    """
    names = ", ".join(comparison.names)
    body = [
        f"<header><h1>{escape(' · '.join(comparison.names))}</h1><p>models side by side</p></header>",
        notes(comparison.warnings, "Before you believe the differences"),
        _table(comparison),
        _words(comparison, resamples),
        '<div class="grid">' + "".join(_bars(comparison, figure) for figure in comparison.figures) + "</div>",
        footer(),
    ]
    page = "\n".join(part for part in body if part)
    return PAGE.format(title=escape(f"{names} · foundation compare"), style=STYLE, body=page)


def as_json(comparison: Comparison, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The same for programs."""
    return {
        "format": FORMAT,
        "kind": "comparison",
        "models": list(comparison.names),
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
        "correction": "Holm over the pairs of one figure",
        "warnings": list(comparison.warnings),
        "figures": [
            {
                "task": figure.task,
                "metric": figure.metric,
                "values": [None if score is None else score.value for score in figure.scores],
                "intervals": [
                    None if score is None or score.interval is None else list(score.interval) for score in figure.scores
                ],
                "differences": [
                    {
                        "models": [comparison.names[one.one], comparison.names[one.two]],
                        "value": one.value,
                        "interval": list(one.interval),
                        "p": one.p,
                        "samples": one.n,
                        "groups": one.groups,
                        "none": one.none,
                        "better": None if one.better is None else comparison.names[one.better],
                        "words": said(comparison, figure, one),
                    }
                    for one in figure.differences
                ],
            }
            for figure in comparison.figures
        ],
    }


def _table(comparison: Comparison) -> str:
    lines = []
    for figure in comparison.figures:
        cells = []
        for score in figure.scores:
            span = "" if score is None else interval(score)
            cells.append("" if score is None else f"{shown(score)}{f' ({span})' if span else ''}")
        lines.append([figure.task, figure.metric, *cells])
    head = ["task", "metric", *comparison.names]
    table = parts.table(head, lines, "All figures", tuple(range(2, len(head))))
    return parts.section(
        "All figures", "In brackets 95 % intervals of each model alone.", f'<div class="card">{table}</div>'
    )


def _words(comparison: Comparison, resamples: int) -> str:
    lines = [
        [figure.task, figure.metric, said(comparison, figure, one)]
        for figure in comparison.figures
        for one in figure.differences
    ]
    if not lines:
        return parts.section("Differences", "", parts.empty("none of these figures is a mean over test samples"))
    table = parts.table(["task", "metric", "difference"], lines, "Differences")
    return parts.section("Differences", method(comparison, resamples), f'<div class="card">{table}</div>')


def _bars(comparison: Comparison, figure: Figure) -> str:
    first = next(score for score in figure.scores if score is not None)
    if not first.share:
        return ""
    rows = [
        figures.Bar(label=name, value=score.value, interval=score.interval, note=score.setting)
        for name, score in zip(comparison.names, figure.scores, strict=True)
        if score is not None
    ]
    drawing = figures.bars(rows, axis="share (%)", chance=first.chance)
    return parts.card(f"{figure.task}: {figure.metric}", drawing)
