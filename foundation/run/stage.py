"""A stage: one flat part of a recipe with all that trains it. A run goes through its stages one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.branches.base import Branch, EncoderBranch
from foundation.checkpoints import checkpoint
from foundation.data.shards import ShardSet
from foundation.data.stream import Stream, build_loader, build_stream, open_sources
from foundation.engine import state
from foundation.engine.accumulate import Accumulated, accumulate
from foundation.engine.collapse import CollapseWatch
from foundation.engine.feed import Feed
from foundation.engine.learner import Learner
from foundation.engine.statistics import RunningStatistics
from foundation.errors import RecipeError, UserError
from foundation.parallel.collective import on_all_ranks, on_first_rank, rank, world_size
from foundation.parallel.first_weights import made_by_first, send
from foundation.parallel.parallelize import Parallel
from foundation.parallel.placement import Placement
from foundation.parallel.shards import whole
from foundation.parallel.threads import default_workers
from foundation.run import build
from foundation.run.jobs import Jobs
from foundation.run.recipe import Recipe
from foundation.run.trainable import KEY, choose
from foundation.schedules import Clock
from foundation.types import Batch
from foundation.weights import tensors_of


@dataclass(frozen=True)
class Part:
    """What is known of a stage before it is built.

    Attributes:
        number: from 0.
        name: as the recipe calls it; None where the recipe has no stages.
        recipe: flat.
        seed: of order, views, masks and drop path.
        clock: length.
        begun: optimiser steps of the stages before.
        sources: opened shards by name; empty where they are not here.
    """

    number: int
    name: str | None
    recipe: Recipe
    seed: int
    clock: Clock
    begun: int
    sources: Mapping[str, ShardSet] = field(default_factory=dict)

    @property
    def ends(self) -> int:
        """Steps of the run that are done when the stage is."""
        return self.begun + self.clock.total_steps

    @property
    def num_samples(self) -> int:
        """Samples of all sources."""
        return sum(int(shards.num_samples) for shards in self.sources.values())


def parts(recipe: Recipe, opened: Callable[[Recipe], Mapping[str, ShardSet]] | None = None) -> list[Part]:
    """The stages of a recipe in their order.

    Args:
        recipe: whole.
        opened: opens the shards of a flat recipe.

    Raises:
        RecipeError: stages whose keys do not go together.
        UserError: shards that cannot be read, a length that is none.
    """
    found: list[Part] = []
    begun = 0
    problems: list[tuple[str, str]] = []
    for number in range(recipe.num_stages):
        try:
            flat = recipe.stage(number)
        except UserError as error:
            problems.append((f"stages.{number}", f"stage {recipe.stages[number].name!r}: {error}"))
            continue
        if found and flat.data == found[-1].recipe.data:
            sources = found[-1].sources
        else:
            sources = open_sources(flat.data) if opened is None else opened(flat)
        samples = sum(int(shards.num_samples) for shards in sources.values())
        name = recipe.stages[number].name if recipe.stages else None
        try:
            clock = flat.clock(samples or None)
        except UserError as error:
            if name is None:
                raise
            problems.append((f"stages.{number}", f"stage {name!r}: {error}"))
            continue
        found.append(Part(number, name, flat, recipe.stage_seed(number), clock, begun, sources))
        begun += clock.total_steps
    if problems:
        raise RecipeError(problems)
    return found


def check_shards(learner: Learner, sources: Mapping[str, ShardSet]) -> None:
    """Refuse data that lacks what a branch reads.

    Raises:
        UserError: as the branch says it.
    """
    for name, branch in learner.named_branches.items():
        try:
            branch.check_shards(sources)
        except UserError as error:
            raise UserError(f"branches.{name}: {error}") from None


def clock_of(found: Sequence[Part]) -> Clock:
    """Length of the whole run; its epochs are those of the first stage."""
    return Clock(found[-1].ends, found[0].clock.steps_per_epoch)


class Stage:
    """A part of a run, built.

    Args:
        part: which.
        placement: where it computes.
        folder: of the run.
        say: gets each line meant for a person.
        previous: branches of the stage before.

    Raises:
        UserError: for anything about recipe or data that cannot work.
    """

    def __init__(
        self,
        part: Part,
        placement: Placement,
        folder: Path,
        say: Callable[[str], None],
        previous: Mapping[str, Branch] | None = None,
    ) -> None:
        self.part, self.recipe, self.clock, self.placement = part, part.recipe, part.clock, placement
        recipe, clock = part.recipe, part.clock
        self.views = recipe.views.build(device_is_accelerator=placement.device.type != "cpu")
        with made_by_first(recipe.parallel.meta_init):
            self.learner: Learner = build.learner(recipe, clock, previous, part.num_samples).train()
        on_first_rank(lambda: check_shards(self.learner, part.sources))
        choose(self.learner, recipe.train.only)
        self.may_rest = self.learner.may_leave_parameters_out
        first = tensors_of(self.learner) if recipe.parallel.meta_init and rank() == 0 else {}
        compiled, float8 = recipe.train.compile == "blocks", recipe.train.float8 == "blocks"
        self.parallel = Parallel(
            self.learner, self.learner.parts, recipe.parallel, placement, self.may_rest, compiled, float8
        )
        if recipe.parallel.meta_init:
            send(self.learner, first, placement.device)
        del first
        self.learner.to(placement.device)
        self.statistics = RunningStatistics(self.learner)
        self._previous = previous or {}
        self.stream: Stream = build_stream(
            recipe.data, part.sources, seed=part.seed, global_batch=recipe.train.batch_size, clock=clock,
            tokens=build.tokens_per_sample(recipe, self.learner),
        )  # fmt: skip
        self.optimizer = recipe.optimizer.build(
            build.trainable(self.learner), clock, recipe.train.batch_size, self.parallel.owned
        )
        self.micro_batch = micro_batch(recipe)
        self.loader_workers = default_workers() if recipe.data.workers is None else recipe.data.workers
        objectives: Any = self.learner.objectives
        plateaus = {name: one.plateau for name, one in objectives.items() if one.plateau is not None}
        self.collapse = CollapseWatch(recipe.guard.collapse, plateaus, clock, say)
        self.jobs = Jobs(part, self.learner, placement, self.stream, folder, say)

    def handed_on(self) -> dict[str, Branch]:
        """Branches as the next stage is built on them, with whole weights; all processes call this together."""
        branches = dict(self.learner.named_branches.items())
        if not self.parallel.sharded:
            return branches
        # Sharded modules cannot be copied: the same ones are made anew, without memory, and filled.
        with torch.device("meta"):
            anew = build.branches(self.recipe, self.clock, self._previous)[0]
        found: dict[str, Branch] = {}
        for name, branch in anew.items():
            if isinstance(branch, EncoderBranch):
                found[name] = branch.to_empty(device="cpu")
                own = tensors_of(branches[name])
                with torch.no_grad():
                    for key, tensor in tensors_of(branch).items():
                        tensor.copy_(whole(own[key]))
        return found

    def begin(self) -> None:
        """Seed the generators of this process, for a stage that goes on from no checkpoint of its own."""
        state.seed_random(self.part.seed, 0, rank())

    def replicate(self) -> None:
        """Make the learner one with those of the other processes; when its weights are there."""
        self.parallel.begin(self.placement.device, self.may_rest, self.optimizer.adamw)

    def feed(self, progress: state.Progress, last_step: int, interrupted: Callable[[], bool]) -> Feed:
        """Batches of what is left of the stage.

        Args:
            progress: where the run is.
            last_step: of the run, at which it stops this time.
            interrupted: whether a wait for a batch may end unfulfilled.
        """
        recipe, data = self.recipe, self.recipe.data
        on_cpu = self.placement.device.type == "cpu"
        loader = build_loader(
            self.stream,
            build.pipeline(recipe, self.views, on_cpu),
            batch_size=self.micro_batch,
            global_batch=recipe.train.batch_size,
            start=progress.position,
            samples=max(0, min(last_step, self.part.ends) - progress.step) * recipe.train.batch_size,
            rank=rank(),
            world_size=world_size(),
            accumulate=recipe.train.accumulate,
            workers=self.loader_workers,
            pin_memory=not on_cpu,
            timeout=data.timeout_seconds if self.loader_workers else 0.0,
            interrupted=interrupted,
        )
        return Feed(loader, self.placement.device, self.views.finish)

    def gradients(self, feed: Feed, step: int, watched: bool, see: Callable[[Batch], None]) -> Accumulated:
        """Loss and gradients of one optimiser step.

        Args:
            feed: gives the batches.
            step: of the stage, from 0.
            watched: its figures are logged.
            see: gets each batch.
        """
        self.statistics.keep()
        return accumulate(
            feed, self.parallel, self.placement, step, self.recipe.train.accumulate,
            masked=bool(self.recipe.mask_rules), watched=watched, see=see,
        )  # fmt: skip

    def apply(self, norm: Tensor, step: int, refused: Tensor) -> dict[str, float]:
        """Clip, step, and let the branches follow.

        Args:
            norm: of the gradients.
            step: of the stage, from 0.
            refused: [] float32 on the device; where it is 1, nothing moves.

        Returns:
            Figures of the branches.
        """
        self.parallel.settle()
        self.statistics.put_back(refused)
        self.optimizer.clip(norm)
        self.optimizer.step(refused)
        return self.learner.update(step, 1.0 - refused)

    def capture(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of the state but those of the random generators; all processes call this together. See
        :func:`foundation.engine.state.capture`."""
        return state.capture(self.learner, self.optimizer, [], self.jobs.modules)

    def restore(self, folder: Path, numbers: Mapping[str, Any]) -> None:
        """Put the state of a checkpoint back, of which each process reads what it needs; all call this together.

        Args:
            folder: the checkpoint, which process 0 has verified.
            numbers: its JSON half.

        Raises:
            UserError: it is not one of this stage, or cannot be read; nothing is changed then.
        """

        contents = on_all_ranks(lambda: checkpoint.manifest_of(folder)["tensors"])
        state.validate(contents, self.learner, self.optimizer, 0, self.jobs.modules)
        present = self.capture()
        tensors = on_all_ranks(lambda: checkpoint.read_for(folder, present))
        state.restore(
            self.learner, self.optimizer, tensors, numbers, rank=rank(), world_size=world_size(), seed=self.part.seed,
            jobs=self.jobs.modules,
        )  # fmt: skip

    @property
    def bytes(self) -> int:
        """What a checkpoint takes on the disk, about."""
        kept = [
            t for part in state.modules(self.learner, self.jobs.modules).values() for t in part.state_dict().values()
        ]
        moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in self.optimizer.parameters())
        return moments + sum(tensor.numel() * tensor.element_size() for tensor in kept)


def has_enough(stage: Stage, found: Sequence[Part]) -> bool:
    """Whether a job has ended the last stage before its length: early stopping."""
    return stage.part.number == len(found) - 1 and stage.jobs.enough


def length(found: Sequence[Part], stage: Stage, step: int) -> int:
    """Steps of the whole run; those that are done where it has ended early."""
    return step if has_enough(stage, found) else found[-1].ends


def last_step(recipe: Recipe, found: Sequence[Part], stage: Stage, step: int) -> int:
    """Step of the run at which this process ends: that of its length, or of ``train.stop_after``."""
    stop_after, whole = recipe.train.stop_after, length(found, stage, step)
    return whole if stop_after is None else min(whole, stop_after.steps(clock_of(found)))


def micro_batch(recipe: Recipe, processes: int | None = None) -> int:
    """Samples of a micro-batch.

    Raises:
        UserError: the batch cannot be divided.
    """
    size, shares = recipe.train.batch_size, recipe.train.accumulate * (processes or world_size())
    if size % shares:
        raise UserError(f"train.batch_size {size} cannot be divided among {shares} (processes x accumulate)")
    return size // shares


def check(recipe: Recipe, found: Sequence[Part], placement: Placement, folder: Path | None = None) -> list[Learner]:
    """Build every stage on the meta device, which takes no memory.

    Args:
        recipe: whole.
        found: its stages.
        placement: where the run would compute.
        folder: of the run.

    Returns:
        The learner of each.

    Raises:
        RecipeError: all that cannot work in any of them.
    """
    problems: dict[tuple[str, str], None] = {}
    learners: list[Learner] = []
    previous: Mapping[str, Branch] = {}
    for part in found:
        flat = part.recipe
        built: dict[str, Branch] = {}
        try:
            with torch.device("meta"):
                made_of = build.branches(flat, part.clock, previous)
                built = made_of[0]
                learner = build.learner(flat, part.clock, previous, part.num_samples or None, made_of)
            choose(learner, flat.train.only)
            flat.optimizer.build(build.trainable(learner), part.clock, flat.train.batch_size)
            Jobs(part, learner, placement, None, folder, lambda text: None)
            micro_batch(flat)
            learners.append(learner)
        except RecipeError as error:
            for problem in error.problems:
                _note(problems, recipe, part, *problem)
        except UserError as error:
            _note(problems, recipe, part, "", str(error))
        previous = built
    if problems:
        raise RecipeError(list(problems))
    return learners


def _note(problems: dict[tuple[str, str], None], recipe: Recipe, part: Part, key: str, text: str) -> None:
    """Add a problem of a flat recipe under the key of the whole one that it comes from."""
    if not recipe.stages:
        problems[key, text] = None
        return
    own, stage, first = recipe.stages[part.number], f"stages.{part.number}", key.partition(".")[0]
    if key.startswith(KEY):
        place = f"{stage}.train{key.removeprefix(KEY)}"
    elif first in own.given:
        place = f"{stage}.{key}"
    else:  # of the recipe as a whole, there where it stands
        place = key or stage
    if (key, text) not in problems:
        inherited = part.number == 0 and place == key  # every stage has it
        problems[place, text if inherited else f"stage {part.name!r}: {text}"] = None
