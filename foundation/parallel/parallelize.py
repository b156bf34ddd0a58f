"""The one door through which a learner becomes one of several: replicated, sharded, or left as it is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from foundation.errors import UserError
from foundation.parallel.batch_norm import synchronise
from foundation.parallel.collective import world_size
from foundation.parallel.compiled import compile_blocks
from foundation.parallel.config import Config
from foundation.parallel.float8 import use_float8
from foundation.parallel.oss import OwnedAdamW, owned
from foundation.parallel.placement import Placement
from foundation.parallel.recompute import recompute
from foundation.parallel.replicate import replicate, without_sync
from foundation.parallel.shards import is_sharded
from foundation.parallel.units import has_parameters, innermost, unit_lists, units
from foundation.voice import plural


@dataclass(frozen=True)
class Part:
    """A module that is called as a whole: an encoder, a head, an objective with parameters.

    Attributes:
        name: for messages.
        module: it.
        trained: gradients reach it.
        sliced: others compute with slices of its weights (an elastic branch): it stays gathered between its forward
            and its backward pass.
        wide: it computes in float32 whatever the precision of the run, as losses do: so are its weights gathered.
    """

    name: str
    module: nn.Module
    trained: bool = True
    sliced: bool = False
    wide: bool = False


class Parallel:
    """A learner as this process calls it.

    Args:
        learner: what is trained.
        parts: all of its modules that hold parameters.
        config: the recipe's ``parallel``.
        placement: device and precision.
        may_rest: some trained parameters may get no gradient in some step.
        compiled: compile the blocks of each part.
        float8: let the blocks of each part multiply in 8 bits.

    Attributes:
        module: to call in place of the learner.
        in_float8: layers that multiply in 8 bits.

    Raises:
        UserError: the processes cannot be divided like this, or this torch cannot do it.
    """

    def __init__(
        self,
        learner: nn.Module,
        parts: Sequence[Part],
        config: Config,
        placement: Placement,
        may_rest: bool,
        compiled: bool = False,
        float8: bool = False,
    ) -> None:
        self.config, self.parts = config, tuple(parts)
        self.sharded = config.sharded and world_size() > 1
        self.in_float8 = 0
        for part in parts:
            if float8 and not part.wide:
                self.in_float8 += use_float8(part.module)
            if part.trained:
                recompute(innermost(part.module), config.activation_checkpointing)
            if compiled:
                compile_blocks(part.module)
        self.module: nn.Module = learner
        if self.sharded:
            synchronise(learner)
            shard(parts, config, placement, may_rest)
            left = [name for name, one in learner.named_parameters() if one.requires_grad and not is_sharded(one)]
            if left:  # of a branch of the user's own
                raise UserError(
                    f"parallel.data is {config.data}, and {left[0]} is trained outside of any part that is sharded: "
                    "name the module that it belongs to in parts() of its branch, or use parallel.data=ddp"
                )

    @property
    def described(self) -> str:
        """How several processes share the weights, for a person."""
        size = world_size()
        if self.config.data == "fairscale":
            return f"fairscale: all weights in every process, gradients and moments in {size} shares"
        if not self.sharded:
            return "ddp: all weights in every process"
        shares = self.config.shares(size, processes_per_node())
        return f"{self.config.data}: weights in {shares} shards, {plural(size // shares, 'copy', 'copies')}"

    @property
    def owned(self) -> bool:
        """Whether each process updates a share of the parameters."""
        return self.config.data == "fairscale" and world_size() > 1

    def begin(self, device: torch.device, may_rest: bool, update: object) -> None:
        """Make weights and buffers those of process 0; when all weights are there.

        Args:
            device: of the weights.
            may_rest: as above.
            update: what updates the parameters.
        """
        if isinstance(update, OwnedAdamW):
            self.module = owned(self.module, update)
        elif not self.sharded:
            self.module = replicate(self.module, device, may_rest)

    def without_sync(self) -> AbstractContextManager[Any]:
        """While entered, gradients are added up and stay local: for all but the last micro-batch of a step."""
        if self.owned:
            return self.module.no_sync()  # type: ignore[operator, no-any-return]
        return _held_back(self.parts) if self.sharded else without_sync(self.module)

    def settle(self) -> None:
        """Leave no weights gathered: what reads or writes parameters between two steps must meet the shards."""
        for part in self.parts if self.sharded else ():
            for module in _sharded_modules(part.module):
                module.reshard()


def processes_per_node() -> int:
    """Processes of the run on this machine, as torchrun and ``foundation launch`` say; all where nobody does."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world_size())


def mesh_of(config: Config, placement: Placement) -> Any:
    """The processes as a mesh: ``shard``, before it ``replicate`` for ``hsdp``.

    Raises:
        UserError: the number of processes is no multiple of ``parallel.shard``.
    """
    from torch.distributed.device_mesh import init_device_mesh

    size, kind = world_size(), placement.device.type
    if config.data == "fsdp":
        return init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
    shares = config.shares(size, processes_per_node())
    return init_device_mesh(kind, (size // shares, shares), mesh_dim_names=("replicate", "shard"))


def shard(parts: Iterable[Part], config: Config, placement: Placement, may_rest: bool) -> None:
    """Shard parts over the processes, block by block (FSDP2), in place.

    Each process keeps a share of the rows of every parameter. Parameters are gathered when their block is called and
    are in float32 between two steps.

    Args:
        parts: whole, alike in all processes.
        config: how.
        placement: where they compute.
        may_rest: some trained parameters may get no gradient in some process and step: all send zeros for those.

    Raises:
        UserError: see :class:`Parallel`.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if may_rest and not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(
            f"parallel.data is {config.data}, and this recipe leaves parameters without gradient in some steps, which "
            f"torch {torch.__version__} cannot shard: update torch (2.14 can), or use parallel.data=ddp"
        )
    for part in parts:
        for name, parameter in part.module.named_parameters():
            if parameter.ndim == 0:
                raise UserError(
                    f"parallel.data is {config.data}, and the parameter {part.name}.{name} is a number without axis, "
                    "which cannot be sharded: give it the shape [1], or use parallel.data=ddp"
                )
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    half = {"auto": placement.autocast, "float32": None, "bfloat16": torch.bfloat16}[config.weights]
    reduced = None if half is None else torch.float32
    narrow = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=reduced, cast_forward_inputs=False)
    wide = MixedPrecisionPolicy(cast_forward_inputs=False)
    mesh = mesh_of(config, placement)
    for part in parts:
        if not has_parameters(part.module):
            continue
        reshard = not part.trained or (config.reshard and not part.sliced)
        settings: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": wide if part.wide else narrow,
            "reshard_after_forward": reshard,
        }
        for module in (*(one for one in units(part.module) if one is not part.module), part.module):
            fully_shard(module, **settings)
            _RESHARD[module] = reshard
            if may_rest and part.trained:
                module.set_reduce_scatter_unused_params(True)  # type: ignore[operator]
        for blocks in unit_lists(part.module):
            _prefetch(blocks, config.prefetch)


_RESHARD: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a sharded module frees its weights behind its forward pass, as it was built."""


def _prefetch(blocks: Sequence[nn.Module], ahead: int) -> None:
    for number, block in enumerate(blocks if ahead else ()):
        block.set_modules_to_forward_prefetch([*blocks[number + 1 : number + 1 + ahead]])  # type: ignore[operator]
        behind = [*blocks[max(0, number - ahead) : number]]
        block.set_modules_to_backward_prefetch(behind[::-1])  # type: ignore[operator]


def _sharded_modules(module: nn.Module) -> list[Any]:
    """Parts of a module that are gathered as one piece; none where nothing is sharded."""
    return [one for one in module.modules() if one in _RESHARD]


@contextmanager
def _held_back(parts: Sequence[Part]) -> Iterator[None]:
    modules = [part.module for part in parts if part.trained and has_parameters(part.module)]
    for module in modules:
        module.set_requires_gradient_sync(False)  # type: ignore[operator]
    try:
        yield
    finally:
        for module in modules:
            module.set_requires_gradient_sync(True)  # type: ignore[operator]


def gather(modules: Iterable[nn.Module]) -> None:
    """Gather sharded weights now and leave them gathered, for computing with them outside of their own forward pass.

    All processes call this together. Does nothing where nothing is sharded.
    """
    for module in modules:
        for one in _sharded_modules(module):
            one.unshard()


@contextmanager
def gathered(*modules: nn.Module) -> Iterator[None]:
    """While entered, modules have whole weights and need no other process: a probe runs on one, or on unequal shares.

    All processes enter and leave together, and compute without gradients. Does nothing where nothing is sharded.
    """
    found = [one for module in modules for one in _sharded_modules(module)]
    for one in found:
        one.set_reshard_after_forward(False, recurse=False)
        one.unshard()
    try:
        yield
    finally:
        for one in found:
            one.reshard()
            one.set_reshard_after_forward(_RESHARD[one], recurse=False)
