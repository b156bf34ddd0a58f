"""Comparisons in words."""

from __future__ import annotations

from foundation.tasks.comparison import Comparison, Difference, Figure


def said(comparison: Comparison, figure: Figure, one: Difference) -> str:
    """A difference in words."""
    score = figure.scores[one.one]
    assert score is not None, "a difference is of two scores"
    scale, unit = (100, " points") if score.share else (1, "")
    names = comparison.names[one.one], comparison.names[one.two]
    low, high = (f"{scale * edge + 0.0:+.3g}" for edge in one.interval)
    span = f"(95 % {low} to {high}, p = {one.p:.2g})"
    if one.none:
        return f"no difference between {names[0]} and {names[1]}: {scale * one.value:+.3g}{unit} {span}"
    if one.better is None:
        return f"{names[1]} is at {scale * one.value:+.3g}{unit} of {names[0]} {span}"
    worse = one.one + one.two - one.better
    by = f"{scale * abs(one.value):.3g}{unit}"
    return f"{comparison.names[one.better]} is better than {comparison.names[worse]} by {by} {span}"


def method(comparison: Comparison, resamples: int) -> str:
    """How the differences come about; empty where there are none."""
    if not any(figure.differences for figure in comparison.figures):
        return ""
    pairs = max((len(figure.differences) for figure in comparison.figures), default=0)
    grouped = any(one.groups is not None for figure in comparison.figures for one in figure.differences)
    what = "groups of test samples" if grouped else "test samples"
    corrected = (
        f"p values of the {pairs} pairs in one figure are corrected after Holm; over figures nothing is corrected"
        if pairs > 1
        else "p values are not corrected for the number of figures"
    )
    return (
        f"Differences are second less first, on the same test samples: paired bootstrap of {what}, {resamples:,} "
        f"resamples, 95 % intervals; p values by the randomisation test. {corrected}. A figure without a difference in "
        "words is no mean over test samples. "
        "What training samples were drawn, and the seed of the training, add to the uncertainty and are not in it."
    )
