"""From the loader to the learner: batches on their device, complete, and how long the run waited for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from foundation.data.loader import Loader
from foundation.types import Batch, View, each_tensor


@dataclass(frozen=True)
class Masked:
    """How much of a view is masked by a rule.

    Attributes:
        rows: with a masked token.
        tokens: masked ones that losses ask for.
    """

    rows: int
    tokens: int

    def __add__(self, other: Masked) -> Masked:
        return Masked(self.rows + other.rows, self.tokens + other.tokens)


class Feed:
    """Iterates over complete batches on a device.

    On a GPU, :meth:`prefetch` copies the next batch from page-locked memory and finishes its views on a stream of its
    own, beside the step that the device is busy with: call it when the step's kernels are queued, before anything
    waits for them. Whatever goes wrong in it is raised when that batch is asked for, not before. On a CPU, batches are
    handed through and :meth:`prefetch` does nothing: the loader's workers are ahead already.

    Args:
        loader: gives batches; closed by :meth:`close`.
        device: where batches are wanted.
        finish: the device half of the views (``modalities/*/views.py``); needed where batches are ``pending``.
    """

    def __init__(
        self, loader: Loader, device: torch.device, finish: Callable[[Any], Mapping[str, View]] | None = None
    ) -> None:
        self.loader, self.device, self.finish = loader, device, finish
        self._batches: Iterator[Batch] | None = None
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: Batch | Exception | None = None
        self._ready_masked: Mapping[tuple[str, str], Masked] = {}
        self._waiting: deque[Batch] = deque()  # looked at, not yet on the device
        self._samples, self._waited, self._begin = 0, 0.0, time.perf_counter()
        self._since = self._begin

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: the loader is at its end.
            FoundationError: what the loader raises.
        """
        ready, self._ready = self._ready, None
        if ready is None:
            ready = self._stage()
        if isinstance(ready, Exception):
            raise ready
        if self._side is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._side)
            each_tensor(ready, lambda tensor: tensor.record_stream(current))
        self._samples += ready.size
        return ready

    def prefetch(self) -> None:
        """On a GPU, begin to bring the next batch over; a call too many does nothing."""
        if self._side is None or self._ready is not None:
            return
        try:
            self._ready = self._stage()
        except Exception as error:  # belongs to the next batch: the step before it must not be lost
            self._ready = error

    def masked(self, number: int) -> dict[tuple[str, str], Masked]:
        """What is masked in the next batches together, by (view, rule). They are looked at on the host and not taken.

        Raises:
            StopIteration: the loader ends before.
            FoundationError: what the loader raises.
        """
        if isinstance(self._ready, Exception):
            raise self._ready
        counts = [] if self._ready is None else [self._ready_masked]
        while len(counts) + len(self._waiting) < number:
            self._waiting.append(self._fetch())
        counts += [_masked(batch) for batch in islice(self._waiting, number - len(counts))]
        total: dict[tuple[str, str], Masked] = {}
        for part in counts:
            for key, masked in part.items():
                total[key] = total.get(key, Masked(0, 0)) + masked
        return total

    def summary(self) -> dict[str, float]:
        """Figures since the last call: samples per second, share of the time spent waiting; seconds since the start."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        figures = {
            "throughput/samples_per_second": self._samples / seconds,
            "data/wait_fraction": min(1.0, self._waited / seconds),
            "time/seconds": now - self._begin,
        }
        self._samples, self._waited, self._since = 0, 0.0, now
        return figures

    def close(self) -> None:
        """End the loader's workers and forget what was brought over; no batch comes after that."""
        self._ready, self._batches = None, iter(())
        self._waiting.clear()
        self.loader.close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fetch(self) -> Batch:
        begin = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.loader)
        batch = next(self._batches)
        self._waited += time.perf_counter() - begin
        return batch

    def _stage(self) -> Batch:
        batch = self._waiting.popleft() if self._waiting else self._fetch()
        if self._side is None:
            return self._complete(batch)
        self._ready_masked = _masked(batch)
        with torch.cuda.stream(self._side):
            return self._complete(batch)

    def _complete(self, batch: Batch) -> Batch:
        batch = batch.to(self.device)
        if batch.pending is None:
            return batch
        assert self.finish is not None, "the views of this batch wait for their device half"
        return replace(batch, views=self.finish(batch.pending), pending=None)


def _masked(batch: Batch) -> dict[tuple[str, str], Masked]:
    """Of a batch on the host."""
    return {key: Masked(int(mask.masked.any(dim=1).sum()), len(mask.indices)) for key, mask in batch.masks.items()}
