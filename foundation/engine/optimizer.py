"""AdamW with the schedules and parameter groups of the DINO family, and clipping that never asks the device."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from foundation.encoders.protocol import Layered
from foundation.engine.adamw import AdamW
from foundation.errors import UserError
from foundation.parallel.collective import sum_over_ranks
from foundation.parallel.oss import OwnedAdamW
from foundation.parallel.shards import is_sharded, laid_out_as, local, part_of, squared_sums
from foundation.ranges import Count, Positive, PositiveShare, Range, ShareBelowOne, check
from foundation.schedules import Clock, Duration, Schedule

_ITEMS = ("step", "exp_avg", "exp_avg_sq")  # AdamW keeps these of each parameter


@dataclass(frozen=True, kw_only=True)
class Config:
    """AdamW (Loshchilov and Hutter 2019), its schedules and its parameter groups."""

    learning_rate: Annotated[Schedule, Range(0, 1e4)] = Schedule(start=5e-4, end=1e-6, warmup=Duration(10, "epochs"))
    """Learning rate at ``reference_batch``; the batch rule scales ``start``, not ``end`` or ``warmup_from``."""
    reference_batch: Count = 256
    """Batch size (samples per optimiser step) that ``learning_rate.start`` is for."""
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    """How the learning rate grows with batch / reference_batch: linear (DINO), sqrt (DINOv2) or not at all."""
    weight_decay: Annotated[Schedule, Range(0, 1e4)] = Schedule(start=0.04, end=0.4)
    """Decoupled weight decay; a cosine from 0.04 to 0.4 in DINO."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    eps: Annotated[float, Range(1e-20, 1)] = 1e-8
    """Added to the root of the second moment."""
    clip: Positive | None = 3.0
    """Largest gradient norm; null switches clipping off."""
    clip_mode: Literal["global", "module", "parameter"] = "module"
    """Norm that ``clip`` bounds: of all gradients, of the encoder's and each head's (DINOv2), of each tensor (DINO)."""
    layer_decay: PositiveShare = 1.0
    """The learning rate of layer i is multiplied by this to the power depth + 1 - i."""
    patch_embed_multiplier: Annotated[float, Range(0, 1e4)] = 1.0
    """Further factor of the learning rate of the tokenizer (DINOv2: 0.2)."""
    no_decay: Literal["names", "vectors"] = "names"
    """Without weight decay: biases, LayerScale and the weights of norms, whatever they are called (DINOv2 goes by their
    names), or biases and all 1-d tensors (DINO)."""
    freeze_last_layer: Duration = Duration(1, "epochs")
    """The prototypes' learning rate is 0 for so long."""
    fused: bool = True
    """Update all tensors of a group in one kernel, not one after the other."""

    def __post_init__(self) -> None:
        def refuse(name: str, wanted: str) -> None:
            raise UserError(f"optimizer: {name} must be {wanted}, got {getattr(self, name)!r}")

        check(self, "optimizer")
        if self.learning_rate.start <= 0:
            raise UserError(f"optimizer: learning_rate must be above 0, got {self.learning_rate.start}")
        if self.scaling not in ("linear", "sqrt", "none"):
            refuse("scaling", "'linear', 'sqrt' or 'none'")
        if self.clip_mode not in ("global", "module", "parameter"):
            refuse("clip_mode", "'global', 'module' or 'parameter'")
        if self.no_decay not in ("names", "vectors"):
            refuse("no_decay", "'names' or 'vectors'")

    def factor(self, batch: int) -> float:
        """What the learning rate is multiplied by for ``batch`` samples per optimiser step."""
        ratio = batch / self.reference_batch
        return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    def build(self, modules: Mapping[str, nn.Module], clock: Clock, batch: int, owned: bool = False) -> Optimizer:
        """Optimizer of modules by the prefix of their names (``encoder``, ``heads.cls``).

        Args:
            modules: what to train; frozen parameters are left out.
            clock: length of the run.
            batch: samples per optimiser step over all processes and accumulated micro-batches.
            owned: each process updates a share of the parameters (``foundation/parallel/oss.py``).
        """
        return Optimizer(self, modules, clock, batch, owned)


@dataclass(frozen=True)
class Rule:
    """How one parameter is treated; parameters with equal rules share a group."""

    learning_rate: float
    weight_decay: float
    last_layer: bool


def rule(config: Config, module: nn.Module, name: str, parameter: Tensor) -> Rule:
    """Rule for a parameter of a module.

    Args:
        config: of the optimizer.
        module: an encoder, which knows the layers of its parameters, or anything else (multiplier 1).
        name: inside the module.
        parameter: for its shape.
    """
    multiplier = 1.0
    if isinstance(module, Layered):
        multiplier = config.layer_decay ** (module.depth + 1 - module.layer_of(name))
        if module.is_patch_embed(name):
            multiplier *= config.patch_embed_multiplier
    if config.no_decay == "names":
        last = name.rsplit(".", 1)[-1]
        free = last == "bias" or last.endswith("_scale") or "norm" in name or "gamma" in name
        free = free or _is_norm(module.get_submodule(name.rpartition(".")[0]), parameter)
    else:
        free = name.rsplit(".", 1)[-1] == "bias" or parameter.ndim <= 1
    return Rule(multiplier, 0.0 if free else 1.0, "last_layer" in name)


def _is_norm(module: nn.Module, parameter: Tensor) -> bool:
    """Whether a parameter scales what its module has normalised: torch's kinds, and those of libraries (timm's
    ``RmsNorm``, ``EvoNorm2dB0``), which have no base in common, only vectors and a name."""
    kinds = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    named = re.search(r"Norm(?![a-z])", type(module).__name__) is not None
    return isinstance(module, kinds) or (named and parameter.ndim <= 1)


class Optimizer:
    """Parameter groups, schedules, clipping and the fused update. See :class:`Config`."""

    def __init__(
        self, config: Config, modules: Mapping[str, nn.Module], clock: Clock, batch: int, owned: bool = False
    ) -> None:
        self.config, self.clock = config, clock
        schedule = config.learning_rate
        self.learning_rate = replace(schedule, start=schedule.start * config.factor(batch))
        self.names: dict[str, nn.Parameter] = {}
        self._modules: dict[str, list[nn.Parameter]] = {}
        groups: dict[Rule, list[nn.Parameter]] = {}
        for prefix, module in modules.items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    self.names[f"{prefix}.{name}"] = parameter
                    self._modules.setdefault(prefix, []).append(parameter)
                    groups.setdefault(rule(config, module, name, parameter), []).append(parameter)
        if not groups:
            raise UserError("optimizer: no parameter to train")
        self.rules = tuple(groups)
        kind = OwnedAdamW if owned else AdamW
        self.adamw: AdamW | OwnedAdamW = kind([*groups.values()], config.betas, config.eps, config.fused)
        self._values: dict[str, float] = {}
        self._measured: tuple[Tensor | None, dict[nn.Parameter, Tensor]] = (None, {})
        self.apply_schedule(0)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return iter(self.names.values())

    def apply_schedule(self, step: int) -> None:
        """Set learning rates and weight decays for optimiser step ``step`` (from 0)."""
        learning_rate = self.learning_rate.at(step, self.clock)
        weight_decay = self.config.weight_decay.at(step, self.clock)
        frozen = step < self.config.freeze_last_layer.steps(self.clock)
        last_layer = 0.0 if frozen else learning_rate
        for group, its in zip(self.adamw.param_groups, self.rules, strict=True):
            group["lr"] = (last_layer if its.last_layer else learning_rate) * its.learning_rate
            group["weight_decay"] = weight_decay * its.weight_decay
        self._values = {
            "learning_rate": learning_rate,
            "last_layer_learning_rate": last_layer,
            "weight_decay": weight_decay,
        }

    def schedule_values(self) -> dict[str, float]:
        """The values in force, before the groups' multipliers."""
        return dict(self._values)

    def grad_norm(self) -> Tensor:
        """Norm of all gradients, on the device; not finite when any gradient is not."""
        gradients = {p: p.grad for p in self.parameters() if p.grad is not None}
        norms = list(torch._foreach_norm([local(g) for g in gradients.values()], dtype=torch.float32))
        if isinstance(self.adamw, OwnedAdamW):  # one exchange of a number for each
            gradients, norms = self._norms_of_all(dict(zip(gradients, norms, strict=True)))
        elif any(map(is_sharded, gradients.values())):  # all are: likewise
            norms = [*squared_sums(torch.stack(norms).square(), gradients.values()).sqrt()]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        self._measured = (norm, dict(zip(gradients, norms, strict=True)))
        return norm

    def _norms_of_all(self, own: Mapping[Any, Tensor]) -> tuple[dict[Any, Any], list[Tensor]]:
        """Norms of all parameters' gradients, those that other processes own among them."""
        parameters = [*self.parameters()]
        zero = torch.zeros((), device=parameters[0].device)
        squares = torch.stack([own.get(parameter, zero) for parameter in parameters]).square()
        return dict.fromkeys(parameters), [*sum_over_ranks(squares).sqrt()]

    def clip(self, norm: Tensor | None = None) -> Tensor:
        """Scale gradients down to ``config.clip``, without waiting for the device.

        Args:
            norm: what :meth:`grad_norm` has just returned, to spare a second look at the gradients.

        Returns:
            Norm of all gradients before clipping.
        """
        if norm is None or norm is not self._measured[0]:
            norm = self.grad_norm()
        norms, self._measured = self._measured[1], (None, {})
        if self.config.clip is None:
            return norm
        if self.config.clip_mode == "global":
            self._scale(dict.fromkeys(norms, self._factor(norm)))
        elif self.config.clip_mode == "module":
            for parameters in self._modules.values():
                its = {p: norms[p] for p in parameters if p in norms}
                if its:
                    together = torch.linalg.vector_norm(torch.stack([*its.values()]))
                    self._scale(dict.fromkeys(its, self._factor(together)))
        else:
            self._scale({p: self._factor(its) for p, its in norms.items()})
        return norm

    def _factor(self, norm: Tensor) -> Tensor:
        assert self.config.clip is not None
        return (self.config.clip / (norm + 1e-6)).clamp(max=1.0)

    @staticmethod
    def _scale(factors: dict[nn.Parameter, Tensor]) -> None:
        """Multiply gradients. Where a factor can be read without waiting, those of 1 are left out."""
        there = {p: factor for p, factor in factors.items() if p.grad is not None}
        chosen = {p: factor for p, factor in there.items() if factor.device.type != "cpu" or float(factor) != 1.0}
        if not chosen:
            return
        gradients = [local(p.grad) for p in chosen if p.grad is not None]
        values = [*chosen.values()]
        alike = all(value is values[0] for value in values)
        torch._foreach_mul_(gradients, values[0] if alike else values)

    def step(self, refused: Tensor | None = None) -> None:
        """One AdamW update; none where ``refused`` [] float32 on the device is 1, which is not waited for."""
        self.adamw.step(refused)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """AdamW's state as a flat mapping: ``PARAMETER/exp_avg``, ``/exp_avg_sq``, ``/step``, of every parameter.

        A parameter that has had no gradient yet has zeros (without memory), so that what is missing later is lost.
        """
        result: dict[str, Tensor] = {}
        states = self.adamw.states()
        for name, parameter in self.names.items():
            state = states.get(parameter, {})
            for item in _ITEMS:
                value = state.get(item, 0.0)
                if not isinstance(value, Tensor):
                    zero = torch.tensor(float(value), dtype=torch.float32 if item == "step" else parameter.dtype)
                    value = zero if item == "step" else zero.expand(local(parameter).shape)
                if item != "step":
                    value = laid_out_as(value, parameter)
                result[f"{name}/{item}"] = value
        return result

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a captured state back.

        Raises:
            UserError: for an item that is missing, or state of an unknown parameter or of another shape; nothing is
                changed then.
        """
        for key, value in tensors.items():
            name, _, item = key.rpartition("/")
            if name not in self.names or item not in _ITEMS:
                raise UserError(f"the checkpoint's optimizer has {key!r}, which this recipe does not train")
            wanted = self.names[name].shape if item != "step" else torch.Size()
            if value.shape != wanted:
                raise UserError(f"the checkpoint's optimizer has {key!r} as {list(value.shape)}, not {list(wanted)}")
        for key in self.tensors():
            if key not in tensors:
                raise UserError(f"the checkpoint's optimizer lacks {key!r}: it cannot be resumed from")
        self.adamw.state.clear()
        for name, parameter in self.names.items():
            if not tensors[f"{name}/step"].item() or not self.adamw.owns(parameter):
                continue  # AdamW makes its state at the first gradient
            self.adamw.state[parameter] = {}
            for item in _ITEMS:
                dtype = torch.float32 if item == "step" else parameter.dtype
                value = tensors[f"{name}/{item}"]
                if item != "step" and not is_sharded(value):
                    value = part_of(value, parameter)
                self.adamw.state[parameter][item] = local(value).to(device=parameter.device, dtype=dtype, copy=True)
