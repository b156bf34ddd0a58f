"""Writing a checkpoint by all processes of a run together: each writes the blocks that it holds.

``torch.distributed.checkpoint`` plans, checks that the blocks make up the tensors, and tells all processes of an error
in any. Here is what it is given: the blocks (:class:`_Planner`) and the files (:class:`_Writer`), which are safetensors
that its own ``HuggingFaceStorageReader`` reads. The manifest, its checksums and the promise that a checkpoint is whole
or not there are those of :mod:`foundation.checkpoints.checkpoint`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import DefaultSavePlanner, StorageWriter, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from foundation.checkpoints import checkpoint
from foundation.checkpoints.checkpoint import WriteError
from foundation.checkpoints.manifest import MANIFEST, SHARDED, STATE, Contents, FileEntry, name_of, sha256
from foundation.checkpoints.reader import SHARDING
from foundation.files import sync_file, write_file
from foundation.parallel.blocks import Block, Groups, block_of
from foundation.parallel.collective import gather_json, rank, world_size
from foundation.parallel.shards import is_sharded

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import SavePlanner

Blocks = Mapping[str, Mapping[str, Block]]
_VISIBLE_SECONDS = 60.0  # network storage may show a new name to other machines so much later
_LOOK_SECONDS = 0.05
_SHARED = "the run folder must lie on storage that all machines share"


def blocks_to_write(groups: Groups) -> dict[str, dict[str, Block]]:
    """What this process writes of a state: each block is written by one of the processes that hold it.

    Plain tensors are written by process 0; copies of a shard take turns, so that all disks and networks are used.
    """
    found: dict[str, dict[str, Block]] = {}
    for name, group in groups.items():
        found[name] = {}
        for key, tensor in group.items():
            block = block_of(tensor)
            turn = zlib.crc32(f"{name}/{key}".encode()) % block.copies if is_sharded(tensor) else 0
            if block.copy == turn and (block.tensor.numel() or 0 in block.shape):
                found[name][key] = block
    return found


def write(
    root: Path, step: int, blocks: Blocks, state: Mapping[str, Any], group: dist.ProcessGroup | None, begun: float
) -> Path:
    """Write the checkpoint of one step; all processes call this together.

    Args:
        root: the run's ``checkpoints`` folder; process 0's counts.
        step: optimiser steps done.
        blocks: of this process, see :func:`blocks_to_write`; they must not change before this returns.
        state: JSON values; process 0's counts.
        group: for this alone, see :func:`foundation.parallel.collective.group_beside`.
        begun: ``time.perf_counter()`` when saving began, for the duration in the manifest.

    Returns:
        The finished folder, which this process sees. An existing valid checkpoint of the same step is kept as it is.

    Raises:
        WriteError: in all processes, when one of them cannot write; nothing lies under the final name then.
        RuntimeError: in all processes, for any other error of one; or this process has lost the others.
    """
    entries = {f"{name}/{key}": block for name, of in blocks.items() for key, block in of.items()}
    numbers = json.dumps(dict(state), indent=1).encode()
    final = root / name_of(step)
    there = rank() == 0 and final.exists() and checkpoint.problem(final) is None
    own = {"root": str(root), "there": there, "bytes": sum(block.tensor.nbytes for block in entries.values())}
    everyone = gather_json(own, group)
    final = Path(everyone[0]["root"]) / name_of(step)
    needed = len(numbers) + sum(each["bytes"] for each in everyone)
    if not everyone[0]["there"]:
        writer = _Writer(final, numbers, needed, entries, tuple(blocks), begun)
        try:
            save(entries, storage_writer=writer, planner=_Planner(), process_group=group)
        except CheckpointException as error:
            writer.remove_leftovers()  # before the free room is looked at
            raise _reason(error, final, needed) from None
        finally:
            writer.remove_leftovers()
    seen = gather_json(_becomes_visible(final / MANIFEST), group)
    if not all(seen):
        reason = f"process {seen.index(False)} does not see it: {_SHARED}"
        raise WriteError(final, reason, needed, checkpoint.free_bytes(final.parent))
    return final


def _becomes_visible(path: Path) -> bool:
    until = time.monotonic() + _VISIBLE_SECONDS
    while not (there := path.exists()) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    return there


def _reason(error: CheckpointException, final: Path, needed: int) -> Exception:
    """What the first process that failed said; the same in all processes."""
    from safetensors import SafetensorError

    number, (failure, _) = min(error.failures.items())
    if isinstance(failure, (OSError, SafetensorError)):  # safetensors reports a full disk as an error of its own
        return WriteError(final, f"process {number}: {failure}", needed, checkpoint.free_bytes(final.parent))
    return RuntimeError(f"checkpoint {final.name}: process {number}: {failure!r}\n{error}")


class _Planner(DefaultSavePlanner):
    """Names the blocks that this process writes. Planning for all, on process 0, is torch's own."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([_item(key, block) for key, block in self.state_dict.items()])
        return self.plan


def _item(key: str, block: Block) -> WriteItem:
    offsets, whole = torch.Size(block.offsets), torch.Size(block.shape)
    chunk = ChunkStorageMetadata(offsets, block.tensor.shape)
    data = TensorWriteData(chunk, TensorProperties(dtype=block.tensor.dtype), whole)
    return WriteItem(MetadataIndex(key, offsets), WriteItemType.SHARD, tensor_data=data)


class _Writer(StorageWriter):
    """Files of one checkpoint: ``GROUP.RANK-of-RANKS.safetensors`` in a temporary folder, which process 0 makes and
    gives its final name when all have written.

    Args:
        final: the folder, as it shall be.
        numbers: content of ``state.json``.
        needed: bytes of the whole checkpoint.
        blocks: what this process may have to write, by group and key.
        groups: names of the groups of tensors, also of those without any.
        begun: ``time.perf_counter()`` when saving began.
    """

    def __init__(
        self,
        final: Path,
        numbers: bytes,
        needed: int,
        blocks: Mapping[str, Block],
        groups: tuple[str, ...],
        begun: float,
    ) -> None:
        self.final, self.numbers, self.needed, self.begun = final, numbers, needed, begun
        self.blocks, self.groups = blocks, groups
        self.temporary: Path | None = None

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def set_up_storage_writer(self, is_coordinator: bool, *arguments: Any, **keywords: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """In process 0: is there room for all, and a folder to write into?"""
        checkpoint.require_room(self.final.parent, self.needed)
        self.temporary = checkpoint.temporary_of(self.final)
        self.temporary.mkdir()
        return [dataclasses.replace(plan, storage_data=self.temporary.name) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the blocks of this process, one file for each group, and sync and hash them."""
        from safetensors.torch import save_file

        folder, results = self.final.parent / plan.storage_data, []
        if not _becomes_visible(folder):
            raise OSError(f"process 0 has made {folder}, which is not there: {_SHARED}")
        by_group: dict[str, list[WriteItem]] = {}
        for item in plan.items:
            by_group.setdefault(item.index.fqn.partition("/")[0], []).append(item)
        for group, items in by_group.items():
            path = folder / f"{group}.{rank() + 1:05d}-of-{world_size():05d}.safetensors"
            tensors = checkpoint.savable({item.index.fqn: self.blocks[item.index.fqn].tensor for item in items})
            offsets = {item.index.fqn: {"saved_offsets": list(_chunk(item).offsets)} for item in items}
            save_file(tensors, path, {SHARDING: json.dumps(offsets)})  # a second note would make the order random
            sync_file(path)
            size = path.stat().st_size
            entry: FileEntry = {"bytes": size, "sha256": sha256(path)}
            results.append(WriteResult(MetadataIndex(group), size, (rank(), path.name, entry)))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """In process 0, when all have written: the manifest, and the final name."""
        assert self.temporary is not None
        files: dict[str, FileEntry] = {}
        parts: dict[str, list[str]] = {group: [] for group in self.groups}
        for result in (one for of in results for one in of):
            number, name, entry = result.storage_data
            if not (self.temporary / name).is_file():
                raise OSError(f"process {number} has written {name}, and process 0 does not see it: {_SHARED}")
            files[name] = entry
            parts[result.index.fqn].append(name)
        path = self.temporary / STATE
        write_file(path, self.numbers)
        files[STATE] = {"bytes": len(self.numbers), "sha256": sha256(path)}
        contents: Contents = {group: {} for group in self.groups}
        for key, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)  # there is nothing else in a state
            group, _, key = key.partition("/")
            contents[group][key] = (str(tensor.properties.dtype).removeprefix("torch."), list(tensor.size))
        facts = {"format": SHARDED, "files": dict(sorted(files.items())), "parts": parts, "tensors": contents}
        checkpoint.complete(self.temporary, self.final, facts, self.begun)

    def remove_leftovers(self) -> None:
        """In process 0; what has its final name is no leftover."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None
    return item.tensor_data.chunk
