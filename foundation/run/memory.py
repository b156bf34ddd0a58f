"""Memory of one process, worked out from what a step does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from foundation.branches.frozen import FrozenBranch
from foundation.engine.learner import Learner
from foundation.parallel.config import Config
from foundation.parallel.units import has_parameters, units
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.recorder import Block, Storage
from foundation.run.stage import micro_batch
from foundation.run.trace import Trace, trace

Checkpointing = Literal["none", "selective", "full"]
FOLLOWED = 16
"""Samples of the largest micro-batch that is followed; what a larger one takes grows in proportion."""
STEP = ("gradients", "activations", "prototype scores", "weights in bfloat16")
"""Kinds of memory that a step takes and gives back."""


@dataclass(frozen=True)
class Weights:
    """Bytes in float32 of what is there before a step.

    Attributes:
        trained: parameters that the optimizer moves.
        still: of trained branches, those that it does not.
        teachers: of averages and frozen branches.
        buffers: of all: centres, queues, stores, running statistics.
        frozen: of the teachers, those that are never sharded.
        pieces: bytes of each piece of the trained branches in the order of the forward pass.
        teacher_pieces: the same of averages.
    """

    trained: int
    still: int
    teachers: int
    buffers: int
    frozen: int
    pieces: tuple[int, ...]
    teacher_pieces: tuple[int, ...]

    @property
    def largest(self) -> int:
        """The largest piece that is gathered at once where weights are sharded."""
        return max((*self.pieces, *self.teacher_pieces))


def weights(learner: Learner) -> Weights:
    """Of a learner, which may be on the meta device."""
    frozen = sum(_size(b.model) for b in learner.named_branches.values() if isinstance(b, FrozenBranch))
    own = [*learner.parameters()]
    trains = [branch for branch in learner.named_branches.values() if branch.trains]
    inside = {id(p) for part in (*trains, learner.objectives) for p in part.parameters()}
    trained = sum(_bytes(p) for p in own if id(p) in inside and p.requires_grad)
    still = sum(_bytes(p) for p in own if id(p) in inside and not p.requires_grad)
    pieces: dict[bool, list[int]] = {True: [], False: []}
    for part in learner.parts:
        if has_parameters(part.module):
            pieces[part.trained] += _pieces(part.module)
    return Weights(
        trained=trained,
        still=still,
        teachers=sum(map(_bytes, own)) - trained - still + frozen,
        buffers=sum(b.numel() * b.element_size() for b in learner.buffers()),
        frozen=frozen,
        pieces=tuple(pieces[True]),
        teacher_pieces=tuple(pieces[False]),
    )


def _pieces(module: nn.Module) -> list[int]:
    """Bytes of each piece that is gathered by itself: blocks without the blocks inside them, and what is left."""
    taken: set[int] = set()
    sizes: list[int] = []
    for piece in (*(unit for unit in units(module) if unit is not module), module):
        own = [p for p in piece.parameters() if id(p) not in taken]
        taken |= {id(p) for p in own}
        sizes.append(sum(map(_bytes, own)))
    return sizes


def _size(module: nn.Module) -> int:
    return sum(map(_bytes, module.parameters()))


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def peak(trace: Trace, checkpointing: Checkpointing = "none", *, gathered: bool = False) -> dict[str, int]:
    """Memory of the step at the moment at which it takes most, by the kinds of :data:`STEP`.

    Args:
        trace: of a micro-batch.
        checkpointing: what blocks keep for the backward pass. The others are born again when the backward pass reaches
            the block.
        gathered: weights are sharded and gathered in bfloat16: they need no copy, and gradients are counted elsewhere.
    """
    changes: dict[int, Counter[str]] = {}
    for storage, spans in _lives(trace, checkpointing):
        kind = _kind(storage)
        if gathered and (storage.weight or storage.gradient):
            continue
        for begin, end in spans:
            changes.setdefault(begin, Counter())[kind] += storage.bytes
            changes.setdefault(end, Counter())[kind] -= storage.bytes
    live: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for moment in sorted(changes):
        live.update(changes[moment])
        if live.total() > most.total():
            most = live.copy()
    return {kind: most[kind] for kind in STEP}


def _kind(storage: Storage) -> str:
    if storage.gradient:
        return "gradients"
    return "weights in bfloat16" if storage.weight else "prototype scores" if storage.scores else "activations"


def _lives(trace: Trace, checkpointing: Checkpointing) -> Iterator[tuple[Storage, list[tuple[int, int]]]]:
    """Each storage with the spans in which it lives, first moment and the one behind the last."""
    end = len(trace.operators)
    kept = {number: storage.block for number, storage in enumerate(trace.storages) if _is_kept(trace, storage)}
    forward: dict[Block, int] = {}
    backward: dict[Block, int] = {}
    for number, block in kept.items():
        assert block is not None
        storage = trace.storages[number]
        forward[block] = max(forward.get(block, 0), storage.born)
        backward[block] = min(backward.get(block, end), end if storage.died is None else storage.died)
    held: dict[int, int] = {}  # what a block is given is kept until it is computed again
    for block, numbers in trace.inputs.items() if checkpointing != "none" else ():
        for number in numbers if block in backward else ():
            held[number] = max(held.get(number, 0), backward[block])
    for number, storage in enumerate(trace.storages):
        died = max(end if storage.died is None else storage.died, held.get(number, 0))
        block = kept.get(number)
        again = (
            checkpointing != "none"
            and block is not None
            and number not in trace.outputs.get(block, ())
            and not (checkpointing == "selective" and storage.product)
        )
        if again and block is not None:
            yield storage, [(storage.born, forward[block] + 1), (backward[block], max(died, backward[block] + 1))]
        else:
            yield storage, [(storage.born, max(died, storage.born + 1))]


def _is_kept(trace: Trace, storage: Storage) -> bool:
    """Whether a block of a trained branch keeps it for the backward pass."""
    later = storage.died is None or storage.died > trace.turn
    return trace.is_trained(storage.block) and storage.born < trace.turn and later and not storage.weight


@dataclass(frozen=True)
class Sharing:
    """How processes share what lives between the steps.

    Attributes:
        processes: that train together.
        weights: processes that share one copy of parameters, gradients and averages.
        moments: processes that share one copy of the optimizer's moments.
        gradients: processes that share one copy of the gradients.
        ahead: pieces that are gathered ahead of the one that computes.
        reshard: gathered weights are freed behind the forward pass.
        half: weights are gathered in bfloat16.
    """

    processes: int = 1
    weights: int = 1
    moments: int = 1
    gradients: int = 1
    ahead: int = 1
    reshard: bool = True
    half: bool = True


def memory(
    there: Weights,
    trace: Trace,
    rows: int,
    shared: Sharing | None = None,
    checkpointing: Checkpointing = "none",
    *,
    accumulates: bool = False,
) -> dict[str, int]:
    """Bytes in one process by kind, at the moment at which a step takes most.

    Args:
        there: before the step.
        trace: of a micro-batch.
        rows: samples of a micro-batch; more than were followed take more in proportion.
        shared: how processes share; None: one process alone.
        checkpointing: what blocks keep for the backward pass.
        accumulates: several micro-batches make a step, so that gradients live from one to the next.
    """
    shared = shared or Sharing()
    sharded, factor = shared.weights > 1, rows / trace.rows
    step = peak(trace, checkpointing, gathered=sharded)
    step |= {kind: round(step[kind] * factor) for kind in ("activations", "prototype scores")}
    gradients = there.trained // shared.gradients
    found = {
        "parameters": (there.trained + there.still) // shared.weights,
        "gradients": step["gradients"],
        "AdamW": 2 * there.trained // shared.moments,
        "teachers": there.frozen + (there.teachers - there.frozen) // shared.weights,
        "buffers and views": there.buffers + round(trace.views * factor),
        "activations": step["activations"],
        "prototype scores": step["prototype scores"],
        "weights in bfloat16": step["weights in bfloat16"],
    }
    if sharded:
        share = 2 if shared.half else 1
        found["gathered weights"] = (1 + shared.ahead) * there.largest // share + there.largest  # and its gradient
        if not shared.reshard:
            found["gathered weights"] = sum(there.pieces) // share + there.largest
        found["gradients"] = gradients
    elif shared.processes > 1 or accumulates:  # buckets for all of them, from the first step on
        found["gradients"] = there.trained
    if gradients > sum(step.values()):  # a small batch: most is held when the optimizer begins
        found |= {"gradients": gradients} | dict.fromkeys(STEP[1:], 0)
    return {kind: size for kind, size in found.items() if size}


def sharing(config: Config, processes: int, per_node: int) -> Sharing:
    """How a recipe's ``parallel`` section lets processes share.

    Args:
        config: the section.
        processes: in all.
        per_node: of one node.
    """
    if processes == 1:
        return Sharing()
    shards = config.shares(processes, per_node)
    by_kind = {
        "ddp": (1, 1, 1),
        "fairscale": (1, processes, processes),
        "fsdp": (shards, shards, shards),
        "hsdp": (shards, shards, shards),
    }
    half = config.weights != "float32"
    return Sharing(processes, *by_kind[config.data], ahead=config.prefetch, reshard=config.reshard, half=half)


def needed(recipe: Recipe, learner: Learner, processes: int) -> dict[str, int]:
    """Bytes in one process of a run on this machine's kind of device, by kind.

    Args:
        recipe: flat.
        learner: of the recipe, on the meta device.
        processes: that share the batch, all on one node.
    """
    placement = build.placement(recipe)
    config, half = recipe.parallel, placement.autocast is not None
    rows = micro_batch(recipe, processes)
    followed = trace(recipe, learner, min(rows, FOLLOWED), placement.device.type, half, processes)
    shared = sharing(config, processes, processes)
    if config.weights == "auto" and not half:
        shared = replace(shared, half=False)
    return memory(
        weights(learner), followed, rows, shared, config.activation_checkpointing,
        accumulates=recipe.train.accumulate > 1,
    )  # fmt: skip
