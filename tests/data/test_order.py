"""The order of the stream."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.data.order import Order
from foundation.errors import UserError

COUNTS = [7, 0, 5, 11, 1, 8]
TOTAL = sum(COUNTS)


@pytest.mark.parametrize("window", [1, 4, 10, 1000])
def test_every_epoch_is_a_permutation(window: int) -> None:
    order = Order(COUNTS, seed=3, window=window)
    ids = order.locate(np.arange(3 * TOTAL)).ids.reshape(3, TOTAL)
    for epoch in ids:
        assert sorted(epoch.tolist()) == list(range(TOTAL))
    assert len({tuple(epoch) for epoch in ids.tolist()}) == 3


def test_shards_and_places_name_the_sample() -> None:
    located = Order(COUNTS, seed=0, window=6).locate(np.arange(5, 2 * TOTAL))
    starts = np.cumsum(COUNTS) - COUNTS
    assert (starts[located.shards] + located.indices == located.ids).all()
    assert (located.indices < np.asarray(COUNTS)[located.shards]).all()
    assert (located.epochs == np.arange(5, 2 * TOTAL) // TOTAL).all()


def test_any_cut_and_any_jump_gives_the_same_stream() -> None:
    whole = Order(COUNTS, seed=1, window=5).locate(np.arange(200)).ids
    order = Order(COUNTS, seed=1, window=5)
    pieces = [order.locate(np.arange(begin, begin + 7)).ids for begin in range(0, 196, 7)]
    assert (np.concatenate(pieces) == whole[:196]).all()
    scattered = np.array([150, 3, 77, 199, 3])
    assert (order.locate(scattered).ids == whole[scattered]).all()
    assert (Order(COUNTS, seed=1, window=5).locate(np.arange(123, 200)).ids == whole[123:]).all()


def test_a_window_bounds_how_far_a_sample_moves() -> None:
    order = Order([100] * 10, seed=0, window=50)
    shards = order.locate(np.arange(1000)).shards
    assert all(len(set(shards[begin : begin + 50].tolist())) == 1 for begin in range(0, 1000, 50))
    assert len(dict.fromkeys(shards.tolist())) == 10 and shards.tolist() != sorted(shards.tolist())


def test_seeds_differ_and_no_shuffle_is_stored_order() -> None:
    first, second = (Order(COUNTS, seed, 100).locate(np.arange(TOTAL)).ids for seed in (0, 1))
    assert (first != second).any()
    plain = Order(COUNTS, 0, 100, shuffle=False).locate(np.arange(2 * TOTAL)).ids
    assert plain.tolist() == list(range(TOTAL)) * 2


def test_a_far_position_costs_no_replay() -> None:
    import time

    order = Order([10_000] * 1000, seed=0, window=4096)
    begin = time.perf_counter()
    order.locate(np.arange(10**15, 10**15 + 256))
    assert time.perf_counter() - begin < 0.5


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(UserError, match="no samples"):
        Order([0, 0], 0, 10)
    with pytest.raises(UserError, match="window must be at least 1"):
        Order([3], 0, 0)
