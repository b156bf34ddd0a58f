"""How a state reaches the disk: by one process, which holds it whole, or by all, each of which holds a part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from foundation.checkpoints import checkpoint
from foundation.checkpoints.staging import Staging
from foundation.parallel.blocks import Block, Groups, any_sharded
from foundation.parallel.collective import gather_json, group_beside


class Store(Protocol):
    """Takes a state and writes it; the taking in the thread that trains, the writing in another one."""

    @property
    def everyone(self) -> bool:
        """All processes save together; otherwise process 0 alone."""

    def agreed(self, flag: bool) -> bool:
        """Process 0's answer to a question, in all processes that save. Never while a checkpoint is being written."""

    def prepare(self, tensors: Groups) -> None:
        """Make room for copies of tensors of these shapes."""

    def take(self, tensors: Groups, copy: bool) -> Any:
        """What :meth:`write` needs of a state.

        Args:
            tensors: by group and key, on any device.
            copy: the tensors may change as soon as this returns; what it gives is valid until the next call.
        """

    def write(self, root: Path, step: int, taken: Any, numbers: Mapping[str, Any], begun: float) -> Path:
        """Write a checkpoint; see :func:`foundation.checkpoints.checkpoint.write`.

        Raises:
            WriteError: in all processes that save.
        """

    def release(self) -> None:
        """Give the memory of the copies back."""


class Whole:
    """One process writes its own state, one file for each group."""

    everyone = False

    def __init__(self) -> None:
        self.staging = Staging()

    def agreed(self, flag: bool) -> bool:
        return flag

    def prepare(self, tensors: Groups) -> None:
        self.staging.prepare(tensors)

    def take(self, tensors: Groups, copy: bool) -> Groups:
        return self.staging.take(tensors) if copy else tensors

    def write(self, root: Path, step: int, taken: Groups, numbers: Mapping[str, Any], begun: float) -> Path:
        return checkpoint.write(root, step, taken, numbers, begun)

    def release(self) -> None:
        self.staging.release()


class Sharded:
    """All processes write what they hold, and process 0 completes the checkpoint. All make one together.

    Args:
        timeout_seconds: a process that waits for another one for so long gives up.
    """

    everyone = True

    def __init__(self, timeout_seconds: float) -> None:
        self.staging = Staging()
        self._group: dist.ProcessGroup | None = group_beside(timeout_seconds)

    def agreed(self, flag: bool) -> bool:
        return bool(gather_json(flag, self._group)[0])

    def prepare(self, tensors: Groups) -> None:
        from foundation.checkpoints.sharded import blocks_to_write

        self.staging.prepare(_tensors(blocks_to_write(tensors)))

    def take(self, tensors: Groups, copy: bool) -> dict[str, dict[str, Block]]:
        from dataclasses import replace

        from foundation.checkpoints.sharded import blocks_to_write

        blocks = blocks_to_write(tensors)
        if not copy:
            return blocks
        staged = self.staging.take(_tensors(blocks))
        return {
            name: {key: replace(block, tensor=staged[name][key]) for key, block in group.items()}
            for name, group in blocks.items()
        }

    def write(
        self, root: Path, step: int, taken: dict[str, dict[str, Block]], numbers: Mapping[str, Any], begun: float
    ) -> Path:
        from foundation.checkpoints import sharded

        return sharded.write(root, step, taken, numbers, self._group, begun)

    def release(self) -> None:
        self.staging.release()


def _tensors(blocks: Mapping[str, Mapping[str, Block]]) -> Groups:
    return {name: {key: block.tensor for key, block in group.items()} for name, group in blocks.items()}


def store_for(tensors: Groups, present: Store | None, timeout_seconds: float) -> Store:
    """The way for a state: the present one where that is right. All processes of the run call this together.

    Args:
        tensors: the state.
        present: that the last state took.
        timeout_seconds: see :class:`Sharded`.
    """
    everyone = any_sharded(tensors)
    if present is not None and present.everyone == everyone:
        return present
    if present is not None:
        present.release()
    return Sharded(timeout_seconds) if everyone else Whole()
