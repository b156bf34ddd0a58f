"""Operators and memory of whatever runs while a recorder is entered."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["matrix", "attention", "traffic", "exchange", "view"]


class Block(NamedTuple):
    """One call of a block of a branch; views that run apart call it several times."""

    branch: str
    number: int
    call: int


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


class Recorder(TorchDispatchMode):
    """Writes down every operator and every storage while it is entered."""

    def __init__(self, widths: frozenset[int]) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self.storages: list[Storage] = []
        self.inputs: dict[Block, frozenset[int]] = {}
        self.outputs: dict[Block, frozenset[int]] = {}
        self.block: Block | None = None
        self._calls: Counter[tuple[str, int]] = Counter()
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

    def enter(self, branch: str, number: int, given: Any) -> None:
        """A block of a branch is called."""
        self.block = Block(branch, number, self._calls[branch, number])
        self._calls[branch, number] += 1
        self.inputs[self.block] = self._numbers(given)

    def leave(self, made: Any) -> None:
        """The block hands on what it has made."""
        assert self.block is not None
        self.outputs[self.block], self.block = self._numbers(made), None

    def _numbers(self, tensors: Any) -> frozenset[int]:
        leaves = (leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))
        return frozenset(number for leaf in leaves if (number := self.number(leaf)) >= 0)

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


def bytes_of(tensor: Tensor) -> int:
    """What a tensor reads or writes: no more than there is, where it is one number expanded to many."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _moved(name: str, given: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    written = sum(map(bytes_of, made))
    read = [bytes_of(tensor) for tensor in given]
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
