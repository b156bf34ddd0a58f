"""Which batches there are: the micro-batches of a process in order, and a batch made of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import Dataset

from foundation.data.boundary import RawOrError
from foundation.data.order import Located
from foundation.data.pipeline import Plan
from foundation.data.sources import Stream
from foundation.errors import FoundationError, SampleError


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
                offset = (part * self.world_size + self.rank) * self.micro_batch
                size = self.micro_batch
                if self.partial and self.samples is not None:
                    size = min(size, self.samples - done * self.group)
                yield Plan(start, offset, size, self.group, start // self.group)
            done += 1


class PlannedBatches(Dataset[Any]):
    """Turns a plan into a batch; what a worker holds.

    Args:
        stream: where the samples come from.
        pipeline: raw samples -> batch; by source, where every global batch comes from one source.
    """

    def __init__(self, stream: Stream, pipeline: Callable[..., Any] | Mapping[str, Callable[..., Any]]) -> None:
        self.stream, self.pipeline = stream, pipeline

    def __getitem__(self, plan: Plan) -> Any:
        positions = plan.positions
        located = self.stream.locate(positions)
        self.stream.prefetch(located, int(positions[-1]))
        raws = self._read(located)

        def substitute(row: int, attempt: int) -> tuple[RawOrError, int, int]:
            found = self.stream.substitute(int(positions[row]), int(located.sources[row]), attempt)
            return self._read(found)[0], int(found.epochs[0]), int(found.ids[0])

        pipeline = self.pipeline
        if isinstance(pipeline, Mapping):
            pipeline = pipeline[self.stream.names[int(located.sources[0])]]
        try:
            return pipeline(raws, self.stream.draws(located), plan, substitute)
        except FoundationError as error:  # raised again by the loader: torch would turn it into another type
            return error

    def _read(self, located: Located) -> list[RawOrError]:
        raws: list[RawOrError] = []
        columns = (located.sources.tolist(), located.shards.tolist(), located.indices.tolist())
        for source, shard, index in zip(*columns, strict=True):
            try:
                raws.append(self.stream.read(source, shard, index))
            except SampleError as error:
                raws.append(error)
        return raws

    def shards_of(self, plan: Plan) -> list[str]:
        """Paths of the shards that a batch reads."""
        return self.stream.shards_of(plan.positions)
