"""The sentence that probe results come down to: above, level, below, chance, and results of older versions."""

from __future__ import annotations

import math

import pytest

from foundation.report.verdict import scores, verdict

BASELINES = {"colours of cells": ("simple", 0.276), "raw image": ("raw", 0.15), "untrained twin": ("untrained", 0.2)}


def wilson(share, n, z=1.96):
    centre, half = share + z * z / 2 / n, z * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    return [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]


def result(probe, model, others=BASELINES, n=612, counts=False, treatments=True):
    """As a probe writes it: 18 classes of 34 samples each."""
    rows = [("model", "run at step 9", model), *((name, label, value) for label, (name, value) in others.items())]
    content = {"probe": probe, "data": {"test": {"digest": "d", "samples": n}}}
    content["results"] = [
        {"name": name, "features": label, "top1": value, "interval": wilson(value, n), "n": n}
        | ({"treatment": "as is"} if treatments else {})
        for name, label, value in rows
    ]
    if counts:
        content["confusion"] = {"counts": [[34 if row == column else 0 for column in range(18)] for row in range(18)]}
    return content


def said(knn, linear, others=BASELINES, linear_others=None):
    found = verdict([result("knn", knn, others, counts=True), result("linear", linear, linear_others or others)])
    return found.text.removeprefix("The trained encoder is "), found.standing


HOG = BASELINES | {"HOG": ("simple", 0.30)}


@pytest.mark.parametrize(
    ("shares", "others", "text", "standing"),
    [
        (
            (0.40, 0.45), None,
            "above every other feature tested by 12.4 points in kNN and 17.4 in the linear probe "
            "(next best: colours of cells); chance is 5.6 %.", "above",
        ),
        (
            (0.40, 0.45), HOG,
            "above every other feature tested by 12.4 points in kNN (next best: colours of cells) and 15.0 in the "
            "linear probe (next best: HOG); chance is 5.6 %.", "above",
        ),
        (
            (0.273, 0.28), None,
            "level with colours of cells: -0.3 points in kNN and +0.4 in the linear probe, within the 95 % intervals; "
            "chance is 5.6 %.", "level",
        ),
        (
            (0.173, 0.12), None,
            "not above colours of cells: 10.3 points below it in kNN and 15.6 in the linear probe; chance is 5.6 %.",
            "below",
        ),
        (
            (0.173, 0.12), HOG,
            "not above every other feature tested: 10.3 points below colours of cells in kNN and 18.0 below HOG in the "
            "linear probe; chance is 5.6 %.", "below",
        ),
        (
            (0.40, 0.15), None,
            "above every other feature tested by 12.4 points in kNN (next best: colours of cells), but not above "
            "colours of cells: 12.6 points below it in the linear probe; chance is 5.6 %.", "below",
        ),
        (
            (0.05, 0.06), None,
            "no better than chance: 5.0 % in kNN and 6.0 % in the linear probe; chance is 5.6 %.", "chance",
        ),
    ],
)  # fmt: skip
def test_the_sentence_says_above_level_below_or_chance(shares, others, text, standing):
    assert said(*shares, linear_others=others) == (text, standing)


def test_a_lead_inside_the_intervals_is_level_and_the_same_lead_over_more_samples_is_above():
    few, many = ({"raw image": ("raw", 0.50)}, 0.53)
    assert verdict([result("knn", many, few, n=200)]).standing == "level"
    found = verdict([result("knn", many, few, n=20_000)])
    assert found.text == "The trained encoder is above the raw image by 3.0 points in kNN."
    assert found.standing == "above"


def test_each_feature_counts_with_its_best_treatment():
    content = result("knn", 0.40)
    raised = {label: (name, value + 0.2) for label, (name, value) in BASELINES.items()}
    content["results"] += [row | {"treatment": "whitened"} for row in result("knn", 0.1, raised)["results"]]
    assert [(score.label, score.treatment, round(score.value, 3)) for score in scores(content)] == [
        ("run at step 9", "as is", 0.40),
        ("colours of cells", "whitened", 0.476),
        ("untrained twin", "whitened", 0.4),
        ("raw image", "whitened", 0.35),
    ]
    assert verdict([content]).standing == "below"


def test_results_without_treatments_baselines_or_sound_numbers_are_read():
    assert verdict([]) is None
    assert verdict([{"probe": "knn", "results": [{"name": "model", "top1": None}, {"name": 3, "top1": 0.1}]}]) is None
    old = verdict([result("knn", 0.40, treatments=False)])
    assert old.standing == "above"
    alone = verdict([result("knn", 0.40, {}, counts=True)])
    assert alone.standing is None
    assert alone.text.endswith("40.0 % in kNN, compared with nothing else (add --baselines); chance is 5.6 %.")
    later = [result("knn", 0.40), result("knn", 0.99, {})]  # the newest that was compared with something counts
    assert verdict(later).comparisons[0].model.value == 0.40


def test_names_from_right_to_left_leave_the_numbers_around_them_where_they_are(capsys):
    from foundation.probes import table
    from foundation.voice import to_stdout

    hebrew = "צבעים 3"
    (text, _) = said(0.273, 0.28, {hebrew: ("simple", 0.276)})
    assert f"level with \u2068{hebrew}\u2069: -0.3 points" in text
    to_stdout(text)
    assert capsys.readouterr().out.rstrip("\n") == text
    rows = [
        {"name": "simple", "features": name, "treatment": "as is", "top1": 0.5, "balanced": 0.5, "interval": [0.4, 0.6]}
        for name in (hebrew, "colours 3")
    ]
    table.show("kNN", "m", [row | {"n": 2} for row in rows], "", {})
    shown = capsys.readouterr().out.splitlines()
    (first,) = (line for line in shown if hebrew in line)
    (second,) = (line for line in shown if "colours 3" in line)
    assert first.startswith(f"\u2068{hebrew}\u2069") and first.split()[-1] == second.split()[-1] == "50.0"
    assert len(first.rstrip()) - 2 == len(second.rstrip())  # the signs take no room on a terminal
    to_stdout("a name with the end of an isolate \u2069 and a start \u2068 of its own")
    assert "\\u2069" in capsys.readouterr().out
