"""Whatever a decoder or the views of a sample raise, it is that sample that is bad, and another takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.data.boundary import decoded
from foundation.data.pipeline import EvalPipeline, Plan
from foundation.data.shards import open_shards
from foundation.data.stream import build_loader, iterate_samples
from foundation.errors import DataBudgetError, Note, SampleError, UserError
from tests.data.conftest import Views

GUILTY = (5, 11, 17)


@dataclass
class Choosy(Views):
    """Views that cannot be made of some samples, and give what is no number for another."""

    def prepare(self, samples: list[dict[str, Any]], draws: Draws) -> torch.Tensor:
        if any(sample["__id__"] in GUILTY[:2] for sample in samples):
            raise IndexError("list index out of range")
        prepared = super().prepare(samples, draws)
        for row, sample in enumerate(samples):
            prepared[row] += float("inf") if sample["__id__"] == GUILTY[2] else 0.0
        return prepared


def batches(folder: Any, pipeline: Any, workers: int, size: int = 6) -> list[Any]:
    settings = {"batch_size": size, "global_batch": size, "samples": 30, "seed": 1, "window": 8, "workers": workers}
    with build_loader(open_shards(folder), pipeline, **settings) as loader:
        return list(loader)


def test_samples_whose_views_fail_are_found_and_replaced_alike_by_any_workers(make_shards, pipeline, decode):
    folder = make_shards(30)
    alone = batches(folder, pipeline(decode, views=Choosy()), 0)
    bad = [one for batch in alone for one in batch.bad]
    assert {one.number for one in bad} == set(GUILTY)
    assert all(one.key == f"s{one.number:05d}" and "train-0" in one.shard for one in bad)
    reasons = {one.number: (one.reason, one.detail) for one in bad}
    assert reasons[5] == reasons[11] == ("decode", "IndexError: list index out of range")
    assert reasons[17] == ("not_finite", "its views: inf among the numbers, first at number 0")
    assert "Choosy" in repr(Choosy()) and all("in prepare" in one.trace for one in bad if one.reason == "decode")
    assert all(batch.size == 6 and torch.isfinite(batch.views["global"].data).all() for batch in alone)
    untouched = batches(folder, pipeline(decode), 0)
    for batch, whole in zip(alone, untouched, strict=True):
        for row, (key, other) in enumerate(zip(batch.keys, whole.keys, strict=True)):
            if key == other:  # nobody else's views have changed
                assert torch.equal(batch.views["global"].data[row], whole.views["global"].data[row])
    together = batches(folder, pipeline(decode, views=Choosy()), 2)
    for batch, other in zip(alone, together, strict=True):
        assert batch.keys == other.keys and batch.bad == other.bad
        assert torch.equal(batch.views["global"].data, other.views["global"].data)


def breaks(raw: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_decoder_that_fails_at_every_sample_ends_the_run_and_says_where(make_shards, pipeline, workers):
    with pytest.raises(DataBudgetError, match=r"ZeroDivisionError: division by zero.*16 samples drawn") as caught:
        batches(make_shards(30), pipeline(breaks), workers)
    assert "Where the first was met" in str(caught.value) and "in breaks" in str(caught.value)


class Fails(Views):
    def prepare(self, samples: list[dict[str, Any]], draws: Draws) -> torch.Tensor:
        if len(samples) > 1:
            raise RuntimeError("a mistake of the program")
        return super().prepare(samples, draws)


def test_views_that_fail_for_no_sample_alone_are_the_programs_mistake(make_shards, pipeline, decode):
    with pytest.raises(RuntimeError, match="a mistake of the program"):
        batches(make_shards(30), pipeline(decode, views=Fails()), 0)


RAW = {"__key__": "k", "__shard__": "s.tar", "__id__": 0}


@pytest.mark.parametrize(
    "raised", [MemoryError(), OverflowError("too large"), RecursionError("deep"), StopIteration(), KeyError("x")]
)
def test_any_exception_of_a_decoder_is_a_bad_sample(raised):
    def decode(raw: dict[str, Any]) -> dict[str, Any]:
        raise raised

    with pytest.raises(SampleError, match=rf"s\.tar: sample 'k': decode: {type(raised).__name__}: "):
        decoded(decode, RAW)


def test_mistakes_of_the_user_and_missing_packages_are_no_bad_samples():
    for error in (UserError("no such setting"), ImportError("no module av")):

        def decode(raw: dict[str, Any], error: Exception = error) -> dict[str, Any]:
            raise error

        with pytest.raises(type(error)):
            decoded(decode, RAW)


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0, float("nan")]), torch.tensor([1e16]), np.array([np.inf]), float("-inf"),
        [torch.zeros(2), {"deep": np.array([np.nan], np.float32)}], torch.tensor([float("inf")], dtype=torch.bfloat16),
    ],
)  # fmt: skip
def test_numbers_are_tested_last_wherever_they_lie_in_a_sample(value):
    with pytest.raises(SampleError, match="not_finite: signal"):
        decoded(lambda raw: {**raw, "signal": value}, RAW)


def test_whole_numbers_labels_and_notes_are_no_numbers_to_test():
    given = {**RAW, "image": torch.full((2,), 255, dtype=torch.uint8), "label": 3, "__notes__": (Note("label", "x"),)}
    assert decoded(lambda raw: given, RAW) is given


def test_evaluation_leaves_out_whose_view_fails(make_shards, decode):
    def prepare(samples: list[dict[str, Any]]) -> torch.Tensor:
        if any(sample["__id__"] in GUILTY for sample in samples):
            raise ValueError("a view too small")
        return torch.stack([sample["image"].float().mean() for sample in samples])[:, None]

    shards = open_shards(make_shards(20))
    raws = [shards.read(*shards.locate(n)) for n in range(20)]
    draws = Draws(0, np.zeros(20, np.int64), np.arange(20))
    batch = EvalPipeline(decode, prepare)(raws, draws, Plan(0, 0, 20, 20, 0), lambda *_: pytest.fail("asked"))
    assert batch.ids.tolist() == [n for n in range(20) if n not in GUILTY] and len(batch.data) == 17
    assert [one.number for one in batch.bad] == list(GUILTY) and batch.skipped == {"decode": 3}


def test_a_sample_larger_than_the_cap_is_refused_by_name(make_shards, pipeline, decode):
    made = batches(make_shards(30), pipeline(decode, max_bytes=48), 0)
    assert not any(batch.bad for batch in made)
    with pytest.raises(DataBudgetError, match=r"too_large: takes .* GiB when decoded, more than data\.max_decoded_gib"):
        batches(make_shards(30, name="more"), pipeline(decode, max_bytes=47), 0)


def test_samples_one_by_one_pass_the_same_boundary(make_shards, decode):
    bad: list[SampleError] = []

    def odd(raw: dict[str, Any]) -> dict[str, Any]:
        return {**decode(raw), "signal": np.array([np.nan if raw["__id__"] == 4 else 0.0])}

    kept = [sample["__id__"] for sample in iterate_samples(open_shards(make_shards(9)), odd, bad)]
    assert kept == [0, 1, 2, 3, 5, 6, 7, 8] and [error.reason for error in bad] == ["not_finite"]
