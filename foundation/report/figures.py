"""Figures as SVG text: line charts, bars, a confusion matrix.

Drawn by hand instead of a plotting library: the page's own fonts and colours apply, so figures follow dark mode and
stay sharp, and a curve costs kilobytes. Colours are CSS variables of the page (``--c1`` to ``--c6``).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foundation.printable import escape, isolated

WIDTH, HEIGHT = 560, 300
RIGHT, TOP, BOTTOM = 16, 14, 44
COLOURS = 6
MOST_POINTS = 300
MOST_NUMBERED = 12
"""Classes of a confusion matrix with a number in each cell."""


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: in the legend.
        xs: ascending.
        ys: same length; None or NaN leaves a gap.
        dots: mark each point (few measurements).
        dashed: drawn as a reference.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    dots: bool = False
    dashed: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that cover the middle of an interval."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda size: abs(math.log(size / rough)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """A short number for an axis: ``12k``, ``0.05``, ``3e-6``."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit * 0.9995:
            return f"{value / limit:.4g}{letter}"
    if size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _tick_labels(values: Sequence[float]) -> list[str]:
    """Labels of one axis, with as many decimals as tell neighbours apart."""
    labels = [number(value) for value in values]
    if len(set(labels)) == len(labels) and not any("e" in label for label in labels):
        return labels
    if any("e" in label for label in labels) and len(set(labels)) == len(labels):
        return labels
    step = min((abs(b - a) for a, b in pairwise(values)), default=1.0)
    return [f"{value:.{max(0, math.ceil(-math.log10(step)) + 1)}f}" for value in values]


def _thin(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points: means of neighbours."""
    if len(xs) <= MOST_POINTS:
        return xs, ys
    edges = np.linspace(0, len(xs), MOST_POINTS + 1).astype(int)
    return (
        np.array([xs[a:b].mean() for a, b in pairwise(edges)]),
        np.array([ys[a:b].mean() for a, b in pairwise(edges)]),
    )


def _smooth(ys: np.ndarray) -> np.ndarray:
    """Centred moving mean over a fortieth of the curve, shorter towards the ends."""
    half = max(1, len(ys) // 80)
    total = np.concatenate([[0.0], np.cumsum(ys)])
    indices = np.arange(len(ys))
    reach = np.minimum(half, np.minimum(indices, len(ys) - 1 - indices))
    return (total[indices + reach + 1] - total[indices - reach]) / (2 * reach + 1)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    smooth: bool = False,
    zero: bool = False,
    percent: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """A chart of a few lines.

    Args:
        series: lines; those without a finite point are left out.
        x_label: with its unit.
        y_label: with its unit.
        smooth: where there are many points, draw them faintly and a moving mean on top.
        zero: the vertical axis begins at 0.
        percent: values are shares; shown times 100.
        width: of the drawing, in its own units: about the CSS pixels that it will have, so that text stays readable.
        height: likewise.

    Returns:
        An ``<svg>`` element, or an empty string when nothing can be drawn.
    """
    lines = []
    for item in series:
        xs = np.asarray(item.xs, dtype=float)
        ys = np.array([math.nan if y is None else float(y) for y in item.ys]) * (100 if percent else 1)
        good = np.isfinite(xs) & np.isfinite(ys)
        if good.any():
            lines.append((item, xs[good], ys[good]))
    if not lines:
        return ""
    x_low, x_high = min(xs.min() for _, xs, _ in lines), max(xs.max() for _, xs, _ in lines)
    y_low, y_high = min(ys.min() for *_, ys in lines), max(ys.max() for *_, ys in lines)
    if zero:
        y_low = min(0.0, y_low)
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    extent = (y_high - y_low) or abs(y_high) or 1.0
    y_low, y_high = (y_low if zero and y_low == 0 else y_low - 0.06 * extent), y_high + 0.06 * extent

    y_ticks = ticks(y_low, y_high, 5 if height >= HEIGHT else 4)
    y_texts = _tick_labels(y_ticks)
    left = 38 + 7 * max(map(len, y_texts))

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - RIGHT)

    def py(y: float) -> float:
        return height - BOTTOM - (y - y_low) / (y_high - y_low) * (height - TOP - BOTTOM)

    parts = [_open(width, height, f"{y_label} against {x_label}")]
    for value, label in zip(y_ticks, y_texts, strict=True):
        y = py(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    x_ticks = ticks(x_low, x_high, 6 if width >= WIDTH else 4)
    for value, label in zip(x_ticks, _tick_labels(x_ticks), strict=True):
        x, base = px(value), height - BOTTOM
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{width - RIGHT}" y1="{height - BOTTOM}" y2="{height - BOTTOM}"/>')
    parts.append(
        f'<text class="label" x="{(left + width - RIGHT) / 2}" y="{height - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    middle = (TOP + height - BOTTOM) / 2
    parts.append(
        f'<text class="label" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    for index, (item, xs, ys) in enumerate(lines):
        colour = f"s{index % COLOURS + 1}"
        thin_x, thin_y = _thin(xs, ys)

        def path(values: np.ndarray, along: np.ndarray = thin_x) -> str:
            return " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(along, values, strict=True))

        dash = ' stroke-dasharray="5 4"' if item.dashed else ""
        if smooth and len(thin_y) >= 60:
            parts.append(f'<polyline class="line faint {colour}" points="{path(thin_y)}"/>')
            thin_y = _smooth(thin_y)
        if len(thin_x) > 1:
            parts.append(f'<polyline class="line {colour}"{dash} points="{path(thin_y)}"/>')
        if item.dots or len(thin_x) == 1:
            for x, y in zip(xs, ys, strict=True):
                parts.append(
                    f'<circle class="dot {colour}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5">'
                    f"<title>{escape(isolated(item.label))}: {y:.4g} at {x:g}</title></circle>"
                )
    parts.append("</svg>")
    return "".join(parts) + _legend([item.label for item, *_ in lines])


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: in front of it.
        value: share in [0, 1].
        interval: 95 %, in [0, 1], or None.
        note: small, under the label.
        strong: drawn in the accent colour.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    note: str = ""
    strong: bool = False


def bars(rows: Sequence[Bar], *, axis: str, chance: float | None = None) -> str:
    """Horizontal bars of shares, shown in percent, as HTML: names of any length and script wrap, on small screens too.

    Args:
        rows: from top to bottom.
        axis: what the shares are, with the unit.
        chance: share that is marked by a dashed line through all bars; None: no line.
    """
    if not rows:
        return ""
    known = [row.interval[1] for row in rows if row.interval and math.isfinite(row.interval[1])]
    high = max(0.05, *(row.value for row in rows), *known, chance or 0.0)

    def at(share: float) -> str:
        return f"{100 * min(1.0, max(0.0, share / high)):.2f}%"

    line = "" if chance is None else f'<i class="chance" style="left:{at(chance)}"></i>'
    lines = []
    for row in rows:
        whisker = ""
        if row.interval is not None and all(map(math.isfinite, row.interval)):
            low, top = row.interval
            whisker = f'<i class="whisker" style="left:{at(low)};width:{at(top - low)}"></i>'
        note = f"<small>{escape(row.note)}</small>" if row.note else ""
        kind = "bar strong" if row.strong else "bar"
        lines.append(
            f'<div class="{kind}"><div class="of-bar"><bdi>{escape(row.label)}</bdi>{note}</div>'
            f'<div class="track"><i class="fill" style="width:{at(row.value)}"></i>{line}{whisker}</div>'
            f'<div class="amount">{100 * row.value:.1f} %</div></div>'
        )
    marks = ticks(0, 100 * high, 5)
    indices = [
        f'<span style="left:{at(mark / 100)}">{text}</span>'
        for mark, text in zip(marks, _tick_labels(marks), strict=True)
    ]
    said = "" if chance is None else f'<span class="by-chance"><i></i>chance {100 * chance:.1f} %</span>'
    under = [f'<div class="scale">{"".join(indices)}</div>', f'<div class="axis-title">{escape(axis)}{said}</div>']
    lines += [f'<div class="bar"><div class="of-bar"></div>{content}<div></div></div>' for content in under]
    return f'<div class="bars">{"".join(lines)}</div>'


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Confusion matrix, each row normalised: rows are true classes, columns predictions.

    Args:
        counts: [C][C] numbers of samples.
        names: of the classes; numbers are used where one is missing.
    """
    table = np.asarray(counts, dtype=float)
    classes = len(table)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    labels = [names[index] if index < len(names) else str(index) for index in range(classes)]
    shorts = [shortened(label, 16) for label in labels]
    cell = 44 if classes <= MOST_NUMBERED else max(4, 560 // classes)
    shown = classes <= 40
    margin = 26 + (7 * max(map(columns, shorts)) if shown else 10)
    side = cell * classes
    width, height = margin + side + 12, side + margin + 12
    # As large as its cells, and on a small screen no smaller than can be read: its box scrolls.
    style = f"width:{width:g}px;max-width:{'none' if width < 480 else '100%'};min-width:{min(width, 480):g}px"
    parts = [_open(width, height, "confusion matrix", style)]
    for row in range(classes):
        for column in range(classes):
            value = share[row, column]
            x, y = margin + column * cell, 8 + row * cell
            colour = "hit" if row == column else "miss"
            pair = f"{isolated(labels[row])} taken for {isolated(labels[column])}"
            title = f"{pair}: {int(table[row, column])} ({100 * value:.0f} %)"
            parts.append(f'<rect class="cell" x="{x}" y="{y}" width="{cell}" height="{cell}"/>')
            if value > 0.002:
                parts.append(
                    f'<rect class="{colour}" x="{x}" y="{y}" width="{cell}" height="{cell}" '
                    f'fill-opacity="{min(1.0, 0.06 + 0.94 * value):.3f}"><title>{escape(title)}</title></rect>'
                )
            if classes <= MOST_NUMBERED and value >= 0.005:
                strong = " strong" if value > 0.55 else ""
                parts.append(
                    f'<text class="count{strong}" x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle">'
                    f"{100 * value:.0f}</text>"
                )
    if shown:
        for index, name in enumerate(shorts):
            short = escape(name)
            middle = 8 + (index + 0.5) * cell + 4
            parts.append(f'<text class="tick" x="{margin - 6}" y="{middle:.1f}" text-anchor="end">{short}</text>')
            across = margin + (index + 0.5) * cell + 4
            parts.append(
                f'<text class="tick" transform="translate({across:.1f} {side + 16}) rotate(-60)" text-anchor="end">'
                f"{short}</text>"
            )
    parts.append(
        f'<text class="label" transform="translate(13 {8 + side / 2}) rotate(-90)" text-anchor="middle">'
        "true class</text>"
    )
    parts.append(
        f'<text class="label" x="{margin + side / 2}" y="{height - 4}" text-anchor="middle">'
        "predicted class</text></svg>"
    )
    return "".join(parts)


_JOINER = "\u200d"
"""Ties signs to one picture: three persons to a family."""


def columns(text: str) -> int:
    """Width of a text in letters of the Latin script: those of Chinese, Japanese and Korean are twice as wide."""
    return sum(0 if _joins(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def shortened(text: str, most: int) -> str:
    """A text of at most so many columns; signs that belong together are not torn apart."""
    if columns(text) <= most:
        return text
    clusters: list[str] = []
    for sign in text:
        if clusters and (_joins(sign) or clusters[-1].endswith(_JOINER)):
            clusters[-1] += sign
        else:
            clusters.append(sign)
    kept = ""
    for cluster in clusters:
        if columns(kept + cluster) >= most:
            break
        kept += cluster
    return kept.rstrip() + "…"


def _joins(sign: str) -> bool:
    """Whether a sign belongs to the one before it: accents, joiners, choices of a form, tones of skin."""
    return unicodedata.category(sign) in ("Mn", "Me", "Cf") or "\U0001f3fb" <= sign <= "\U0001f3ff"


def _open(width: float, height: float, label: str, style: str = "") -> str:
    own = f' style="{style}"' if style else ""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}"{own}>'


def _legend(labels: Sequence[str]) -> str:
    if len(labels) < 2:
        return ""
    items = "".join(
        f'<span><i class="k{index % COLOURS + 1}"></i>{escape(label)}</span>' for index, label in enumerate(labels)
    )
    return f'<div class="legend">{items}</div>'
