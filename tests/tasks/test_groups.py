"""Samples that belong together: intervals know it, splits that share a group are named, and so are all figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.probes.cautions import of_groups
from foundation.tasks import suites
from foundation.tasks.accuracy import mean_of, widened
from foundation.tasks.base import Settings
from foundation.tasks.comparison import compare
from foundation.tasks.evaluation import evaluate
from foundation.tasks.results import result_of
from tests.tasks.test_evaluation import run, subject_of

__all__ = ["run"]


def test_the_interval_of_samples_in_groups_holds_what_it_promises():
    """20 subjects of 25 windows, whose shares differ much: the interval of 500 samples misses most of the time."""
    groups = {f"s{index}": index // 25 for index in range(500)}
    held = {"alone": 0, "together": 0}
    for seed in range(100):
        generator = np.random.default_rng(seed)
        shares = generator.beta(1, 1, 20)  # mean 0.5
        each = torch.tensor((generator.random(500) < shares.repeat(25)).astype(np.float32))
        alone = mean_of("top1", each, tuple(groups))
        for name, one in (("alone", alone), ("together", widened(alone, groups))):
            held[name] += one.interval[0] <= 0.5 <= one.interval[1]
    assert held["alone"] < 60 and held["together"] >= 90


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_groups_that_agree_in_all_leave_room(right):
    score = mean_of("top1", torch.full((400,), right), tuple(map(str, range(400))))
    low, high = widened(score, {str(index): index // 100 for index in range(400)}).interval
    assert high - low > 0.5 and (low, high)[int(right)] == right  # four groups know little
    assert widened(score, {str(index): 0 for index in range(400)}).interval is None
    assert widened(score, {str(index): index for index in range(400)}) is score
    assert widened(score, {"0": 0}) is score


def test_an_evaluation_with_groups_is_compared_in_all_figures(run):
    """Alignment is a mean over training samples: their groups are kept too."""
    subject = subject_of(run, settings=Settings(batch_size=16, cached=False, group="(.)$"))
    tasks = suites.tasks_of("image", ("knn", "alignment"), ["alignment.view_samples=8"])
    found = evaluate(subject, tasks, say=lambda line: None)
    (figures, warnings) = (result_of(found), found.warnings)
    knn = found.answers[0].outcome
    assert "count the samples of a group together" in knn.protocol
    assert any("belong together with training samples" in told for told in warnings)
    differences = {one.metric: one.differences for one in compare([figures, figures]).figures}
    assert differences["top1"][0].groups == 10 and 1 <= differences["alignment"][0].groups <= 8


def test_groups_in_both_splits_are_named():
    assert of_groups(["a", "a", "b"], ["c"]) == []
    (told,) = of_groups(["a", "a", "b"], ["b", "c", "b"])
    assert told.startswith("the group b is in both splits: 2 of the 3 test samples")
    assert of_groups(["a", "b"], ["b", "a"])[0].startswith("2 groups, such as a, are in both")


@pytest.mark.parametrize(
    "tool", [["knn", "--k", "1"], ["linear", "--epochs", "2", "--blocks", "1"], ["svm", "--cost", "1"]]
)
def test_intervals_of_the_probes_count_groups_together(run, tmp_path, tool):
    out = tmp_path / "found.json"
    shards = [
        "--train",
        str(run.parent / "shards" / "train-*.tar"),
        "--test",
        str(run.parent / "shards" / "test-*.tar"),
    ]
    more = ["--treatments", "as-is", "--workers", "0", "--json", str(out), "--group", "^(...)"]
    assert main([tool[0], str(run), *tool[1:], *shards, *more]) == 0
    (found,) = json.loads(out.read_text())["results"]
    quantile = 4.302652729749464  # of Student's t with two degrees of freedom: three groups, all of them right
    assert found["top1"] == 1 and found["interval"] == pytest.approx([3 / (3 + quantile**2), 1.0])
