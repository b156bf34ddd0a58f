"""Counter-based randomness: every number is a pure function of (seed, epoch, sample id, stream, index).

No generator state exists, so nothing depends on worker, rank, batch neighbours or history, and nothing needs saving.
The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _words(values: object) -> NDArray[np.uint64]:
    return np.atleast_1d(np.asarray(values, dtype=np.int64)).astype(np.uint64)


def bits(seed: int, epochs: object, ids: object, stream: str, count: int) -> NDArray[np.uint64]:
    """64 random bits each.

    Args:
        seed: of the run.
        epochs: int or [B] ints.
        ids: int or [B] ints; a sample's number in its data set.
        stream: name of what is drawn (``image.global.crop``); different names give independent numbers.
        count: numbers per id.

    Returns:
        [B, count] uint64.
    """
    name = np.uint64(int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        key = _mix(_mix(_words(seed) + _GOLDEN) ^ name)
        key = _mix(key + _mix(_words(epochs) + _GOLDEN))
        key = _mix(key + _mix(_words(ids) * _GOLDEN + np.uint64(1)))  # [B]
        places = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        return _mix(key[:, None] + places[None, :])


def uniform(seed: int, epochs: object, ids: object, stream: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape [B, count]; arguments as for :func:`bits`."""
    return (bits(seed, epochs, ids, stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard normal numbers from an even number of uniform ones (Box and Muller 1958), [2 n] -> [2 n]."""
    first, second = uniforms.reshape(2, -1)
    radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def permutation(seed: int, epoch: int, identity: int, stream: str, length: int) -> NDArray[np.int64]:
    """A permutation of ``range(length)`` that depends on nothing but its arguments."""
    return np.argsort(bits(seed, epoch, identity, stream, length)[0], kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Draws:
    """The random numbers of the samples of one batch.

    Attributes:
        seed: of the run.
        epochs: [B] int64; a batch may cross the end of an epoch.
        ids: [B] int64.
    """

    seed: int
    epochs: NDArray[np.int64]
    ids: NDArray[np.int64]

    def uniform(self, stream: str, count: int) -> NDArray[np.float64]:
        """[B, count] in [0, 1)."""
        return uniform(self.seed, self.epochs, self.ids, stream, count)

    def take(self, rows: NDArray[np.int64]) -> Draws:
        """The same numbers for some of the samples."""
        return Draws(self.seed, self.epochs[rows], self.ids[rows])
