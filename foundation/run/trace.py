"""What one step of a recipe does: its operators and the memory that lives, followed on tensors without values."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foundation import planned
from foundation.branches.elastic import ElasticBranch
from foundation.branches.frozen import FrozenBranch
from foundation.engine.learner import Learner
from foundation.parallel.units import units
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import STEP, random_batch

Kind = Literal["matrix", "attention", "traffic", "exchange", "view"]
Block = tuple[str, int]
"""A block of a branch: name of the branch, number of the block."""

_ATTENTION = "_attention"
_FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense")
"""Operators that read and write nothing worth counting."""
_READ_A_PART = ("index_select", "gather", "index", "embedding")
"""Operators that read as much of their first argument as they give back."""


@dataclass(slots=True)
class Operator:
    """One call of an operator.

    Attributes:
        name: such as ``addmm``.
        kind: ``view`` moves nothing and launches nothing.
        flops: of its products; a multiplication and an addition count as two.
        bytes: read and written.
        bits: of the numbers that it multiplies.
        block: that it is called by in the forward pass.
        backward: called by the backward pass.
        weight: it copies a parameter to another precision.
    """

    name: str
    kind: Kind
    flops: int
    bytes: int
    bits: int
    block: Block | None
    backward: bool
    weight: bool = False


@dataclass(slots=True)
class Storage:
    """A piece of memory that the step allocates.

    Attributes:
        bytes: its size.
        born: number of the operator that made it.
        died: number of the operator after which nobody had it; None: it outlives the step.
        block: that made it in the forward pass.
        product: made by a matrix product or attention, which selective checkpointing keeps.
        scores: as wide as the output of a head with prototypes.
        weight: a copy of a parameter in another precision.
        gradient: of a parameter, when the step ends.
    """

    bytes: int
    born: int
    block: Block | None
    product: bool
    scores: bool
    weight: bool = False
    died: int | None = None
    gradient: bool = False


@dataclass(frozen=True)
class Trace:
    """Operators and memory of the forward and backward pass of one micro-batch.

    Attributes:
        rows: samples of the micro-batch.
        operators: in their order.
        storages: in the order of their birth, without the parameters.
        turn: number of the operator with which the backward pass begins.
        outputs: storages that a block hands on, by the block.
        parameters: bytes of each block of the trained branches and of the others, by the block.
        trained: blocks that a gradient goes through.
        views: bytes of the batch.
        summed: bytes of each tensor, besides gradients, that the processes sum.
        gathered: bytes of each tensor, besides weights, that is made of one of every process.
    """

    rows: int
    operators: Sequence[Operator]
    storages: Sequence[Storage]
    turn: int
    outputs: Mapping[Block, frozenset[int]]
    parameters: Mapping[Block, int]
    trained: frozenset[Block]
    views: int
    summed: tuple[int, ...]
    gathered: tuple[int, ...]

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
        recorder = _Recorder(_score_widths(learner))

        for tensor in _take_values(learner.train()):
            recorder.known(tensor)
        batch = _converted(batch, fake.from_tensor)
        views = sum(_bytes(tensor) for tensor in _batch_tensors(batch))
        for tensor in _batch_tensors(batch):
            recorder.known(tensor)
        blocks = _watch_blocks(learner, recorder, stack)
        stack.enter_context(recorder)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = learner(batch, STEP, watched=False)
        recorder.backward = True
        turn = len(recorder.operators)
        result.loss.backward()  # type: ignore[no-untyped-call]
        recorder.close([p.grad for p in learner.parameters() if p.grad is not None])
    trained = frozenset(key for key in blocks if learner.named_branches[key[0]].trains)
    found = recorder.operators, recorder.storages, turn, recorder.outputs, blocks, trained, views
    return Trace(rows, *found, tuple(plan.summed), tuple(plan.gathered))


class _Recorder(TorchDispatchMode):
    """Writes down every operator and every storage while it is entered."""

    def __init__(self, widths: frozenset[int]) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self.storages: list[Storage] = []
        self.outputs: dict[Block, frozenset[int]] = {}
        self.block: Block | None = None
        self.backward = False
        self._widths = widths
        self._live: dict[int, int] = {}  # place of a storage in memory: its number; -1 for what was there before
        self._watched: list[Any] = []
        self._parameters: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":  # a number that the host waits for: nobody knows it
            return 0.0 if args[0].is_floating_point() else False if args[0].dtype == torch.bool else 0
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        flops = _flops(func, args, kwargs, result)
        kind = self._kind(func, name, given, made, flops)
        bits = min((t.element_size() * 8 for t in given if t.is_floating_point()), default=32)
        moved = 0 if kind == "view" else _moved(name, given, made)
        weight = name == "_to_copy" and _place(given[0]) in self._parameters
        self.operators.append(Operator(name, kind, flops, moved, bits, self.block, self.backward, weight))
        for tensor in made:
            self._born(tensor, kind in ("matrix", "attention"), weight)
        return result

    def _kind(self, func: Any, name: str, given: Sequence[Tensor], made: Sequence[Tensor], flops: int) -> Kind:
        if func.namespace == "c10d":
            return "exchange"
        if _ATTENTION in name:
            return "attention"
        if flops:
            return "matrix"
        changed = any(argument.is_write for argument in _aliases(func))
        fresh = any(_place(tensor) not in self._live for tensor in made)
        return "traffic" if name not in _FREE and (changed or fresh) else "view"

    def known(self, tensor: Tensor) -> None:
        """A tensor that is there before the step."""
        self._live[_place(tensor)] = -1
        self._watched.append(tensor.untyped_storage())
        if isinstance(tensor, nn.Parameter):
            self._parameters.add(_place(tensor))

    def number(self, tensor: Tensor) -> int:
        """Of the storage of a tensor; -1 for one that was there before the step."""
        return self._live.get(_place(tensor), -1)

    def _born(self, tensor: Tensor, product: bool, weight: bool) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._live:
            return
        number = len(self.storages)
        self._live[place] = number
        scores = tensor.ndim > 0 and tensor.shape[-1] in self._widths
        block = None if self.backward else self.block
        self.storages.append(Storage(storage.nbytes(), len(self.operators), block, product, scores, weight))

        def gone(reference: Any) -> None:
            self._live.pop(place, None)
            self.storages[number].died = len(self.operators)

        self._watched.append(weakref.ref(storage, gone))

    def leave(self, block: Block, made: Any) -> None:
        """A block hands on what it has made."""
        self.outputs[block] = frozenset(self.number(leaf) for leaf in tree_leaves(made) if isinstance(leaf, Tensor))

    def close(self, gradients: Sequence[Tensor]) -> None:
        """What still lives outlives the step."""
        for tensor in gradients:
            if (number := self.number(tensor)) >= 0:
                self.storages[number].gradient = True
        self._watched.clear()


def _aliases(func: Any) -> list[Any]:
    return [argument.alias_info for argument in func._schema.arguments if argument.alias_info is not None]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    """What a tensor reads or writes: no more than there is, where it is one number expanded to many."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _moved(name: str, given: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    written = sum(map(_bytes, made))
    read = [_bytes(tensor) for tensor in given]
    if name in _READ_A_PART and read:
        read[0] = min(read[0], written)
    return written + sum(read)


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Of torch's own formulas; those for attention on a CPU and for oneDNN's products are not among them."""
    packet = func.overloadpacket
    if packet in flop_counter.flop_registry:
        return int(flop_counter.flop_registry[packet](*args, **kwargs, out_val=result))
    name = packet.__name__
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return int(flop_counter.sdpa_flop_count(*(one.shape for one in args[:3])))
    if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return int(flop_counter.sdpa_backward_flop_count(*(one.shape for one in args[:4])))
    if name == "_linear_pointwise":
        return 2 * args[0].numel() * int(args[1].shape[0])
    return 0


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


def _watch_blocks(learner: Learner, recorder: _Recorder, stack: ExitStack) -> dict[Block, int]:
    """Tell the recorder which block computes; bytes of the parameters of each."""
    sizes: dict[Block, int] = {}
    for name, branch in learner.named_branches.items():
        held = branch.offer.encoder
        if not isinstance(held, nn.Module) or branch.shares:
            continue
        every = units(held)
        inner = [one for one in every if not any(other is not one and other in [*one.modules()] for other in every)]
        for number, block in enumerate(inner):
            key = (name, number)
            sizes[key] = sum(p.numel() * p.element_size() for p in block.parameters())

            def enter(module: nn.Module, given: Any, key: Block = key) -> None:
                recorder.block = key

            def leave(module: nn.Module, given: Any, made: Any, key: Block = key) -> None:
                recorder.leave(key, made)
                recorder.block = None

            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)
    return sizes


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
