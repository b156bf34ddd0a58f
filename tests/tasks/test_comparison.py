"""Which differences are none: paired bootstrap, groups, Holm's correction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.tasks.base import Score
from foundation.tasks.comparison import bootstrap, compare, holm, randomisation
from foundation.tasks.results import Measured, Result
from foundation.tasks.words import method, said


def result(name, each, keys=None, *, metric="top1", better="more", groups=None, digest="d"):
    each = torch.as_tensor(each, dtype=torch.float32)
    keys = tuple(f"s{index}" for index in range(len(each))) if keys is None else keys
    score = Score(metric=metric, value=float(each.mean()), n=len(each), each=each, keys=keys, better=better)
    return Result(name, "image", (Measured("knn", score),), {"test": {"digest": digest}}, groups or {}, name)


def draws(share, samples, seed):
    return (np.random.default_rng(seed).random(samples) < share).astype(np.float32)


def one_difference(*results, **settings):
    (figure,) = compare(results, **settings).figures
    (found,) = figure.differences
    return found


def test_a_model_against_itself_is_no_difference():
    each = draws(0.7, 200, 0)
    found = one_difference(result("a", each), result("b", each))
    assert (found.value, found.interval, found.p, found.none, found.better) == (0, (0, 0), 1, True, None)


def test_a_clear_difference_has_the_interval_of_theory_and_a_winner():
    each = draws(0.5, 1000, 0)
    better = np.maximum(each, draws(0.2, 1000, 1))
    found = one_difference(result("a", each), result("b", better))
    gap = better - each
    half = 1.96 * gap.std() / 1000**0.5
    assert found.interval == (pytest.approx(gap.mean() - half, abs=2e-3), pytest.approx(gap.mean() + half, abs=2e-3))
    assert not found.none and found.better == 1 and found.p < 1e-3
    assert one_difference(result("a", each), result("b", better)) == found  # the seed is fixed
    assert one_difference(result("a", each, better="less"), result("b", better, better="less")).better == 0


def test_the_interval_holds_what_it_promises():
    missed = 0
    for seed in range(150):
        generator = np.random.default_rng(seed)
        one, two = generator.random(120), generator.random(120)
        missed += not one_difference(result("a", one), result("b", two), resamples=1000).none
    assert missed / 150 <= 0.11


def test_samples_of_a_group_are_drawn_together():
    # 20 subjects of 25 windows that are all right or all wrong: 500 windows say no more than 20.
    groups = {f"s{index}": index // 25 for index in range(500)}
    one, two = (np.repeat(draws(share, 20, seed), 25) for share, seed in ((0.5, 1), (0.6, 2)))
    alone = one_difference(result("a", one), result("b", two))
    together = one_difference(result("a", one, groups=groups), result("b", two, groups=groups))
    assert together.groups == 20 and alone.groups is None
    widths = [found.interval[1] - found.interval[0] for found in (alone, together)]
    assert widths[1] / widths[0] == pytest.approx(5, rel=0.15)  # the root of 25
    with pytest.raises(UserError, match="say nothing of"):
        compare([result("a", one), result("b", two)], groups={"s0": 1})


def test_groups_of_unequal_size_count_by_their_samples():
    sums, counts = np.array([3.0, 0.0]), np.array([3.0, 1.0])
    found = bootstrap(sums, counts, 4000)
    assert set(np.round(found, 6)) == {0.0, 0.75, 1.0}
    assert np.mean(found == 0.75) == pytest.approx(0.5, abs=0.03)


def test_holm_corrects_as_written():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_three_models_are_corrected_and_it_is_said():
    one = draws(0.5, 400, 0)
    found = compare([result("a", one), result("b", one), result("c", np.maximum(one, draws(0.3, 400, 1)))])
    (figure,) = found.figures
    assert [(one.one, one.two, one.none) for one in figure.differences] == [(0, 1, True), (0, 2, False), (1, 2, False)]
    words = [said(found, figure, one) for one in figure.differences]
    assert words[0].startswith("no difference between a and b") and words[1].startswith("c is better than a by")
    assert "3 pairs" in method(found, 10_000) and "Holm" in method(found, 10_000)


def test_samples_that_only_one_model_has_are_left_out_and_it_is_said():
    keys = tuple("abcdef")
    found = compare([result("a", [1, 0, 1, 0, 1, 0], keys), result("b", [0, 1, 1], ("b", "a", "c"))])
    (difference,) = found.figures[0].differences
    assert difference.n == 3 and difference.value == pytest.approx((1 + 0 + 1) / 3 - 2 / 3)
    assert any("only 3 of 6 samples" in warning for warning in found.warnings)


def test_what_cannot_be_compared():
    one = result("a", draws(0.5, 10, 0))
    with pytest.raises(UserError, match="two models"):
        compare([one])
    with pytest.raises(UserError, match="no figure in common"):
        compare([one, result("b", draws(0.5, 10, 1), metric="top5")])
    twice = compare([one, result("a", draws(0.5, 10, 1), digest="e")])
    assert twice.names == ("a (1)", "a (2)") and "test shards are not the same" in twice.warnings[0]
    unlike = compare([one, result("b", [1.0, 1.0], ("x", "y"))])
    assert unlike.figures[0].differences == ()


@pytest.mark.parametrize(("samples", "most"), [(1, 0.0), (4, 0.0), (6, 0.05), (30, 0.08)])
def test_models_that_are_alike_are_rarely_called_different(samples, most):
    """Of few samples too: a bootstrap alone would take half of all single samples for a proof."""
    called = 0
    for seed in range(100):
        one, two = draws(0.5, samples, 2 * seed), draws(0.5, samples, 2 * seed + 1)
        called += not one_difference(result("a", one), result("b", two), resamples=199).none
    assert called / 100 <= most


def test_the_randomisation_test_is_exact_and_that_of_many_samples_near():
    from scipy.stats import binomtest, permutation_test

    assert randomisation(np.ones(6)) == binomtest(6, 6).pvalue
    signs = np.array([1.0] * 9 + [-1.0] * 3 + [0.0] * 5)
    assert randomisation(signs) == pytest.approx(binomtest(9, 12).pvalue)
    values = np.random.default_rng(0).normal(0.4, 1, 40)
    reference = permutation_test(
        (values,), lambda x: x.mean(), permutation_type="samples", n_resamples=9_999, rng=np.random.default_rng(1)
    )
    assert randomisation(values) == pytest.approx(reference.pvalue, abs=0.01)
    assert randomisation(np.zeros(3)) == randomisation(np.empty(0)) == 1


def test_groups_of_several_results_are_not_mixed():
    """Numbers of groups are a result's own: those of another, which lacks some samples, mean other groups."""
    keys = tuple(f"s{index}" for index in range(40))
    one, two = draws(0.5, 40, 0), draws(0.6, 40, 1)
    groups = {key: place // 10 for place, key in enumerate(keys)}
    few = {key: groups[key] - 1 for key in keys[10:]}  # the first group is not there, and the others move up
    found = compare([result("a", one, keys, groups=groups), result("b", two, keys, groups=groups | few)])
    alone = compare([result("a", one, keys, groups=groups), result("b", two, keys)])
    assert found.figures[0].differences[0].interval == alone.figures[0].differences[0].interval
    assert any("different --group rules" in told for told in found.warnings)
    assert any("only some models were evaluated with --group" in told for told in alone.warnings)


def test_a_figure_whose_samples_have_no_group_is_not_compared_and_the_others_are():
    def two_figures(name, seed):
        known = result(name, draws(0.5, 8, seed), groups={f"s{index}": index // 2 for index in range(8)})
        other = result(name, draws(0.5, 8, seed + 9), tuple("abcdefgh"), metric="alignment")
        return dataclasses.replace(known, scores=known.scores + other.scores)

    found = compare([two_figures("a", 0), two_figures("b", 1)])
    assert [len(figure.differences) for figure in found.figures] == [1, 0]
    assert any(told.startswith("knn alignment is not compared: the groups say nothing") for told in found.warnings)


def test_models_that_were_run_in_other_ways_are_told_apart():
    each = draws(0.5, 50, 0)
    one, two = (
        dataclasses.replace(result(n, each), settings={"pieces": p, "tokens": "cls"}) for n, p in (("a", 2), ("b", 1))
    )
    assert compare([one, two]).warnings == ("the models were evaluated with different --pieces: 2, 1",)
    with pytest.raises(UserError, match="models of image and of audio, which share no test samples"):
        compare([one, dataclasses.replace(two, modality="audio")])


def test_where_there_are_no_differences_none_are_explained():
    apart = [result("a", [0.0, 1.0, 1.0], ("a", "b", "c")), result("b", [0.0, 1.0, 1.0], ("d", "e", "f"))]
    assert method(compare(apart), 10) == ""
