"""Charts: round ticks, gaps, and well-formed SVG."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from foundation.report import figures
from foundation.report.figures import Bar, Series


def parsed(svg):
    return ElementTree.fromstring(svg[: svg.index("</svg>") + 6])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.9), (1e-6, 4e-4), (9_990, 10_010), (0.1, 1e6)])
def test_ticks_are_round_and_inside(low, high):
    ticks = figures.ticks(low, high)
    assert 3 <= len(ticks) <= 9
    slack = 1e-9 * (high - low)
    assert low - slack <= min(ticks) <= max(ticks) <= high + slack
    assert len(set(figures._tick_labels(ticks))) == len(ticks)


def test_numbers_are_short():
    shown = [figures.number(value) for value in (0, 1500, 2_000_000, 0.05, 3e-6, -12)]
    assert shown == ["0", "1.5k", "2M", "0.05", "3e-6", "-12"]


def test_a_chart_is_well_formed_and_names_its_axes():
    svg = figures.line_chart(
        [
            Series("a <b>", range(200), [math.sin(x / 9) for x in range(200)]),
            Series("c", [0, 100], [0.1, 0.2], dots=True),
        ],
        x_label="step & more",
        y_label="loss <nats>",
        smooth=True,
    )
    tree = parsed(svg)
    texts = [element.text for element in tree.iter("text")]
    assert {"step & more", "loss <nats>"} <= set(texts)
    assert len(list(tree.iter("polyline"))) == 3  # the faint one, its mean, the dotted one
    assert "a &lt;b&gt;" in svg


def test_what_is_not_finite_leaves_a_gap_and_nothing_gives_no_chart():
    line = Series("a", [0, 1, 2, 3], [1.0, None, math.nan, 2.0])
    (polyline,) = parsed(figures.line_chart([line], x_label="x", y_label="y")).iter("polyline")
    assert len(polyline.attrib["points"].split()) == 2
    assert figures.line_chart([Series("a", [0], [None])], x_label="x", y_label="y") == ""
    assert figures.line_chart([], x_label="x", y_label="y") == ""


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [5.0, 5.0, 5.0], [1e-9, 1e9]])
def test_flat_and_wild_curves_are_drawn_inside_the_frame(values):
    tree = parsed(figures.line_chart([Series("a", range(len(values)), values)], x_label="x", y_label="y"))
    for element in tree.iter("circle"):
        assert 0 <= float(element.attrib["cy"]) <= figures.HEIGHT
    for element in tree.iter("polyline"):
        for point in element.attrib["points"].split():
            assert 0 <= float(point.split(",")[1]) <= figures.HEIGHT


def test_long_curves_are_thinned():
    svg = figures.line_chart([Series("a", range(100_000), [1.0 * x for x in range(100_000)])], x_label="x", y_label="y")
    assert len(svg) < 20_000


def test_bars_and_confusions_are_well_formed():
    bars = [Bar("a & b", 0.5, (0.4, 0.6), note="whitened"), Bar("c", 0.0)]
    tree = ElementTree.fromstring(figures.bars(bars, axis="top-1 (%)", chance=0.25))
    texts = list(tree.itertext())
    assert texts.count("50.0 %") == 1 and {"a & b", "whitened", "top-1 (%)", "chance 25.0 %"} <= set(texts)
    drawn = [element.attrib for element in tree.iter("i") if "style" in element.attrib]
    assert [item["class"] for item in drawn] == ["fill", "chance", "whisker", "fill", "chance"]
    assert drawn[1]["style"] == "left:41.67%"  # 25 of the 60 that the interval reaches
    tree = parsed(figures.confusion([[8, 2], [0, 0]], ["<cat>"]))
    titles = [element.text for element in tree.iter("title")]
    assert "<cat> taken for 1: 2 (20 %)" in titles
    assert parsed(figures.confusion([[1] * 100] * 100, [])) is not None


def test_long_class_names_are_cut_where_signs_of_any_script_end():
    assert figures.shortened("short", 16) == "short"
    assert figures.shortened("长江大桥的夜景照片", 10) == "长江大桥…"  # two columns each
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert figures.shortened(family * 9, 8) == family + "…"  # no member is left alone
    assert figures.columns("e\u0301a") == 2
