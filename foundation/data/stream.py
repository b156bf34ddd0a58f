"""The loader: ready batches from shards, the same whatever the number of workers, resumable at any sample.

Batches are planned by position (:class:`Plans`), and a worker makes whichever batch it is handed: which one it is and
how many workers there are cannot matter. The only state of the stream is how many samples the run has consumed.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from foundation.counter import Draws
from foundation.data.order import Order
from foundation.data.pipeline import EvalPipeline, Plan, RawOrError, TrainingPipeline
from foundation.data.shards import RawSample, ShardSet
from foundation.errors import FoundationError, SampleError, UserError
from foundation.types import Sample

_POLL_SECONDS = 2  # how often a wait for a batch looks whether the workers are alive
_IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


class LoaderError(FoundationError):
    """A loader worker died or gave nothing for too long."""


class Plans:
    """The micro-batches of one process, in order.

    A global batch of G samples is dealt out as accumulation rounds x processes x micro-batch.

    Args:
        start: samples consumed by the whole run before the first batch.
        samples: to serve to the whole run from there on, None for no end. What fills no global batch is left out,
            unless ``partial``.
        micro_batch: samples of a micro-batch.
        accumulate: micro-batches per step in each process.
        rank: of this process.
        world_size: number of processes.
        partial: end with a smaller batch; for one process without accumulation.
    """

    def __init__(
        self,
        *,
        start: int,
        samples: int | None,
        micro_batch: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        partial: bool = False,
    ) -> None:
        self.start, self.micro_batch, self.accumulate = start, micro_batch, accumulate
        self.rank, self.world_size = rank, world_size
        self.group = micro_batch * accumulate * world_size
        self.samples, self.partial = samples, partial

    def _steps(self) -> int | None:
        if self.samples is None:
            return None
        return -(-self.samples // self.group) if self.partial else self.samples // self.group

    def __len__(self) -> int:
        steps = self._steps()
        if steps is None:
            raise TypeError("an endless loader has no length")
        return steps * self.accumulate

    def __iter__(self) -> Iterator[Plan]:
        steps, done = self._steps(), 0
        while steps is None or done < steps:
            start = self.start + done * self.group
            for part in range(self.accumulate):
                place = (part * self.world_size + self.rank) * self.micro_batch
                size = self.micro_batch
                if self.partial and self.samples is not None:
                    size = min(size, self.samples - done * self.group)
                yield Plan(start, place, size, self.group, start // self.group)
            done += 1


class _PlannedBatches(Dataset[Any]):
    """Turns a plan into a batch; what a worker holds."""

    def __init__(self, shards: ShardSet, order: Order, seed: int, pipeline: Callable[..., Any]) -> None:
        self.shards, self.order, self.seed, self.pipeline = shards, order, seed, pipeline

    def __getitem__(self, plan: Plan) -> Any:
        located = self.order.locate(plan.positions)
        raws: list[RawOrError] = []
        for shard, place in zip(located.shards.tolist(), located.places.tolist(), strict=True):
            try:
                raws.append(self.shards.read(shard, place))
            except SampleError as error:
                raws.append(error)
        try:
            return self.pipeline(raws, Draws(self.seed, located.epochs, located.ids), plan)
        except FoundationError as error:  # raised again by the loader: torch would turn it into another type
            return error

    def shards_of(self, plan: Plan) -> list[str]:
        """Paths of the shards that a batch reads."""
        return [self.shards.shards[shard] for shard in sorted(set(self.order.locate(plan.positions).shards.tolist()))]


class Loader:
    """Iterates over ready batches; each iteration begins at the same place.

    Use :meth:`close` (or ``with``) to end the workers.

    Args:
        dataset: makes a batch of a plan.
        plans: what to make.
        dataloader: hands the plans to workers.
        timeout: seconds to wait for a batch; 0 for no end.
    """

    def __init__(
        self, dataset: _PlannedBatches, plans: Plans, dataloader: DataLoader[Any], timeout: float = 0.0
    ) -> None:
        self._dataset, self._plans, self.dataloader, self._timeout = dataset, plans, dataloader, timeout
        self._iterator: Any = None
        _LOADERS.add(self)

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[Any]:
        self._iterator = iterator = _quiet_iterator(self.dataloader)
        for plan in self._plans:
            yield self._next(iterator, plan)

    def _next(self, iterator: Iterator[Any], plan: Plan) -> Any:
        begin = time.monotonic()
        while True:
            try:
                batch = next(iterator)
            except RuntimeError as error:
                waited = time.monotonic() - begin
                if "timed out" in str(error):
                    if not self._timeout or waited < self._timeout:
                        continue
                    problem = f"no batch for {waited:.0f} seconds"
                    advice = "for slow storage, raise data.timeout_seconds"
                elif "exited unexpectedly" in str(error):
                    problem = str(error)
                    advice = "a worker that is killed mostly means that memory ran out: lower data.workers"
                else:
                    raise
                self.close(at_once=True)
                shards = ", ".join(self._dataset.shards_of(plan)[:3])
                raise LoaderError(
                    f"{problem}. The batch at sample {plan.start + plan.place:,} of the stream reads {shards}; "
                    f"{advice}. The same command goes on from the last checkpoint"
                ) from error
            if isinstance(batch, FoundationError):
                self.close(at_once=True)
                raise batch
            return batch

    def close(self, at_once: bool = False) -> None:
        """End the workers.

        Args:
            at_once: kill them; else they get some seconds to end by themselves. They ignore polite signals.
        """
        iterator, self._iterator = self._iterator, None
        if not hasattr(iterator, "_shutdown_workers"):
            return
        self.dataloader._iterator = None
        if not at_once:
            iterator._shutdown_workers()
        # Where torch's handler is in place, it takes a worker's death for an accident until told to forget the worker.
        if iterator._worker_pids_set:
            signal_handling._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        for worker in iterator._workers:
            if worker.is_alive():
                worker.kill()
        for worker in iterator._workers:
            worker.join(timeout=5)
        iterator._shutdown_workers()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_LOADERS: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A stuck worker that ignores SIGTERM would keep its parent from ending."""
    for loader in list(_LOADERS):
        loader.close(at_once=True)


def _quiet_iterator(dataloader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers, without torch's handler that raises wherever the program is when one of them dies.

    A death is noticed at the next batch instead, where it can be told what was being read.
    """
    if not dataloader.num_workers or threading.current_thread() is not threading.main_thread():
        return iter(dataloader)
    previous = signal.getsignal(signal.SIGCHLD)
    iterator = iter(dataloader)
    signal.signal(signal.SIGCHLD, previous)
    return iterator


def _start_worker(_: int) -> None:
    """One thread each, and deaf to signals: the trainer saves and ends the run, workers must not die under it."""
    torch.set_num_threads(1)
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch


def _context(workers: int, wanted: str | None) -> str | None:
    if not workers:
        return None
    if wanted:
        return wanted
    # A forked child must not inherit an initialised accelerator; without one, fork starts at once and shares memory.
    can_fork = "fork" in multiprocessing.get_all_start_methods() and multiprocessing.get_start_method(True) != "spawn"
    return "fork" if can_fork and not torch.cuda.is_initialized() else "spawn"


def _loader(
    dataset: _PlannedBatches,
    plans: Plans,
    *,
    workers: int,
    pin_memory: bool,
    prefetch: int,
    timeout: float,
    context: str | None,
) -> Loader:
    if workers < 0:
        raise UserError(f"workers must be 0 or more, got {workers}")
    dataloader = DataLoader(
        dataset,
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        timeout=_POLL_SECONDS if workers else 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=_context(workers, context),
        generator=torch.Generator(),  # a loader without its own draws from the global generator, and so moves the run
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
    )
    return Loader(dataset, plans, dataloader, timeout)


def build_loader(
    shards: ShardSet,
    pipeline: TrainingPipeline,
    *,
    batch_size: int,
    global_batch: int,
    seed: int,
    window: int,
    start: int = 0,
    samples: int | None = None,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    pin_memory: bool = False,
    prefetch: int = 2,
    timeout: float = 0.0,
    context: str | None = None,
) -> Loader:
    """The stream of training batches.

    Args:
        shards: to read; more workers than shards are fine.
        pipeline: raw samples -> batch.
        batch_size: samples of a micro-batch of one process.
        global_batch: samples of an optimiser step: batch_size x accumulate x world_size.
        seed: of the run.
        window: samples are shuffled within so many.
        start: samples that the whole run has consumed.
        samples: that the whole run still wants; None for no end.
        workers: processes; 0 makes batches in this one.
        rank: of this process.
        world_size: number of processes.
        accumulate: micro-batches per step and process.
        pin_memory: hand over page-locked memory, for a GPU.
        prefetch: batches that each worker keeps ready.
        timeout: seconds without a batch after which the run ends with an error; 0 for never.
        context: how workers start (``fork``, ``spawn``, ``forkserver``); None: fork unless a GPU is in use.

    Returns:
        An iterable of :class:`foundation.types.Batch`.

    Raises:
        UserError: the sizes do not fit together.
    """
    if batch_size * accumulate * world_size != global_batch:
        raise UserError(
            f"the batch of {global_batch} samples is not {batch_size} samples x {accumulate} micro-batches x "
            f"{world_size} processes"
        )
    order = Order(shards.counts, seed, window)
    plans = Plans(
        start=start, samples=samples, micro_batch=batch_size, accumulate=accumulate, rank=rank, world_size=world_size
    )
    return _loader(
        _PlannedBatches(shards, order, seed, pipeline),
        plans,
        workers=workers,
        pin_memory=pin_memory,
        prefetch=prefetch,
        timeout=timeout,
        context=context,
    )


def build_eval_loader(
    shards: ShardSet,
    prepare: Callable[[list[Sample]], Tensor],
    decode: Callable[[RawSample], Sample],
    batch_size: int,
    workers: int = 0,
    *,
    limit: int | None = None,
    pin_memory: bool = False,
    prefetch: int = 2,
    timeout: float = 0.0,
    context: str | None = None,
) -> Loader:
    """Every sample once, in stored order.

    Args:
        shards: to read.
        prepare: samples -> [B, ...], the evaluation view.
        decode: raw sample -> sample.
        batch_size: samples of a batch; the last may be smaller.
        workers: processes; 0 makes batches in this one.
        limit: only the first so many samples.
        pin_memory: as for :func:`build_loader`, like the rest.
        prefetch: batches that each worker keeps ready.
        timeout: seconds.
        context: how workers start.

    Returns:
        An iterable of :class:`foundation.data.pipeline.EvalBatch`.
    """
    if batch_size < 1:
        raise UserError(f"the batch size must be at least 1, got {batch_size}")
    order = Order(shards.counts, seed=0, window=1, shuffle=False)
    number = shards.num_samples if limit is None else min(limit, shards.num_samples)
    plans = Plans(start=0, samples=number, micro_batch=batch_size, partial=True)
    return _loader(
        _PlannedBatches(shards, order, 0, EvalPipeline(decode, prepare)),
        plans,
        workers=workers,
        pin_memory=pin_memory,
        prefetch=prefetch,
        timeout=timeout,
        context=context,
    )


def iterate_samples(
    shards: ShardSet, decode: Callable[[RawSample], Sample], bad: list[SampleError] | None = None
) -> Iterator[Sample]:
    """Every good sample once, in stored order, in this process.

    Args:
        shards: to read.
        decode: raw sample -> sample.
        bad: gets what was wrong with each sample that was left out.
    """
    for shard, count in enumerate(shards.counts.tolist()):
        for place in range(count):
            try:
                yield decode(shards.read(shard, place))
            except SampleError as error:
                if bad is not None:
                    bad.append(error)
