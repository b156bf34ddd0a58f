"""The dry run: what a recipe would do, worked out without data, weights or a step."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from foundation.branches.base import Branch, EncoderBranch
from foundation.branches.frozen import FrozenBranch
from foundation.data.shards import ShardSet
from foundation.data.sources import open_sources
from foundation.engine.learner import Learner
from foundation.errors import UserError
from foundation.modalities.shapes import view_shapes
from foundation.run import build
from foundation.run.advice import advice
from foundation.run.memory import needed
from foundation.run.recipe import STUDENT, Recipe
from foundation.run.stage import Part, check, check_shards, micro_batch, parts
from foundation.run.words import begins_of, of_stage
from foundation.schedules import Clock
from foundation.voice import plural, to_stderr

NOT_HERE = "the shards are not here"
"""How a warning begins where patterns of shards find nothing on this machine."""
_LARGE = 80.0  # GiB: more than most single accelerators have


@dataclass(frozen=True)
class Plan:
    """Figures of one stage of a recipe.

    Attributes:
        stage: its name, None where the recipe has no stages.
        recipe: flat, of the stage.
        clock: length of the stage.
        num_samples: samples in the shards, None when they are not here.
        parameters: by part of the trained branches, and objectives.
        shares: of trained branches whose parameters are another one's, what they are, by name.
        trained: of those, the parameters that the stage trains.
        tokens: per sample: those of the student's and the teachers' passes.
        flops: forward and backward of one sample, matrix products of the encoders only.
        advice: what does not fit, a sentence each; see ``foundation/run/advice.py``.
        published: weights that the run will fetch where they are not on this machine, a sentence each.
        begins: what is said of first weights that are not random, a sentence each.
        learner: of the stage, on the meta device.
        processes: that share the batch.
    """

    stage: str | None
    recipe: Recipe
    clock: Clock
    num_samples: int | None
    parameters: dict[str, int]
    shares: dict[str, str]
    trained: int
    tokens: dict[str, int]
    flops: float
    advice: list[str]
    published: list[str]
    begins: list[str]
    learner: Learner = field(repr=False)
    processes: int = 1

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes in one process by kind, when a step takes most. Worked out when it is asked for: a second or more."""
        return needed(self.recipe, self.learner, self.processes)


def plan(recipe: Recipe, processes: int = 1) -> Plan:
    """The figures of a recipe's first stage; see :func:`plans`."""
    return plans(recipe, processes)[0]


def plans(recipe: Recipe, processes: int = 1) -> list[Plan]:
    """Build every stage of a recipe on the meta device and add up what a step costs.

    Args:
        recipe: to plan.
        processes: that share the batch; only the memory of one depends on it.

    Raises:
        RecipeError: all that could not run, of all stages.
        UserError: for a recipe that could not run.
    """
    unopened: dict[str, None] = {}

    def opened(flat: Recipe) -> dict[str, ShardSet]:
        sources, said = _sources(flat)
        unopened.update(dict.fromkeys(said))
        return sources or {}

    recipe.parallel.shares(processes, processes)
    found = parts(recipe, opened)
    learners = check(recipe, found, build.placement(recipe))
    for part, learner in zip(found, learners, strict=True):
        if part.sources:
            check_shards(learner, part.sources)
    return [
        _plan_of(part, learner, processes, [*unopened] if not part.sources else None)
        for part, learner in zip(found, learners, strict=True)
    ]


def _plan_of(part: Part, learner: Learner, processes: int, unopened: list[str] | None) -> Plan:
    recipe, clock, sources = part.recipe, part.clock, part.sources
    num_samples = part.num_samples if sources else None
    said = advice(recipe, clock, sources) if unopened is None else unopened
    shapes = view_shapes(recipe.views)
    own = (r.view for r in learner.requests if isinstance(learner.named_branches[r.branch], EncoderBranch))
    for name in dict.fromkeys(own):  # other branches have looked at what they are fed
        try:
            build.coordinates(recipe, name)
        except UserError as error:
            raise UserError(f"view {name!r}: {error}") from None
    parameters = {}
    shares = {name: branch.shares for name, branch in _trained(learner).items() if branch.shares}
    for name, branch in _trained(learner).items():
        if name in shares:
            continue
        of = "" if name == STUDENT else f" of {name}"
        if isinstance(branch, EncoderBranch):
            parameters[f"encoder{of}"] = _count(branch.encoder)
            parameters |= {f"head {head}{of}": _count(module) for head, module in branch.heads.items()}
        else:
            parameters[name] = _count(branch)
    losses = {f"objective {name}": _count(objective) for name, objective in learner.objectives.items()}
    parameters |= {name: count for name, count in losses.items() if count}
    trained = sum(p.numel() for m in build.trainable(learner).values() for p in m.parameters() if p.requires_grad)
    tokens, flops = {}, 0.0
    for name, branch in learner.named_branches.items():
        seen = dict.fromkeys((r.view, r.mask) for r in learner.requests if r.branch == name and r.token != "cells")
        encoder = branch.offer.encoder
        if encoder is None or not seen:
            continue
        tokens[name] = 0
        for view, mask in seen:
            count, share = shapes[view].count, 1.0 if mask is None else recipe.mask_rules[mask].visible_share
            patches = branch.num_patches(shapes[view], view)
            patches = len(build.coordinates(recipe, view)) if patches is None else patches
            tokens[name] += count * (encoder.prefix + round(patches * share))
            fed = (count, *branch.input_shape(shapes[view], view))
            flops += encoder.flops([fed]) * share * (3 if branch.trains else 1)
    micro_batch(recipe, processes)
    published = _published(recipe, learner)
    begins = begins_of(learner, recipe)
    figures = recipe, clock, num_samples, parameters, shares, trained, tokens, flops, said, published, begins
    return Plan(part.name, *figures, learner, processes)


def _published(recipe: Recipe, learner: Learner) -> list[str]:
    """Published weights of the student and of frozen branches, and how to do without a network."""
    keys: dict[str, str] = {}
    if (own := recipe.encoder.published) is not None:
        keys["encoder.weights=FILE.safetensors"] = own
    for name, branch in learner.named_branches.items():
        if isinstance(branch, FrozenBranch) and branch.published is not None:
            bare = branch.published.partition(",")[0]
            keys[f"\"branches.{name}.weights='{bare},weights=FILE.safetensors'\""] = branch.published
    return [
        f"published weights of {source} are fetched when the run begins, unless this machine has them; from a "
        f"file: {key}"
        for key, source in keys.items()
    ]


def _sources(recipe: Recipe) -> tuple[dict[str, ShardSet] | None, list[str]]:
    """The opened shards; None where they are not here, and why."""
    if not recipe.data.patterns:
        return None, []
    try:
        return open_sources(recipe.data), []
    except UserError as error:
        counted = recipe.data.samples_per_epoch or recipe.about.samples
        if not counted and not recipe.train.steps_per_epoch:
            raise
        steps = recipe.train.steps_per_epoch
        said = plural(steps, "step") if steps else f"counted as {plural(counted, 'sample')}" if counted else ""
        epoch = f", and an epoch is {said}" if said else ""
        return None, [f"{NOT_HERE}{epoch}: {error}"]


def _trained(learner: Learner) -> dict[str, Branch]:
    return {name: branch for name, branch in learner.named_branches.items() if branch.trains}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def show_plan(recipe: Recipe, processes: int = 1) -> None:
    """Print the figures of a recipe, and behind them, where a person looks, what does not fit."""
    for figures in plans(recipe, processes):
        _show(figures, processes)


def _epoch(figures: Plan) -> list[tuple[str, str]]:
    """Where an epoch is not the data: what it is, and how often the data are seen."""
    clock, recipe = figures.clock, figures.recipe
    if recipe.train.steps_per_epoch is None:
        return []
    samples = figures.num_samples or recipe.about.samples
    passes = clock.total_steps * recipe.train.batch_size / samples if samples else 0.0
    seen = [("passes over the data", f"{passes:,.1f}")] if samples else []
    return [("epoch (train.steps_per_epoch)", plural(recipe.train.steps_per_epoch, "step")), *seen]


def _show(figures: Plan, processes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console, recipe = Console(), figures.recipe
    of = "" if figures.stage is None else f", stage {figures.stage}"
    table = Table(title=f"{recipe.name}: dry run{of}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    shards = "not here" if figures.num_samples is None else f"{figures.num_samples:,}"
    batch = recipe.train.batch_size
    steps, known = figures.clock.total_steps, sum(figures.parameters.values())
    rows = [
        ("samples in the shards", shards),
        ("optimiser steps", f"{steps:,} ({steps / figures.clock.steps_per_epoch:,.1f} epochs)"),
        *_epoch(figures),
        ("batch", plural(batch, "sample")),
        (
            "micro-batch",
            f"{plural(batch // (processes * recipe.train.accumulate), 'sample')} "
            f"({plural(processes, 'process', 'processes')})",
        ),
        ("learning rate", f"{recipe.optimizer.learning_rate.start * recipe.optimizer.factor(batch):.3g} at its peak"),
        *((f"parameters, {name}", f"{count:,}") for name, count in figures.parameters.items()),
        *((f"parameters, {name}", said) for name, said in figures.shares.items()),
        *([("parameters, trained of them", f"{figures.trained:,}")] if figures.trained < known else []),
        *((f"tokens per step, {name}", f"{count * batch:,}") for name, count in figures.tokens.items()),
        ("encoder FLOPs per step", f"{figures.flops * batch:.3g}"),
        *((f"memory, {name}", f"{size / 2**30:,.2f} GiB") for name, size in figures.memory.items()),
        ("memory, estimate for one process", f"{sum(figures.memory.values()) / 2**30:,.2f} GiB"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if "activations" in figures.memory:
        kind = build.placement(recipe).device.type
        console.print(
            f"memory on this machine ({kind}); on GPUs: foundation plan {recipe.name} --gpus {processes} --gpu h100"
        )
    for line in figures.begins:
        console.print(f"first weights: {of_stage(figures.stage)}{line}", markup=False, highlight=False, soft_wrap=True)
    sys.stdout.flush()  # before the warnings, also where both streams go into one file
    for line in figures.published:
        to_stderr(f"note: {of_stage(figures.stage)}{line}")
    total = sum(figures.memory.values()) / 2**30
    if processes == 1 and total > _LARGE:
        to_stderr(
            f"note: {of_stage(figures.stage)}{total:,.0f} GiB are for one process with the whole batch"
            + (f"; the recipe is made for {recipe.about.hardware}" if recipe.about.hardware else "")
            + ": --processes N shows what each of N needs"
        )
    for line in figures.advice:
        to_stderr(f"warning: {of_stage(figures.stage)}{line}")
