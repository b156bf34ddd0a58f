"""The promises of the stream: each sample once per epoch over all processes, and a continuation that misses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.data.shards import open_shards
from foundation.data.sources import single
from foundation.data.stream import build_loader

MakeShards = Callable[..., Path]
Read = Callable[..., list[list[str]]]
Happened = Callable[[str], None]
SAMPLES, BATCH = 50, 12


@pytest.fixture
def read(make_shards: MakeShards, decode: Any, pipeline: Any) -> Read:
    """``read(begin, end, world=2)``: keys of the global batches of 12, as all ranks together got them.

    50 samples in 3 shards, so that no epoch ends where a batch does.
    """
    folder = make_shards(SAMPLES, per_shard=17)

    def run(begin: int, end: int, world: int = 1, workers: int = 0, accumulate: int = 1) -> list[list[str]]:
        steps: list[dict[int, str]] = [{} for _ in range(end - begin)]
        for rank in range(world):
            shards = open_shards(folder)
            loader = build_loader(
                single(shards, seed=4, window=16), pipeline(decode), batch_size=BATCH // world // accumulate,
                global_batch=BATCH, start=begin * BATCH, samples=(end - begin) * BATCH, rank=rank,
                world_size=world, accumulate=accumulate, workers=workers, timeout=60.0,
            )  # fmt: skip
            with loader:
                batches = list(loader)
            shards.close()
            assert len(batches) == (end - begin) * accumulate
            for number, batch in enumerate(batches):
                for row, key in enumerate(batch.keys):
                    assert steps[number // accumulate].setdefault(batch.position + row, key) == key
        return [[keys[place] for place in sorted(keys)] for keys in steps]

    return run


@pytest.mark.parametrize(("world", "workers", "accumulate"), [(1, 0, 1), (2, 2, 1), (3, 1, 2), (4, 0, 3)])
def test_every_sample_once_per_epoch_over_all_ranks(read: Read, world: int, workers: int, accumulate: int) -> None:
    keys = [key for step in read(0, 25, world, workers, accumulate) for key in step]
    assert len(keys) == 300
    epochs = [keys[begin : begin + SAMPLES] for begin in range(0, 300, SAMPLES)]
    assert all(len(set(epoch)) == SAMPLES for epoch in epochs), "epochs run on across batches and drop nothing"
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.fault(12, "another number of processes at each restart: 2, 1, 2, then 4")
def test_another_world_size_continues_the_same_order(read: Read, happened: Happened) -> None:
    whole = read(0, 20)
    pieces = read(0, 5, world=2, workers=1) + read(5, 9, world=1, workers=2) + read(9, 15, world=2)
    assert pieces + read(15, 20, world=4, accumulate=3) == whole
    happened("the ids of 240 samples come in the order of the run that one process reads without a stop")


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_continuation_from_anywhere_reads_the_rest_and_only_the_rest(read: Read, stop: int) -> None:
    assert read(0, stop, world=2) + read(stop, 12, world=1, workers=stop % 3) == read(0, 12)


@pytest.mark.filterwarnings("ignore:.*suggested max number of worker")
@pytest.mark.fault(25, "one shard for 4 ranks, then 3 workers each")
@pytest.mark.parametrize("workers", [0, 3])
def test_fewer_shards_than_ranks_and_workers(
    make_shards: MakeShards, decode: Any, pipeline: Any, happened: Happened, workers: int
) -> None:
    shards = open_shards(make_shards(24, per_shard=100))
    assert len(shards.shards) == 1
    seen: list[str] = []
    for rank in range(4):
        settings: dict[str, Any] = {"batch_size": 2, "global_batch": 8, "samples": 24, "workers": workers}
        with build_loader(single(shards, 0, 10), pipeline(decode), rank=rank, world_size=4, **settings) as loader:
            seen += [key for batch in loader for key in batch.keys]
    assert sorted(seen) == [f"s{n:05d}" for n in range(24)]
    happened("the shard is split by samples: 24 samples, each read once, by whichever worker")


def test_building_and_reading_leave_the_global_generators_alone(
    make_shards: MakeShards, decode: Any, pipeline: Any
) -> None:
    import random

    import numpy as np

    shards = open_shards(make_shards(24))
    states = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    for workers in (0, 2):
        settings: dict[str, Any] = {"batch_size": 4, "global_batch": 4, "samples": 8, "workers": workers}
        with build_loader(single(shards, 0, 10), pipeline(decode), **settings) as loader:
            iter(loader.dataloader)
            assert len(list(loader)) == 2
    assert states == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
