"""Which sample comes at which place of the stream: a pure function, so a run resumes anywhere at once.

The stream of a run is an endless sequence of positions 0, 1, 2, ... With n samples, position p lies in epoch p // n.
In every epoch the shards are permuted, then the samples within windows of bounded length: far enough for training,
near enough that only a few shards are open at a time. Nothing here knows batches, ranks or workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation import counter
from foundation.errors import UserError


@dataclass(frozen=True)
class Located:
    """Samples at some positions of a stream; every field [B] int64.

    Attributes:
        sources: number of the source; 0 where there is one.
        epochs: which pass over the source.
        ids: number of the sample in the source; :class:`foundation.data.sources.Stream` makes it unique in the run.
        shards: number of the shard.
        indices: number of the sample in its shard.
    """

    sources: NDArray[np.int64]
    epochs: NDArray[np.int64]
    ids: NDArray[np.int64]
    shards: NDArray[np.int64]
    indices: NDArray[np.int64]


class Order:
    """Maps positions to samples.

    Args:
        counts: samples of each shard.
        seed: of the run.
        window: samples are permuted within windows of this many.
        shuffle: False gives every epoch in stored order.
        name: of the source; sources of different names are shuffled independently.

    Raises:
        UserError: no samples, or an impossible window.
    """

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.int64],
        seed: int,
        window: int,
        shuffle: bool = True,
        name: str = "",
    ) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.num_samples = int(self.counts.sum())
        if self.num_samples < 1:
            raise UserError("the shards hold no samples")
        if window < 1:
            raise UserError(f"the shuffle window must be at least 1 sample, got {window}")
        self.seed, self.window, self.shuffle = seed, window, shuffle
        self._streams = tuple(f"order.{part}{'.' if name else ''}{name}" for part in ("shards", "window"))
        self._starts = np.cumsum(self.counts) - self.counts
        self._shards: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._block: tuple[int, int, NDArray[np.int64]] | None = None

    def locate(self, positions: NDArray[np.int64]) -> Located:
        """Find the samples at some positions.

        Args:
            positions: [B] int64, 0 or more, in any order.

        Returns:
            One entry for each position.
        """
        positions = np.asarray(positions, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self.num_samples)
        shards = np.empty_like(positions)
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            rows = np.flatnonzero(epochs == epoch)
            order, ends = self._shard_order(epoch)
            places_in_epoch = self._shuffled(epoch, offsets[rows])
            slots = np.searchsorted(ends, places_in_epoch, side="right")
            shards[rows] = order[slots]
            indices[rows] = places_in_epoch - (ends[slots] - self.counts[order[slots]])
        return Located(np.zeros_like(positions), epochs, self._starts[shards] + indices, shards, indices)

    def ahead(self, position: int, number: int) -> list[int]:
        """Shards that come next: those after the ones of the window that a position lies in.

        Args:
            position: 0 or more.
            number: of shards wanted; fewer where there are no more.
        """
        epoch, offset = divmod(position, self.num_samples)
        order, ends = self._shard_order(epoch)
        end = min((offset // self.window + 1) * self.window, self.num_samples)
        # The window's last sample may lie in the middle of a shard, which is of this window too.
        slot = int(np.searchsorted(ends, end - 1, side="right")) + 1
        found = order[slot : slot + number].tolist()
        if len(found) < number:
            found += self._permuted(epoch + 1)[: number - len(found)].tolist()
        return list(dict.fromkeys(found))

    def _shard_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._shards is None or self._shards[0] != epoch:
            order = self._permuted(epoch)
            self._shards = (epoch, order, np.cumsum(self.counts[order]))
        return self._shards[1], self._shards[2]

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(len(self.counts))
        return counter.permutation(self.seed, epoch, 0, self._streams[0], len(self.counts))

    def _shuffled(self, epoch: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self.shuffle:
            return offsets
        result = np.empty_like(offsets)
        blocks = offsets // self.window
        for block in np.unique(blocks).tolist():
            start = block * self.window
            length = min(self.window, self.num_samples - start)
            if self._block is None or self._block[:2] != (epoch, block):
                self._block = (epoch, block, counter.permutation(self.seed, epoch, block, self._streams[1], length))
            rows = blocks == block
            result[rows] = start + self._block[2][offsets[rows] - start]
        return result
