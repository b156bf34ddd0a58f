"""Counter-based randomness: every number is a pure function of (seed, epoch, sample id, stream, index).

No generator state exists, so nothing depends on worker, rank, batch neighbours or history, and nothing needs saving.
The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN_WORD, _FIRST_WORD, _SECOND_WORD = np.uint64(_GOLDEN), np.uint64(_FIRST), np.uint64(_SECOND)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_ONE, _ELEVEN = np.uint64(1), np.uint64(11)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x ^ (x >> _SHIFTS[0])
    x *= _FIRST_WORD
    x ^= x >> _SHIFTS[1]
    x *= _SECOND_WORD
    x ^= x >> _SHIFTS[2]
    return x


def _mix_one(x: int) -> int:
    x %= 2**64
    x = (x ^ (x >> 30)) * _FIRST % 2**64
    x = (x ^ (x >> 27)) * _SECOND % 2**64
    return x ^ (x >> 31)


def _words(values: object) -> NDArray[np.uint64]:
    return np.atleast_1d(np.asarray(values, dtype=np.int64)).astype(np.uint64)


def _mixed_epochs(epochs: object) -> NDArray[np.uint64]:
    return _mix(_words(epochs) + _GOLDEN_WORD)


def _mixed_ids(ids: object) -> NDArray[np.uint64]:
    return _mix(_words(ids) * _GOLDEN_WORD + _ONE)


@lru_cache(maxsize=1024)
def _stream_key(seed: int, stream: str) -> np.uint64:
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    return np.uint64(_mix_one(_mix_one(seed + _GOLDEN) ^ name))


@lru_cache(maxsize=64)
def _places(count: int) -> NDArray[np.uint64]:
    return (np.arange(count, dtype=np.uint64) + _ONE) * _GOLDEN_WORD


def _bits(
    seed: int, epochs: NDArray[np.uint64], ids: NDArray[np.uint64], streams: Sequence[str], count: int
) -> NDArray[np.uint64]:
    """[streams x B, count]."""
    keys = np.array([_stream_key(seed, stream) for stream in streams])
    keys = _mix(_mix(keys[:, None] + epochs) + ids)  # [streams, B]
    return _mix(keys.reshape(-1, 1) + _places(count))


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
    return _bits(seed, _mixed_epochs(epochs), _mixed_ids(ids), (stream,), count)


def uniform(seed: int, epochs: object, ids: object, stream: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape [B, count]; arguments as for :func:`bits`."""
    return _uniform(bits(seed, epochs, ids, stream, count))


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    numbers = (words >> _ELEVEN).astype(np.float64)
    numbers *= 2.0**-53
    return numbers


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
        return self.uniforms((stream,), count)

    def uniforms(self, streams: Sequence[str], count: int) -> NDArray[np.float64]:
        """[streams x B, count] in [0, 1): what :meth:`uniform` gives for one stream after the other, at once."""
        epochs, ids = self._mixed
        return _uniform(_bits(self.seed, epochs, ids, streams, count))

    @cached_property
    def _mixed(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        return _mixed_epochs(self.epochs), _mixed_ids(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Draws:
        """The same numbers for some of the samples."""
        return Draws(self.seed, self.epochs[rows], self.ids[rows])
