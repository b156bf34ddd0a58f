"""Sub-networks: smaller encoders that are slices of a larger one's weights (POA, Zhang et al. 2024, section 3.2).

An encoder that can be sliced says of each size where every tensor of the stand-alone encoder of that size lies in its
own (:class:`Slice`). The same tensors run inside training (:class:`Sliced`) and are written out (:func:`stand_alone`),
so that what is exported is what was trained.

Rules for transformers, with W of M numbers and D of L blocks:

- Always the leading entries of every axis; of queries, keys and values, and of the halves of a gated layer, each the
  leading ones of its own share. Tokenizer projection, tokens, positions, norms, residual scales and biases as they are.
- Weights of the linear layers inside blocks are multiplied by M / W, so that sums of fewer products stay as large.
- Blocks ``floor((L - 1) j / (D - 1))``, the first and the last always; the first alone where D is 1. The final norm
  stays.
- Inner layers of a tokenizer (a convolutional stem) are shared whole; only its last projection is sliced.

Where the parent's weights lie in shards over several processes, they are gathered before a slice is taken
(:func:`foundation.parallel.parallelize.gather`): the leading entries of a shard are not those of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.seeded import seeded
from foundation.weights import tensors_of


@dataclass(frozen=True, order=True)
class SubNetwork:
    """Size of an encoder, as text ``w128-d6`` or ``w96-d2-2-6-2``.

    Attributes:
        width: of the features.
        depths: blocks; one number for a transformer, one for each stage of a hierarchical network.
    """

    width: int
    depths: tuple[int, ...]

    def __str__(self) -> str:
        return f"w{self.width}-d{'-'.join(map(str, self.depths))}"

    @classmethod
    def parse(cls, text: str) -> SubNetwork:
        """From its text.

        Raises:
            UserError: the text is no size.
        """
        found = re.fullmatch(r"w(\d+)-d(\d+(?:-\d+)*)", text.strip())
        if found is None:
            raise UserError(f"{text!r} is no size of an encoder: write width and depth as w128-d6, or w96-d2-2-6-2")
        return cls(int(found[1]), tuple(int(depth) for depth in found[2].split("-")))


@dataclass(frozen=True)
class Leading:
    """The first ``count`` entries of each of ``parts`` equal parts of an axis."""

    count: int
    parts: int = 1


Index: TypeAlias = slice | Leading | Tensor
"""Which entries of one axis: a slice, leading ones, or their numbers [K] int64."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Where a tensor of a sub-network lies in the large one.

    Attributes:
        source: name of the parameter or buffer there.
        index: for each axis, from the first on; axes that are left out are whole.
        scale: factor on the entries.
    """

    source: str
    index: tuple[Index, ...] = ()
    scale: float = 1.0

    def of(self, tensor: Tensor) -> Tensor:
        """The piece of a tensor: itself or a view of it where it can be, differentiable in any case."""
        folded: list[int] = []
        for axis in reversed(range(len(self.index))):
            index, whole = self.index[axis], tensor.shape[axis]
            if isinstance(index, Tensor):
                tensor = tensor.index_select(axis, index.to(tensor.device))
            elif isinstance(index, Leading):
                if index.count * index.parts == whole:
                    continue
                if index.parts > 1:
                    tensor = tensor.unflatten(axis, (index.parts, -1))
                    folded.append(axis)
                tensor = tensor.narrow(axis + (index.parts > 1), 0, index.count)
            elif index.indices(whole) != (0, whole, 1):
                tensor = tensor[(slice(None),) * axis + (index,)]
        if self.scale != 1.0:
            tensor = tensor * self.scale  # dense from here on: putting parts together copies nothing more
        for axis in reversed(folded):
            tensor = tensor.flatten(axis, axis + 1)
        return tensor


def _nothing(module: nn.Module) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Slice:
    """A sub-network.

    Attributes:
        config: Config of the stand-alone encoder.
        pieces: where each of its parameters and buffers comes from, by name.
        prepare: sets on a module built from ``config`` what is no tensor, such as the drop path of the kept blocks.
        shared: modules that are whole in the slice and see the input alone: in one step they give the large network and
            the slice the same.
    """

    config: Any
    pieces: Mapping[str, Piece]
    prepare: Callable[[nn.Module], None] = field(default=_nothing)
    shared: tuple[str, ...] = ()


class Elastic(Protocol):
    """What slicing asks of an encoder; see :class:`foundation.encoders.protocol.Encoder`."""

    def check_size(self, size: SubNetwork) -> None: ...

    def slice_of(self, size: SubNetwork) -> Slice: ...


def kept_blocks(depth: int, blocks: int) -> list[int]:
    """Numbers of the ``depth`` blocks out of ``blocks`` that a sub-network keeps: spread evenly, first and last always
    (POA); the first alone for a depth of 1."""
    return [(blocks - 1) * j // max(depth - 1, 1) for j in range(depth)]


def leading_pieces(narrow: Mapping[str, Tensor], wide: Mapping[str, Tensor]) -> dict[str, Piece]:
    """Each tensor as the leading entries of the one with its name, along every axis that is shorter; not scaled.

    Args:
        narrow: tensors of the sub-network by name; those of a module on the meta device will do.
        wide: tensors of the large network.
    """
    pieces: dict[str, Piece] = {}
    for name, tensor in narrow.items():
        axes = zip(tensor.shape, wide[name].shape, strict=True)
        pieces[name] = Piece(name, tuple(slice(None) if here == full else slice(here) for here, full in axes))
    return pieces


def under(prefix: str, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """The same pieces in a network that holds both, the small one and the large one, under this name."""
    return {f"{prefix}.{name}": replace(piece, source=f"{prefix}.{piece.source}") for name, piece in pieces.items()}


class SlicedModule:
    """A module that runs on pieces of another one's tensors, as they are at each call.

    It is no ``nn.Module``, so that the parent's parameters are registered once, wherever this one is kept; a deep copy
    that holds both keeps them together, and tensors are looked up at each call, so that the parent may move.

    Args:
        parent: whose tensors it runs on; its mode, training or evaluation, is followed.
        twin: built on the meta device: it has the layers, and none of the numbers.
        pieces: where every parameter and buffer of the twin comes from.

    Raises:
        ValueError: pieces and tensors of the twin are not the same ones.
    """

    def __init__(self, parent: nn.Module, twin: nn.Module, pieces: Mapping[str, Piece]) -> None:
        self.parent, self.twin, self.pieces = parent, twin, dict(pieces)
        self._buffers = {name for name, _ in twin.named_buffers()}
        if different := tensors_of(twin).keys() ^ self.pieces.keys():
            raise ValueError(f"the slice and the network of its config differ in {', '.join(sorted(different))}")

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by the twin's names: what runs, and what an export writes. Parameters lead gradients
        to the parent's; buffers are copies, so that a pass in training does not move the parent's statistics."""
        there = tensors_of(self.parent)
        pieces = {name: piece.of(there[piece.source]) for name, piece in self.pieces.items()}
        return pieces | {name: pieces[name].detach().clone() for name in self._buffers}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The twin's forward pass."""
        if self.twin.training != self.parent.training:
            self.twin.train(self.parent.training)
        return torch.func.functional_call(self.twin, self.tensors(), arguments, options, strict=True)


class Sliced(SlicedModule):
    """A sub-network of an encoder, running on its weights; called as an encoder is, with the same results.

    Args:
        encoder: the large one.
        size: of the sub-network.

    Raises:
        UserError: the encoder has no such sub-network; says which it has.
    """

    def __init__(self, encoder: Any, size: SubNetwork) -> None:
        encoder.check_size(size)
        self.size = size
        self.slice: Slice = encoder.slice_of(size)
        with torch.device("meta"):
            twin: nn.Module = self.slice.config.build()
        self.slice.prepare(twin)
        super().__init__(encoder, twin, self.slice.pieces)


def stand_alone(encoder: Any, size: SubNetwork) -> nn.Module:
    """The encoder of a sub-network with weights of its own.

    Args:
        encoder: the large one.
        size: of the sub-network.

    Returns:
        What ``slice_of(size).config`` builds, filled with the tensors of :class:`Sliced`: on their device, in their
        precision, in the mode of the encoder, and not tied to it.

    Raises:
        UserError: the encoder has no such sub-network; says which it has.
    """
    sliced = Sliced(encoder, size)
    with seeded(0):
        alone: nn.Module = sliced.slice.config.build()
    sliced.slice.prepare(alone)
    saved = alone.state_dict().keys()
    with torch.no_grad():
        tensors = {name: tensor.detach().clone() for name, tensor in sliced.tensors().items()}
    alone.load_state_dict({name: tensor for name, tensor in tensors.items() if name in saved}, assign=True)
    return alone.train(sliced.parent.training)


def size_named(encoder: Any, width: int | None, depths: Sequence[int] | None) -> SubNetwork:
    """The sub-network of a width and depths, each the whole encoder's where it is not given.

    Args:
        encoder: the large one.
        width: see :class:`SubNetwork`.
        depths: likewise; a single one is that of the deepest stage.

    Raises:
        UserError: the encoder has none of that size; says which it has.
    """
    full: SubNetwork = encoder.full_size
    if depths is not None and len(depths) == 1:
        deepest = max(range(len(full.depths)), key=lambda stage: full.depths[stage])
        depths = (*full.depths[:deepest], *depths, *full.depths[deepest + 1 :])
    size = SubNetwork(width or full.width, tuple(depths or full.depths))
    encoder.check_size(size)
    return size


def check_transformer(size: SubNetwork, *, width: int, depth: int, heads: int) -> None:
    """Refuse a sub-network that a transformer does not have.

    Args:
        size: asked for.
        width: of the transformer.
        depth: its blocks.
        heads: its attention heads; a sub-network has some of them, each as wide as it is.

    Raises:
        UserError: says which widths and depths there are.
    """
    head = width // heads
    if len(size.depths) != 1:
        raise UserError(f"sub-network {size}: a transformer has one depth, from 1 to {depth}")
    if size.width % head or not head <= size.width <= width:
        raise UserError(
            f"sub-network {size}: width {size.width} is no whole number of heads of {head}: the encoder has the widths "
            + ", ".join(str(one) for one in range(head, width + 1, head))
        )
    if not 1 <= size.depths[0] <= depth:
        raise UserError(f"sub-network {size}: the encoder has depths from 1 to {depth}, not {size.depths[0]}")
