"""Counter-based random numbers against a plain computation with whole numbers, one at a time."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from foundation.counter import Draws, bits, uniform

GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """The finaliser of SplitMix64."""
    x %= 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def one(seed: int, epoch: int, identity: int, stream: str, place: int) -> int:
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    key = mix(mix(seed + GOLDEN) ^ name)
    key = mix(key + mix(epoch + GOLDEN))
    key = mix(key + mix(identity * GOLDEN + 1))
    return mix(key + (place + 1) * GOLDEN)


@pytest.mark.parametrize("seed", [0, 7, -3, 2**63 - 1, -(2**63)])
def test_every_number_is_that_of_its_own_place(seed):
    epochs, ids = np.array([0, 5, 2**40]), np.array([-1, 12, 2**62])
    for stream in ("a", "image.global.0.crop"):
        found = bits(seed, epochs, ids, stream, 3)
        expected = [
            [one(seed, e, i, stream, k) for k in range(3)] for e, i in zip(epochs.tolist(), ids.tolist(), strict=True)
        ]
        assert found.tolist() == expected
        assert uniform(seed, epochs, ids, stream, 3).tolist() == [[(v >> 11) * 2.0**-53 for v in r] for r in expected]
        assert bits(seed, 5, 12, stream, 3).tolist() == found[1:2].tolist()


def test_many_streams_at_once_are_one_after_the_other():
    draws = Draws(4, np.array([1, 1, 2]), np.array([3, 9, 27]))
    streams = [f"view.{number}" for number in range(4)]
    together = draws.uniforms(streams, 5)
    assert together.shape == (12, 5)
    assert np.array_equal(together, np.concatenate([draws.uniform(stream, 5) for stream in streams]))
    again = pickle.loads(pickle.dumps(draws))
    assert np.array_equal(again.uniforms(streams, 5), together)
    assert np.array_equal(draws.take(np.array([2, 0])).uniform("view.1", 5), together[[5, 3]])
