"""From a recipe to the modules that train: the one place where plug-ins are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foundation.branches import trained
from foundation.branches.base import Branch, BranchContext, EncoderBranch
from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import GIB
from foundation.encoders.protocol import Encoder, check_hiding
from foundation.engine.collapse import MONITOR, FeatureMonitor, feature_request
from foundation.engine.learner import Learner, Monitor
from foundation.errors import RecipeError, UserError
from foundation.masks.rule import makers
from foundation.modalities.lattice import check_views
from foundation.modalities.shapes import view_shapes
from foundation.objectives.base import Objective, ObjectiveContext, UnbuiltBranchError
from foundation.objectives.store import Stores
from foundation.parallel.compiled import check_compiler
from foundation.parallel.float8 import check_float8
from foundation.parallel.placement import Placement
from foundation.plugins import near
from foundation.run.recipe import STUDENT, Recipe
from foundation.run.succession import take_over
from foundation.schedules import Clock, Schedule
from foundation.types import MASKING
from foundation.weights import fitting_memory


def branches(
    recipe: Recipe, clock: Clock, previous: Mapping[str, Branch] | None = None
) -> tuple[dict[str, Branch], list[tuple[str, str]]]:
    """The branches of a recipe, each built after those that it is made of.

    Args:
        recipe: flat, of one stage.
        clock: of the stage.
        previous: branches of the stage before.

    Returns:
        Those that could be built by name, and key and text of each mistake.
    """
    configs: dict[str, Any] = dict(recipe.branches)
    if STUDENT not in configs:
        configs = {STUDENT: trained.Config(), **configs}
    built: dict[str, Branch] = {}
    problems: list[tuple[str, str]] = []
    failed: set[str] = set()
    for name in in_order({name: _sources(config) for name, config in configs.items()}, problems):
        if any(source in failed for source in _sources(configs[name])):
            failed.add(name)  # said already of what it is made of
            continue
        context = BranchContext(
            name=name, clock=clock, seed=recipe.seed, encoder=recipe.encoder, heads=recipe.heads, branches=built,
            previous=previous or {}, views=view_shapes(recipe.views), extras=recipe.data.extras,
        )  # fmt: skip
        try:
            branch = configs[name].build(context)
            problems += [(f"branches.{name}", text) for text in take_over(name, branch, context.previous)]
            if name == STUDENT and recipe.initial is not None:
                branch.begin_from(recipe.initial)
        except UserError as error:
            problems.append((f"branches.{name}", str(error)))
            failed.add(name)
        else:
            built[name] = branch
    return built, problems


def _sources(config: Any) -> tuple[str, ...]:
    """Branches that a branch's Config names as those it is made of, in this stage."""
    names = {item.name for item in fields(config)}
    of = config.of if "of" in names and not ("at" in names and config.at == "stage") else ()
    return (of,) if isinstance(of, str) else tuple(of)


def in_order(sources: Mapping[str, Sequence[str]], problems: list[tuple[str, str]]) -> list[str]:
    """Names, each behind those that it is made of; circles are reported and left out.

    Args:
        sources: what each is made of, by name; names that are not there are passed over.
        problems: gets the key and text of each mistake.
    """
    order: list[str] = []
    open_now: list[str] = []
    left_out: set[str] = set()

    def visit(name: str) -> bool:
        if name in order or name in left_out:
            return name in order
        if name in open_now:
            circle = " -> ".join([*open_now[open_now.index(name) :], name])
            problems.append((f"branches.{name}", f"branches follow each other in a circle: {circle}"))
            left_out.update(open_now[open_now.index(name) :])
            return False
        open_now.append(name)
        good = all([visit(source) for source in sources[name] if source in sources])
        open_now.pop()
        if good and name not in left_out:
            order.append(name)
            return True
        left_out.add(name)
        return False

    for name in sources:
        visit(name)
    return order


def measured(recipe: Recipe, built: Mapping[str, Branch]) -> str:
    """The branch that probes, exports, collapse watch and reports ask: what the recipe says, else the first average of
    the first trained branch, else that branch.

    Raises:
        UserError: the recipe names one that is not there or has no encoder.
    """
    able = [name for name, branch in built.items() if isinstance(branch, EncoderBranch)]
    if recipe.measured is not None:
        if recipe.measured not in able:
            there = ", ".join(able) or "none"
            raise UserError(f"no branch with an encoder is called {recipe.measured!r}; there are: {there}")
        return recipe.measured
    first = next((name for name, branch in built.items() if branch.trains), next(iter(able), STUDENT))
    return next((name for name, branch in built.items() if branch.exports and branch.follows == first), first)


def _names(recipe: Recipe) -> list[str]:
    """Objective names, numbered where a recipe uses one twice."""
    names: list[str] = []
    for config in recipe.objectives:
        base = type(config).__module__.rsplit(".", 1)[-1]
        count = sum(1 for name in names if name.split("-")[0] == base)
        names.append(f"{base}-{count + 1}" if count else base)
    return names


def learner(
    recipe: Recipe,
    clock: Clock,
    previous: Mapping[str, Branch] | None = None,
    samples: int | None = None,
    made_of: tuple[dict[str, Branch], list[tuple[str, str]]] | None = None,
) -> Learner:
    """The whole learner of a recipe.

    Args:
        recipe: flat, of one stage.
        clock: of the stage.
        previous: branches of the stage before.
        samples: of the data, for stores.
        made_of: what :func:`branches` has given already.

    Raises:
        UserError: with every objective that asks for a branch, view, head, tap or mask that the recipe does not have;
            or networks or views ask for more memory than there is.
    """
    check_views(recipe.views.roles)
    with fitting_memory():
        built, problems = made_of or branches(recipe, clock, previous)
    unbuilt = frozenset({STUDENT, *recipe.branches} - set(built))
    masks = mask_views(recipe)
    modes = {name: rule.mode for name, rule in recipe.mask_rules.items()}
    stores = Stores(samples)
    shapes = view_shapes(recipe.views)
    counts = {(name, view): branch.num_patches(shapes[view], view) for name, branch in built.items() for view in shapes}
    patches = {key: count for key, count in counts.items() if count is not None}
    grids = {(name, view): branch.grid(shapes[view], view) for name, branch in built.items() for view in shapes}
    context = ObjectiveContext(
        clock=clock,
        offers={name: branch.offer for name, branch in built.items()},
        unbuilt=unbuilt,
        masks=masks,
        modes=modes,
        views=shapes,
        patches=patches,
        grids={key: grid for key, grid in grids.items() if grid is not None},
        stores=stores,
    )
    objectives: dict[str, Objective] = {}
    weights: dict[str, Schedule] = {}
    for index, (name, config) in enumerate(zip(_names(recipe), recipe.objectives, strict=True)):
        try:
            objectives[name] = config.build(context)
            weights[name] = _schedule(config.weight)
        except UnbuiltBranchError:
            continue
        except UserError as error:
            problems.append((f"objectives.{index}", str(error) if name in str(error) else f"{name}: {error}"))
    problems += _check_masking(recipe, built[STUDENT].offer.encoder if STUDENT in built else None)
    asked = [request for objective in objectives.values() for request in objective.requests]
    try:
        chosen = measured(recipe, built)
    except UserError as error:
        problems.append(("measured", str(error)))
        chosen = STUDENT
    watched = feature_request(asked, (chosen, *(name for name, b in built.items() if not b.trains), *built))
    looks = recipe.guard.collapse
    monitors: dict[str, Monitor] = {}
    if watched is not None:
        monitors[MONITOR] = FeatureMonitor(watched, looks.every, looks.samples)
    made = Learner(built, objectives, weights, clock, chosen, monitors, stores.modules())
    keys = {name: f"objectives.{index}" for index, name in enumerate(_names(recipe))}
    unserved = made.check(tuple(recipe.views.roles), masks, modes, unbuilt)
    problems += [(keys[name], f"objective {name!r} {text}") for name, text in unserved]
    problems += _grids(recipe, made, keys, patches)
    if problems:
        raise RecipeError(problems)
    return made


def _grids(
    recipe: Recipe, built: Learner, keys: Mapping[str, str], patches: Mapping[tuple[str, str], int]
) -> list[tuple[str, str]]:
    """Requests for tokens that a mask rule chooses, to branches whose grid is not the one that the rule is drawn on."""
    problems: dict[tuple[str, str], None] = {}
    for name, objective in built.objectives.items():
        for request in objective.requests:  # type: ignore[union-attr]
            count = patches.get((request.branch, request.view))
            if request.chosen_by is None or count is None:
                continue
            drawn = len(coordinates(recipe, request.view))
            if drawn != count:
                text = (
                    f"objective {name!r} needs {request.token} tokens of branch {request.branch!r}, which cuts view "
                    f"{request.view!r} into {count}, and masks are drawn on {drawn}: give both encoders one grid "
                    "(patch size, input size), or ask for class tokens"
                )
                problems[keys[name], text] = None
    return list(problems)


def mask_views(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Views of each mask rule."""
    return {name: rule.views for name, rule in recipe.mask_rules.items()}


def _check_masking(recipe: Recipe, encoder: Encoder | None) -> list[tuple[str, str]]:
    """Mask rules for views that are not there, and ways of hiding tokens that the encoder does not know."""
    problems = []
    for name, rule in recipe.mask_rules.items():
        key = name if name == MASKING else f"masks.{name}"
        for view in rule.views:
            if view not in recipe.views.roles:
                there = ", ".join(recipe.views.roles)
                place = f"{key}.view" if view == rule.view else f"{key}.also"
                near_it = near(view, recipe.views.roles)
                problems.append((place, f"there is no view {view!r}{near_it}; the recipe's are: {there}"))
        try:
            if encoder is not None:
                check_hiding(encoder, rule.mode)
        except UserError as error:
            problems.append((key, str(error)))
    return problems


def _schedule(weight: float | Schedule) -> Schedule:
    return weight if isinstance(weight, Schedule) else Schedule(start=float(weight), shape="constant")


def trainable(built: Learner) -> Mapping[str, nn.Module]:
    """Modules with parameters to optimise, by the prefix of their names in checkpoints."""
    modules: dict[str, nn.Module] = {}
    for name, branch in built.named_branches.items():
        if not branch.trains:
            continue
        if isinstance(branch, EncoderBranch):
            modules[f"{name}.encoder"] = branch.encoder
            modules |= {f"{name}.heads.{head}": module for head, module in branch.heads.items()}
        else:
            modules[name] = branch
    modules |= {f"objectives.{name}": objective for name, objective in built.objectives.items()}
    return {name: module for name, module in modules.items() if any(True for _ in module.parameters())}


def tokens_per_sample(recipe: Recipe, built: Learner) -> int:
    """Patch tokens of one sample in all views that the student sees; those of other modalities do not count."""
    seen = {request.view for request in built.requests if request.branch == STUDENT}
    views = {name: view for name, view in recipe.views.roles.items() if name in seen}
    return sum(count * len(coordinates(recipe, name)) for name, (count, _) in views.items())


def encoder_for(recipe: Recipe, view: str) -> Any:
    """Config of the encoder that takes a view: that of the student, or of another trained branch, by modality."""
    modality = view_shapes(recipe.views)[view].modality
    others = [branch.encoder for branch in recipe.branches.values() if isinstance(branch, trained.Config)]
    for encoder in (recipe.encoder, *(other for other in others if other is not None)):
        with suppress(UserError):
            found = encoder.for_modality(modality)
            if found.modality == modality:
                return found
    return recipe.encoder


def coordinates(recipe: Recipe, view: str) -> NDArray[np.int64]:
    """Place of each patch token of a view in its grid, [N, d].

    Raises:
        UserError: the view does not fit the patches of the encoder that takes it.
    """
    found: NDArray[np.int64] = encoder_for(recipe, view).coordinates(tuple(recipe.views.roles[view][1][1:]))
    return found


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
        coordinates={name: coordinates(recipe, name) for rule in recipe.mask_rules.values() for name in rule.views},
        finish_in_worker=finish_in_worker,
        coordinates_of=recipe.encoder.coordinates_of,
        max_bytes=int(recipe.data.max_decoded_gib * GIB),
    )


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


def set_up(recipe: Recipe, placement: Placement) -> None:
    """Give torch the settings of this process that a recipe asks for, before the first step.

    Raises:
        UserError: this machine cannot compile, or multiply in 8 bits, and the recipe says so.
    """
    if placement.device.type == "cuda":
        torch.set_float32_matmul_precision(recipe.train.matmul_precision)
    if recipe.train.compile == "blocks":
        check_compiler(placement.device)
    if recipe.train.float8 == "blocks":
        check_float8(placement)


def _native_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it before 2.14
    return bool(supported and supported())
