"""What one step of a recipe does: its operators and the memory that lives, followed on tensors without values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from foundation import planned
from foundation.branches.elastic import ElasticBranch
from foundation.branches.frozen import FrozenBranch
from foundation.engine.learner import Learner
from foundation.parallel.units import innermost
from foundation.run.recipe import Recipe
from foundation.run.recorder import Block, Operator, Recorder, Storage, bytes_of
from foundation.run.rehearsal import STEP, random_batch


@dataclass(frozen=True)
class Trace:
    """Operators and memory of the forward and backward pass of one micro-batch.

    Attributes:
        rows: samples of the micro-batch.
        operators: in their order.
        storages: in the order of their birth, without the parameters.
        turn: number of the operator with which the backward pass begins.
        inputs: storages that a block is given, by the block.
        outputs: storages that a block hands on, by the block.
        trained: branches that a gradient goes through.
        views: bytes of the batch.
        summed: bytes of each tensor, besides gradients, that the processes sum.
        gathered: bytes of each tensor, besides weights, that is made of one of every process.
    """

    rows: int
    operators: Sequence[Operator]
    storages: Sequence[Storage]
    turn: int
    inputs: Mapping[Block, frozenset[int]]
    outputs: Mapping[Block, frozenset[int]]
    trained: frozenset[str]
    views: int
    summed: tuple[int, ...]
    gathered: tuple[int, ...]

    def is_trained(self, block: Block | None) -> bool:
        """Whether gradients reach the branch of a block; False for what no block has made."""
        return block is not None and block.branch in self.trained

    def flops(self) -> int:
        """Of all matrix products and attention, forward and backward."""
        return sum(operator.flops for operator in self.operators)


def trace(recipe: Recipe, learner: Learner, rows: int, device: str, half: bool, processes: int = 1) -> Trace:
    """Follow one forward and backward pass.

    Args:
        recipe: flat, of one stage.
        learner: of the recipe, built on the meta device; it is of no use afterwards.
        rows: samples.
        device: kind of device that is planned for, ``cpu`` or ``cuda``.
        half: the forward pass computes in bfloat16 where it may (autocast).
        processes: that train together; each has as many samples.

    An elastic branch is followed at its largest size. What a tensor holds is unknown: a number that is read on the host
    counts as 0.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    batch = random_batch(recipe, rows)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    for branch in learner.named_branches.values():
        if isinstance(branch, ElasticBranch):
            branch.networks = (max(branch.networks),)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # places in memory are asked for, which tensors without values lack
        plan = stack.enter_context(planned.planning(device, processes))
        stack.enter_context(fake)
        recorder = Recorder(_score_widths(learner))

        for tensor in _take_values(learner.train()):
            recorder.known(tensor)
        batch = _converted(batch, fake.from_tensor)
        views = sum(bytes_of(tensor) for tensor in _batch_tensors(batch))
        for tensor in _batch_tensors(batch):
            recorder.known(tensor)
        _watch_blocks(learner, recorder, stack)
        stack.enter_context(recorder)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = learner(batch, STEP, watched=False)
        recorder.backward = True
        turn = len(recorder.operators)
        result.loss.backward()  # type: ignore[no-untyped-call]
        recorder.close([p.grad for p in learner.parameters() if p.grad is not None])
    trained = frozenset(name for name, branch in learner.named_branches.items() if branch.trains)
    found = recorder.operators, recorder.storages, turn, recorder.inputs, recorder.outputs, trained, views
    return Trace(rows, *found, tuple(plan.summed), tuple(plan.gathered))


def _take_values(learner: Learner) -> Iterator[Tensor]:
    """Put tensors without values in the place of all parameters and buffers; gives each of them once."""
    taken: dict[int, Tensor] = {}
    hidden = [branch.beside for branch in learner.named_branches.values() if isinstance(branch, FrozenBranch)]
    for module in dict.fromkeys(one for part in (learner, *chain.from_iterable(hidden)) for one in part.modules()):
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is None:
                    continue
                if id(tensor) not in taken:
                    made: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    if isinstance(tensor, nn.Parameter):
                        made = nn.Parameter(made, tensor.requires_grad)
                    taken[id(tensor)] = made
                    yield made
                kept[name] = taken[id(tensor)]  # type: ignore[assignment]


def _score_widths(learner: Learner) -> frozenset[int]:
    """Widths of the outputs of heads with prototypes, where no hidden layer is as wide."""
    configs = [one for branch in learner.named_branches.values() for one in branch.offer.heads.values()]
    return frozenset(int(one.outputs) for one in configs if one.outputs > 2048)


def _watch_blocks(learner: Learner, recorder: Recorder, stack: ExitStack) -> None:
    """Tell the recorder which block computes."""
    watched: set[nn.Module] = set()
    for name, branch in learner.named_branches.items():
        held = branch.offer.encoder
        if not isinstance(held, nn.Module) or branch.shares:
            continue
        for number, block in enumerate(innermost(held)):
            if block in watched:  # two branches may ask one encoder
                continue
            watched.add(block)

            def enter(module: nn.Module, given: Any, name: str = name, number: int = number) -> None:
                recorder.enter(name, number, given)

            def leave(module: nn.Module, given: Any, made: Any) -> None:
                recorder.leave(made)

            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)


def _batch_tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif is_dataclass(batch):
        for one in fields(batch):
            yield from _batch_tensors(getattr(batch, one.name))
    elif isinstance(batch, Mapping | tuple):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _batch_tensors(value)


def _converted(part: Any, to: Callable[[Tensor], Tensor]) -> Any:
    """The same batch with every tensor replaced."""
    if isinstance(part, Tensor):
        return to(part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{one.name: _converted(getattr(part, one.name), to) for one in fields(part)})
    if isinstance(part, Mapping):
        return {key: _converted(value, to) for key, value in part.items()}
    return tuple(_converted(value, to) for value in part) if isinstance(part, tuple) else part
