"""The loader: ready batches from shards, the same whatever the number of workers, resumable at any sample.

Batches are planned by position (:class:`foundation.data.loader.Plans`), and a worker makes whichever batch it is
handed: which one it is and how many workers there are cannot matter. The only state of the stream is how many samples
the run has consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from foundation.data.loader import Loader, LoaderError, PlannedBatches, Plans, make_loader
from foundation.data.order import Order
from foundation.data.pipeline import EvalPipeline, TrainingPipeline
from foundation.data.shards import RawSample, ShardSet
from foundation.errors import SampleError, UserError
from foundation.types import Sample

__all__ = ["Loader", "LoaderError", "build_eval_loader", "build_loader", "iterate_samples"]


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
    return make_loader(
        PlannedBatches(shards, order, seed, pipeline),
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
    return make_loader(
        PlannedBatches(shards, order, 0, EvalPipeline(decode, prepare)),
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
