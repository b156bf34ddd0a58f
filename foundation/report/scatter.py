"""A chart of named points on a logarithmic axis: models by their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foundation.printable import escape, isolated
from foundation.report.figures import COLOURS, columns, number, shortened, ticks

WIDTH, HEIGHT = 600, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 16, 46
_LETTER = 7.2  # pixels of a letter, on average


@dataclass(frozen=True)
class Point:
    """One model.

    Attributes:
        name: written beside it.
        x: above 0.
        y: share in [0, 1].
        interval: 95 % of ``y``, or None.
        family: points of one family have one colour and are joined by a line in the order of ``x``; empty: alone.
    """

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None = None
    family: str = ""


def scatter(points: Sequence[Point], *, x_label: str, y_label: str) -> str:
    """The chart as SVG text; nothing without points. Shares are written in percent.

    Args:
        points: to draw; one whose ``x`` is not above 0, or whose ``y`` is not finite, is left out.
        x_label: of the logarithmic axis, with its unit.
        y_label: of the other.
    """
    points = [one for one in points if one.x > 0 and math.isfinite(one.x) and math.isfinite(one.y)]
    if not points:
        return ""
    low_x, high_x = (math.log10(pick(one.x for one in points)) for pick in (min, max))
    room = max(0.15, 0.12 * (high_x - low_x))
    low_x, high_x = low_x - room, high_x + 2 * room
    ends = [value for one in points for value in (one.y, *(one.interval or ()))]
    low_y, high_y = 100 * min(ends), 100 * max(ends)
    margin = max(1.0, 0.1 * (high_y - low_y))
    low_y, high_y = low_y - margin, high_y + margin

    def px(x: float) -> float:
        return _LEFT + (math.log10(x) - low_x) / (high_x - low_x) * (WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return HEIGHT - _BOTTOM - (100 * y - low_y) / (high_y - low_y) * (HEIGHT - _TOP - _BOTTOM)

    drawn = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} against {escape(x_label)}">'
    ]
    drawn += _axes((low_x, high_x), (low_y, high_y), px, py, x_label, y_label)
    families: dict[str | int, list[Point]] = {}
    for place, one in enumerate(points):
        families.setdefault(one.family or place, []).append(one)
    taken = [(px(one.x) - 6, py(one.y) - 6, px(one.x) + 6, py(one.y) + 6) for one in points]
    taken += [
        (px(one.x) - 3, py(one.interval[1]), px(one.x) + 3, py(one.interval[0])) for one in points if one.interval
    ]
    for place, several in enumerate(families.values()):
        own = sorted(several, key=lambda one: one.x)
        colour = f"s{place % COLOURS + 1}"
        if len(own) > 1:
            path = " ".join(f"{px(one.x):.1f},{py(one.y):.1f}" for one in own)
            drawn.append(f'<polyline class="line {colour}" points="{path}"/>')
        for one in own:
            whisker = None if one.interval is None else (py(one.interval[0]), py(one.interval[1]))
            drawn += _point(one, colour, px(one.x), py(one.y), whisker, taken)
    return "".join(drawn) + "</svg>"


_Box = tuple[float, float, float, float]
_PLACES = (
    (10, 4, "start"), (-10, 4, "end"), (0, -12, "middle"), (0, 22, "middle"), (10, -11, "start"), (10, 19, "start"),
    (-10, -11, "end"), (-10, 19, "end"), (12, -26, "start"), (12, 34, "start"),
)  # fmt: skip
"""Where a name may stand beside its point: pixels right and down, and which end of it that is."""


def _point(
    one: Point, colour: str, x: float, y: float, whisker: tuple[float, float] | None, taken: list[_Box]
) -> list[str]:
    """A point with its interval, and its name where there is room for it."""
    said = f"{one.name}: {100 * one.y:.1f} % at {number(one.x)}"
    drawn = []
    if whisker is not None:
        drawn.append(
            f'<line class="line {colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{whisker[0]:.1f}" y2="{whisker[1]:.1f}"/>'
        )
    drawn.append(
        f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(isolated(said))}</title></circle>'
    )
    text = shortened(one.name, 30)
    wide = columns(text) * _LETTER
    for dx, dy, anchor in _PLACES:
        begin = x + dx - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        box = (begin, y + dy - 11, begin + wide, y + dy + 3)
        free = not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
        if free and box[0] >= _LEFT and box[2] <= WIDTH and box[1] >= _TOP and box[3] <= HEIGHT - _BOTTOM:
            taken.append(box)
            drawn.append(
                f'<text class="name" x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">'
                f"{escape(isolated(text))}</text>"
            )
            break
    return drawn


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    px: Callable[[float], float],
    py: Callable[[float], float],
    x_label: str,
    y_label: str,
) -> list[str]:
    """Grid, ticks (1, 2 and 5 times powers of ten) and labels."""
    drawn, base = [], HEIGHT - _BOTTOM
    for value in ticks(*y_range):
        y = py(value / 100)
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    steps = (1, 2, 5) if x_range[1] - x_range[0] < 2.5 else (1,)
    powers = range(math.floor(x_range[0]), math.ceil(x_range[1]) + 1)
    for value in (step * 10.0**power for power in powers for step in steps):
        if x_range[0] <= math.log10(value) <= x_range[1]:
            x = px(value)
            drawn.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
            drawn.append(f'<text class="tick" x="{x:.1f}" y="{base + 18}" text-anchor="middle">{number(value)}</text>')
    drawn.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (_TOP + base) / 2
    drawn.append(
        f'<text class="label" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="label" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return drawn
