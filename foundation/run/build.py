"""From a recipe to the modules that train: the one place where plug-ins are put together."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from foundation.branches.base import Branch
from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import GIB
from foundation.engine.collapse import MONITOR, FeatureMonitor, feature_request
from foundation.engine.learner import STUDENT, Learner, Monitor
from foundation.errors import UserError
from foundation.masks.rule import makers
from foundation.modalities.lattice import check_views
from foundation.run.recipe import Recipe
from foundation.schedules import Clock, Schedule
from foundation.weights import fitting_memory


def student(recipe: Recipe) -> Branch:
    """Encoder and heads of the recipe, initialised from its seed."""
    torch.manual_seed(recipe.seed)
    encoder = recipe.encoder.build()
    if recipe.initial is not None and not any(weight.is_meta for weight in encoder.parameters()):
        recipe.initial.apply(encoder)
    return Branch(encoder, {name: config.build(encoder.width) for name, config in recipe.heads.items()})


def _names(recipe: Recipe) -> list[str]:
    """Objective names, numbered where a recipe uses one twice."""
    names: list[str] = []
    for config in recipe.objectives:
        base = type(config).__module__.rsplit(".", 1)[-1]
        count = sum(1 for name in names if name.split("-")[0] == base)
        names.append(f"{base}-{count + 1}" if count else base)
    return names


def learner(recipe: Recipe, clock: Clock) -> Learner:
    """The whole learner of a recipe.

    Raises:
        UserError: when an objective asks for a branch, view, head or mask that the recipe does not have, or networks or
            views ask for more memory than there is.
    """
    check_views(recipe.views.roles)
    with fitting_memory():
        branch = student(recipe)
        teachers: dict[str, nn.Module] = {name: config.build(branch) for name, config in recipe.teachers.items()}
    names = _names(recipe)
    objectives = {
        name: config.build(clock=clock, heads=recipe.heads, width=branch.encoder.width)
        for name, config in zip(names, recipe.objectives, strict=True)
    }
    for objective in objectives.values():
        objective.attach(branch.encoder)
    _check_masking(recipe, branch.encoder)
    weights = {name: _schedule(config.weight) for name, config in zip(names, recipe.objectives, strict=True)}
    asked = [request for objective in objectives.values() for request in objective.requests]
    watched = feature_request(asked, (*teachers, STUDENT))
    looks = recipe.guard.collapse
    monitors: dict[str, Monitor] = {}
    if watched is not None:
        monitors[MONITOR] = FeatureMonitor(watched, looks.every, looks.samples)
    built = Learner(branch, teachers, objectives, weights, clock, monitors)
    built.check(tuple(recipe.views.roles), recipe.masking.views if recipe.masking else ())
    return built


def _check_masking(recipe: Recipe, encoder: nn.Module) -> None:
    """Refuse ways of hiding tokens that the encoder does not know."""
    mode = recipe.masking.mode if recipe.masking else "token"
    if mode == "drop" and not getattr(encoder, "supports_drop", False):
        raise UserError(
            "masking.mode 'drop' needs an encoder that can leave tokens out: a vit without rotary positions"
        )
    if mode == "input" and not hasattr(getattr(encoder, "tokenizer", None), "spread"):
        raise UserError("masking.mode 'input' needs a tokenizer with equal cells of a grid: use mode: token")


def _schedule(weight: float | Schedule) -> Schedule:
    return weight if isinstance(weight, Schedule) else Schedule(start=float(weight), shape="constant")


def trainable(built: Learner) -> Mapping[str, nn.Module]:
    """Modules with parameters to optimise, by the prefix of their names in checkpoints."""
    modules: dict[str, nn.Module] = {"encoder": built.student.encoder}
    modules |= {f"heads.{name}": head for name, head in built.student.heads.items()}
    own = {f"objectives.{name}": objective for name, objective in built.objectives.items()}
    return modules | {name: module for name, module in own.items() if any(True for _ in module.parameters())}


def tokens_per_sample(recipe: Recipe, built: Learner) -> int:
    """Patch tokens of one sample in all views that the student sees; those of other modalities do not count."""
    seen = {request.view for request in built.requests if request.branch == STUDENT}
    views = [view for name, view in recipe.views.roles.items() if name in seen]
    return sum(count * len(recipe.encoder.coordinates(tuple(shape[1:]))) for count, shape in views)


def pipeline(recipe: Recipe, views: Any, finish_in_worker: bool) -> TrainingPipeline:
    """What makes batches of samples.

    Args:
        recipe: of the run.
        views: built.
        finish_in_worker: no device does the second half of the views.
    """
    return TrainingPipeline(
        decode=recipe.decode.build(),
        views=views,
        masking=makers(recipe.mask_rules),
        extras={name: config.build(name) for name, config in recipe.data.extras.items()},
        coordinates=recipe.encoder.coordinates,
        finish_in_worker=finish_in_worker,
        places=getattr(recipe.encoder, "places", None),
        max_bytes=int(recipe.data.max_decoded_gib * GIB),
    )


@dataclass(frozen=True)
class Placement:
    """Where and in which precision the run computes.

    Attributes:
        device: of parameters and batches.
        autocast: dtype of the forward pass, or None for float32 throughout.
    """

    device: torch.device
    autocast: torch.dtype | None

    def plain(self) -> dict[str, str]:
        """``device``, ``processor`` (its model) and ``precision``, for checkpoints and cards."""
        precision = "float32" if self.autocast is None else str(self.autocast).removeprefix("torch.")
        return {"device": self.device.type, "processor": processor(self.device), "precision": precision}


def words(computed: Mapping[str, str]) -> str:
    """A :meth:`Placement.plain` for a person."""
    return f"{computed.get('precision')} on {computed.get('device')} ({computed.get('processor')})"


@cache
def processor(device: torch.device | None = None) -> str:
    """Model of a processor, as its maker calls it; None: of the machine's own."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def placement(recipe: Recipe) -> Placement:
    """Resolve ``auto`` settings against this machine.

    Raises:
        UserError: when the recipe asks for a GPU and there is none.
    """
    wanted = recipe.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but this torch sees no GPU: use train.device=cpu or auto")
    kind = "cuda" if wanted == "auto" and torch.cuda.is_available() else "cpu" if wanted == "auto" else wanted
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    precision = recipe.train.precision
    if precision == "auto":
        precision = "bfloat16" if _native_bfloat16(kind) else "float32"
    return Placement(device, torch.bfloat16 if precision == "bfloat16" else None)


def _native_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it before 2.14
    return bool(supported and supported())
