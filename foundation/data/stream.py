"""The loader: ready batches from shards, the same whatever the number of workers, resumable at any sample.

Batches are planned by position (:class:`foundation.data.plans.Plans`), and a worker makes whichever batch it is
handed: which one it is and how many workers there are cannot matter. The only state of the stream is how many samples
the run has consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Unpack

from torch import Tensor

from foundation.data.boundary import decoded
from foundation.data.loader import Loader, LoaderError, Settings, make_loader
from foundation.data.pipeline import EvalPipeline, TrainingPipeline
from foundation.data.plans import PlannedBatches, Plans
from foundation.data.shards import RawSample, ShardSet
from foundation.data.sources import Stream, build_stream, open_sources, single
from foundation.errors import SampleError, UserError
from foundation.types import Sample

__all__ = [
    "Loader",
    "LoaderError",
    "Stream",
    "build_eval_loader",
    "build_loader",
    "build_stream",
    "iterate_samples",
    "open_sources",
    "single",
]


def build_loader(
    stream: Stream | ShardSet,
    pipeline: TrainingPipeline | Mapping[str, TrainingPipeline],
    *,
    batch_size: int,
    global_batch: int,
    start: int = 0,
    samples: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    seed: int | None = None,
    window: int | None = None,
    **settings: Unpack[Settings],
) -> Loader:
    """The stream of training batches.

    Args:
        stream: to read, or bare shards with ``seed`` and ``window``; more workers than shards are fine.
        pipeline: raw samples -> batch; by source for a mixture that draws every global batch from one source.
        batch_size: samples of a micro-batch of one process.
        global_batch: samples of an optimiser step: batch_size x accumulate x world_size.
        start: samples that the whole run has consumed.
        samples: that the whole run still wants; None for no end.
        rank: of this process.
        world_size: number of processes.
        accumulate: micro-batches per step and process.
        seed: of the run, for bare shards.
        window: samples are shuffled within so many, for bare shards.
        settings: see :class:`foundation.data.loader.Settings`.

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
    if not isinstance(stream, Stream):
        if seed is None or window is None:
            raise UserError("bare shards have no order: give seed and window")
        stream = single(stream, seed, window)
    mixture = stream.mixture
    if mixture is not None and (mixture.group != global_batch or start % global_batch):
        raise UserError(
            f"a mixture goes on at a whole global batch: {start:,} samples are no multiple of {global_batch:,}. "
            "Use the batch size of the checkpoint, or one that divides them"
        )
    if isinstance(pipeline, Mapping):
        missing = [name for name in stream.names if name not in pipeline]
        if missing or (mixture is not None and mixture.mix != "batch"):
            needs = f"views for {', '.join(missing)}" if missing else "data.mix: batch"
            raise UserError(f"sources with views of their own need {needs}")
    plans = Plans(
        start=start, samples=samples, micro_batch=batch_size, accumulate=accumulate, rank=rank, world_size=world_size
    )
    return make_loader(PlannedBatches(stream, pipeline), plans, settings)


def build_eval_loader(
    shards: ShardSet,
    prepare: Callable[[list[Sample]], Tensor],
    decode: Callable[[RawSample], Sample],
    batch_size: int,
    *,
    limit: int | None = None,
    **settings: Unpack[Settings],
) -> Loader:
    """Every good sample once, in stored order.

    Args:
        shards: to read.
        prepare: samples -> [B, ...], the evaluation view.
        decode: raw sample -> sample.
        batch_size: samples of a batch; the last may be smaller.
        limit: only the first so many samples.
        settings: as for :func:`build_loader`.

    Returns:
        An iterable of :class:`foundation.data.pipeline.EvalBatch`.
    """
    if batch_size < 1:
        raise UserError(f"the batch size must be at least 1, got {batch_size}")
    number = shards.num_samples if limit is None else min(limit, shards.num_samples)
    plans = Plans(start=0, samples=number, micro_batch=batch_size, partial=True)
    dataset = PlannedBatches(single(shards, seed=0, window=1, shuffle=False), EvalPipeline(decode, prepare))
    return make_loader(dataset, plans, settings)


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
        for index in range(count):
            try:
                sample = decoded(decode, shards.read(shard, index))
            except SampleError as error:
                if bad is not None:
                    bad.append(error)
                continue
            yield sample
