"""The elastic branch: a slice of another one's weights, a new one each optimiser step (POA, Zhang et al. 2024).

Training one network and, in the same steps, slices of it gives encoders of many sizes: ``foundation zoo extract`` cuts
them out. :mod:`foundation.encoders.elastic` says how a slice is taken.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foundation import counter
from foundation.branches.base import Branch, BranchContext, EncoderBranch, Offer
from foundation.branches.copies import branch_of
from foundation.branches.request import Request
from foundation.encoders.elastic import Piece, Sliced, SlicedModule, SubNetwork, leading_pieces, tensors_of, under
from foundation.errors import UserError
from foundation.parallel import collective
from foundation.parallel.batch_norm import synchronise
from foundation.parallel.parallelize import gather
from foundation.ranges import Depth, Length, Range, Rising, Side, check
from foundation.types import Batch, ViewShape
from foundation.voice import plural

_TWINS = 32
"""Sub-networks whose layers are kept for the next time: a few megabytes each, 40 ms to make again for a ViT-L."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A slice of a trained branch, another one in each optimiser step, whose gradients reach that branch. It has that
    branch's heads, of which only what depends on the width of a feature is sliced."""

    of: str = "student"
    """Trained branch that it is a slice of."""
    widths: Annotated[tuple[Side, ...], Length(1, 4096)] | None = None
    """Widths of the slices, whole numbers of heads; None: all from half the branch's width up."""
    depths: Annotated[tuple[Depth, ...], Length(1, 4096)] | None = None
    """Blocks of the slices, or those of the deepest stage of a hierarchical network; None: all from half up."""
    stages: Annotated[tuple[Annotated[tuple[Depth, Depth], Rising()], ...], Length(0, 16)] = ()
    """Of a hierarchical network, in place of ``depths``: fewest and most blocks of each stage. All combinations are
    drawn of, and the paper's rule weighs them by their order in blocks in all, and no widths (POA's ResNet)."""
    sampling: Literal["paper", "uniform", "list"] = "paper"
    """Which width and depth is drawn how often: ``uniform``, each as often as any other. ``paper``: small ones more
    often, see ``scale``. ``list``: those of ``sizes``. All are drawn once, in a random order, before any is drawn a
    second time; the whole branch is not drawn."""
    scale: Annotated[float, Range(1, 100)] = 3.0
    """Paper: the smallest width counts this often and the largest once, evenly spaced, so does the depth, and a size
    stands as often in the list as the product says, rounded (halves to even)."""
    sizes: tuple[str, ...] = ()
    """List: sizes such as ``w64-d2``; one that stands there twice is drawn twice as often."""
    per_rank: bool = False
    """Each process of a run draws for itself (POA). False: all train the same slice, so that any number of processes
    gives the numbers of one."""

    def __post_init__(self) -> None:
        check(self, "elastic")
        if self.sampling not in ("paper", "uniform", "list"):
            raise UserError(f"elastic: sampling must be 'paper', 'uniform' or 'list', got {self.sampling!r}")
        listed = self.sampling == "list"
        if listed != bool(self.sizes):
            wrong = "needs sizes, such as [w64-d2, w96-d3]" if listed else "does not read sizes: set sampling: list"
            raise UserError(f"elastic: sampling {self.sampling!r} {wrong}")
        if listed and (self.widths is not None or self.depths is not None):
            raise UserError("elastic: sampling 'list' takes sizes and reads no widths or depths: leave those out")
        if self.stages and (listed or self.depths is not None):
            raise UserError("elastic: stages stands in place of depths and sizes: leave those out")
        for size in self.sizes:
            SubNetwork.parse(size)

    def build(self, context: BranchContext) -> ElasticBranch:
        """The branch.

        Raises:
            UserError: there is no such trained branch, it cannot be sliced, or not into these sizes.
        """
        source, key = branch_of(context, self.of), f"branches.{context.name}"
        if not source.trains:
            raise UserError(f"{key}: branch {self.of!r} is not trained: set {key}.of to one that is")
        if not source.encoder.capabilities.elastic:
            raise UserError(
                f"{key}: the encoder of branch {self.of!r} cannot be cut into smaller ones: it takes an encoder that "
                "can, such as a vit"
            )
        try:
            networks = self.networks(source.encoder)
            for size in sorted(set(networks)):
                source.encoder.check_size(size)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        branch = ElasticBranch(source, self.of, networks, context.seed, context.name, per_rank=self.per_rank)
        if self.per_rank:
            branch.check_per_rank()
        return branch

    def networks(self, encoder: Any) -> list[SubNetwork]:
        """What is drawn of, each size as often as it is drawn in one pass.

        Raises:
            UserError: there is nothing to draw.
        """
        if self.sampling == "list":
            return [SubNetwork.parse(size) for size in self.sizes]
        full: SubNetwork = encoder.full_size
        stage = max(range(len(full.depths)), key=lambda number: full.depths[number])
        deepest = full.depths[stage]

        def size(width: int, depth: int) -> SubNetwork:
            return SubNetwork(width, (*full.depths[:stage], depth, *full.depths[stage + 1 :]))

        def there(one: SubNetwork) -> bool:
            try:
                encoder.check_size(one)
            except UserError:
                return False
            return True

        half = range(-(-full.width // 2), full.width + 1)
        widths = sorted(set(self.widths or [width for width in half if there(size(width, deepest))]))
        scale = self.scale if self.sampling == "paper" else 1.0
        if self.stages:
            spans = [range(fewest, most + 1) for fewest, most in self.stages]
            combinations = sorted(itertools.product(*spans), key=sum)
            sizes = [SubNetwork(width, depths) for width in widths for depths in combinations]
            times = multiplicities(1, len(combinations), scale, of_widths=1.0) * len(widths)
        else:
            reach = range(-(-deepest // 2), deepest + 1)
            depths = sorted(set(self.depths or [depth for depth in reach if there(size(full.width, depth))]))
            sizes = [size(width, depth) for width in widths for depth in depths]
            times = multiplicities(len(widths), len(depths), scale)
        networks = [one for one, often in zip(sizes, times, strict=True) for _ in range(often) if one != full]
        if not networks:
            raise UserError(f"no size is left but {full}, that of the whole branch: give widths or depths below it")
        return networks


def multiplicities(widths: int, depths: int, scale: float, of_widths: float | None = None) -> list[int]:
    """How often each pair of a width and a depth stands in the list that is drawn from (POA, released code).

    Args:
        widths: their number.
        depths: their number.
        scale: weight of the smallest of each; the largest has 1, those between are evenly spaced.
        of_widths: of the narrowest, where it is another one.

    Returns:
        ``round(weight of width * weight of depth)`` for each pair, halves to even, depths fastest.
    """
    products = np.outer(np.linspace(of_widths or scale, 1.0, widths), np.linspace(scale, 1.0, depths))
    return [int(often) for often in np.round(products).ravel()]


def head_pieces(narrow: nn.Module, wide: nn.Module, scale: float) -> dict[str, Piece]:
    """Where the tensors of a head for narrower features lie in one for wider ones: leading entries of what depends on
    the width; matrices that read fewer numbers are scaled, as those of the blocks are."""
    own, theirs = tensors_of(narrow), tensors_of(wide)
    pieces = leading_pieces(own, theirs)
    fewer = {name for name, tensor in own.items() if tensor.ndim > 1 and tensor.shape[1] < theirs[name].shape[1]}
    return {name: replace(piece, scale=scale) if name in fewer else piece for name, piece in pieces.items()}


class Handed:
    """What a module has made of inputs, for another one that would make the same of them in the same step.

    Kept in training alone, between the pass of the one and :meth:`clear`. A deep copy (of a teacher that starts as the
    branch) keeps nothing.

    Args:
        module: that is listened to.
    """

    def __init__(self, module: nn.Module) -> None:
        self._listens = True
        self._made: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        module.register_forward_hook(self._keep)

    def __deepcopy__(self, memo: dict[int, Any]) -> Handed:
        deaf = Handed(nn.Identity())
        deaf._listens = False
        return deaf

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        if self._listens and module.training and torch.is_grad_enabled():
            self._made[_place(given[0])] = given[0], result  # with the input, so that its place is not taken

    def to(self, module: nn.Module) -> None:
        """Let a module take what there is in the place of its own forward pass."""
        module.forward = partial(self._take, module, module.forward)  # type: ignore[method-assign]

    def _take(self, module: nn.Module, own: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        found = self._made.get(_place(inputs)) if module.training and torch.is_grad_enabled() else None
        return own(inputs) if found is None else found[1]

    def clear(self) -> None:
        """Forget everything."""
        self._made.clear()


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


class ElasticBranch(Branch):
    """See :class:`Config`.

    Args:
        source: branch that slices are taken of.
        of: its name.
        networks: sizes to draw of; each is drawn as often in a pass as it stands there.
        seed: of the recipe.
        name: of this branch.
        per_rank: processes draw different ones.

    Attributes:
        position: [] int64, sizes that have been drawn: one for each optimiser step.
    """

    trains = True
    position: Tensor

    def __init__(
        self, source: EncoderBranch, of: str, networks: Sequence[SubNetwork], seed: int, name: str, *, per_rank: bool
    ) -> None:
        super().__init__()
        # Not registered: its parameters belong to the branch, and are in the checkpoints and optimised once.
        self._held = [source]
        self.slices = of
        self.of, self.networks, self.seed, self.name, self.per_rank = of, tuple(networks), seed, name, per_rank
        self.shares = f"a slice of {of}, {plural(len(set(networks)), 'size')}"
        self._twins: OrderedDict[SubNetwork, SlicedModule] = OrderedDict()
        shared = source.encoder.slice_of(min(networks)).shared
        self._handed = {name: Handed(source.encoder.get_submodule(name)) for name in shared}
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self._known: tuple[int, int, int] = (id(self.position), self.position._version, 0)

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: it makes twins of its own, and their stems run by themselves."""
        return self.__dict__ | {"_twins": OrderedDict(), "_handed": {}}

    @property
    def source(self) -> EncoderBranch:
        """The branch that slices are taken of."""
        return self._held[0]

    @property
    def offer(self) -> Offer:
        return replace(self.source.offer, taps=(), varies=True, per_rank=self.per_rank)

    def num_patches(self, view: ViewShape, name: str) -> int | None:
        return self.source.num_patches(view, name)

    @property
    def drawn(self) -> int:
        """``position`` on the host; the device is waited for only where something else than a step has moved it."""
        mark = id(self.position), self.position._version
        if mark != self._known[:2]:
            self._known = (*mark, int(self.position))
        return self._known[2]

    def size_at(self, position: int, rank: int = 0) -> SubNetwork:
        """The size of an optimiser step.

        Args:
            position: steps before it.
            rank: process, where each draws for itself.
        """
        turn, place = divmod(position, len(self.networks))
        order = counter.permutation(self.seed, turn, rank, f"branch.{self.name}.size", len(self.networks))
        return self.networks[order[place]]

    @property
    def size(self) -> SubNetwork:
        """The size that this process trains now."""
        return self.size_at(self.drawn, collective.rank() if self.per_rank else 0)

    def check_per_rank(self) -> None:
        """Refuse different sizes in different processes where BatchNorm layers differ: they exchange statistics.

        Raises:
            UserError: says what would be right.
        """
        layers = [
            {
                name: layer.num_features
                for name, layer in self.sliced(size).twin.named_modules()
                if isinstance(layer, nn.modules.batchnorm._BatchNorm)
            }
            for size in (min(self.networks), max(self.networks))
        ]
        if layers[0] != layers[1]:
            raise UserError(
                f"branches.{self.name}.per_rank: sizes differ in their BatchNorm layers, whose statistics all "
                "processes share: set per_rank: false, or build the encoder with another norm"
            )

    def sliced(self, size: SubNetwork) -> SlicedModule:
        """The branch at a size, on the weights of its source: an :class:`EncoderBranch` to call."""
        if size in self._twins:
            self._twins.move_to_end(size)
            return self._twins[size]
        source = self.source
        encoder = Sliced(source.encoder, size)
        part: Any = encoder.twin
        pieces = under("encoder", encoder.pieces)
        with torch.device("meta"):
            heads = {name: config.build(int(part.width)) for name, config in source.configs.items()}
        for name, head in heads.items():
            scale = source.encoder.width / part.width
            pieces |= under(f"heads.{name}", head_pieces(head, source.heads[name], scale))
        twin = EncoderBranch(encoder.twin, heads, source.configs)
        if collective.world_size() > 1:
            synchronise(twin)
        for name, handed in self._handed.items():
            handed.to(encoder.twin.get_submodule(name))
        self._twins[size] = SlicedModule(source, twin, pieces)
        if len(self._twins) > _TWINS:
            self._twins.popitem(last=False)
        return self._twins[size]

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor] | None = None
    ) -> dict[Request, Tensor]:
        """Answers by request, as the source gives them; features have the width of the step's size."""
        gather([self.source])  # whole rows of all blocks, until the backward pass is done
        answers: dict[Request, Tensor] = self.sliced(self.size)(batch, tuple(requests))
        for handed in self._handed.values():
            handed.clear()
        return answers

    def update(self, branches: Mapping[str, Branch], step: int, applied: Tensor | None = None) -> dict[str, float]:
        """Go on to the next size, behind a step that was refused too, as the schedules do.

        Returns:
            ``width`` and ``depth`` of the step that is done, for the log.
        """
        size, after = self.size, self.drawn + 1
        self.position.fill_(after)
        self._known = (id(self.position), self.position._version, after)
        return {"width": float(size.width), "depth": float(sum(size.depths))}
