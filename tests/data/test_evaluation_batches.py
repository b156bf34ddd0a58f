"""Evaluation batches: stored order, bad samples left out, few samples decoded at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.data.pipeline import EvalPipeline, Plan
from foundation.errors import SampleError


class Large:
    """A decoded sample that counts how many of its kind are alive."""

    alive = most = 0

    def __init__(self) -> None:
        Large.alive += 1
        Large.most = max(Large.most, Large.alive)

    def __del__(self) -> None:
        Large.alive -= 1


def raw(number: int) -> dict[str, Any]:
    return {"__key__": f"k{number}", "__shard__": "s", "__id__": number}


def decode(sample: Any) -> dict[str, Any]:
    if sample["__id__"] % 10 == 3:
        raise SampleError("s", sample["__key__"], "decode", "bad")
    return {**sample, "large": Large(), "label": sample["__id__"] % 4}


def run(count: int) -> Any:
    pipeline = EvalPipeline(decode, lambda samples: torch.tensor([[float(s["__id__"])] for s in samples]))
    draws = Draws(0, np.zeros(count, np.int64), np.arange(count))
    return pipeline([raw(i) for i in range(count)], draws, Plan(0, 0, count, count, 0), lambda *_: pytest.fail("asked"))


def test_good_samples_stay_in_order():
    batch = run(70)
    wanted = [i for i in range(70) if i % 10 != 3]
    assert batch.data[:, 0].tolist() == wanted == batch.ids.tolist()
    assert batch.keys == tuple(f"k{i}" for i in wanted) and batch.labels.tolist() == [i % 4 for i in wanted]
    assert batch.skipped == {"decode": 7} and len(batch.messages) == 7


def test_few_samples_lie_decoded_in_memory():
    Large.most = Large.alive
    run(200)
    assert Large.most - Large.alive <= 33  # two handfuls at most: one that ends while the next begins


def test_a_batch_of_bad_samples_is_empty():
    pipeline = EvalPipeline(decode, lambda samples: pytest.fail("nothing to prepare"))
    draws = Draws(0, np.zeros(2, np.int64), np.arange(2))
    batch = pipeline([raw(3), raw(13)], draws, Plan(0, 0, 2, 2, 0), lambda *_: pytest.fail("asked"))
    assert len(batch.data) == len(batch.labels) == len(batch.ids) == 0 and batch.skipped == {"decode": 2}
