"""What a run says of itself before its first step and at its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from foundation.checkpoints import checkpoint
from foundation.engine.learner import Learner
from foundation.engine.state import code_version
from foundation.errors import RequeueRequest
from foundation.parallel.collective import world_size
from foundation.parallel.placement import words as described
from foundation.redact import redact
from foundation.run.advice import advice
from foundation.run.build import trainable
from foundation.run.recipe import Recipe
from foundation.run.stage import Part, Stage
from foundation.schedules import Clock
from foundation.voice import plural


def advice_of(found: Sequence[Part]) -> list[str]:
    """What a user should know of the stages before the first step, each sentence once."""
    lines = (f"{of_stage(p.name)}{line}" for p in found for line in advice(p.recipe, p.clock, p.sources))
    return list(dict.fromkeys(lines))


def next_stage(stage: Stage) -> str:
    """What to say of a stage that begins."""
    part, count = stage.part, sum(parameter.numel() for parameter in stage.optimizer.parameters())
    return f"{of_stage(part.name)}steps {part.begun + 1:,} to {part.ends:,}, {count:,} parameters trained"


def banner(
    recipe: Recipe, parts: Sequence[Part], stage: Stage, clock: Clock, last_step: int, step: int = 0
) -> Iterator[str]:
    """The lines between the command and the first step.

    Args:
        recipe: of the run.
        parts: its stages.
        stage: that it is in.
        clock: length of the run.
        last_step: at which it stops this time.
        step: done already.
    """
    learner, placement, flat, workers = stage.learner, stage.placement, stage.recipe, stage.loader_workers
    samples = stage.part.num_samples
    count = sum(p.numel() for module in trainable(learner).values() for p in module.parameters() if p.requires_grad)
    encoder = sum(p.numel() for p in learner.branch(learner.measured).encoder.parameters())
    version = code_version()
    commit = ""
    if "commit" in version:  # not of an installed wheel
        commit = f", git commit {version['commit'][:9]}{' with changes' if version.get('dirty') else ''}"
    epochs = 0.0
    for part, end in zip(parts, [*(later.begun for later in parts[1:]), clock.total_steps], strict=True):
        epochs += (end - part.begun) * part.recipe.train.batch_size / max(1, part.num_samples)
    early = f", this time to step {last_step:,} (train.stop_after)" if last_step < clock.total_steps else ""
    if early and last_step <= step:
        early = f"; train.stop_after is step {last_step:,}, and step {step:,} is done: nothing is trained this time"
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if placement.device.type == "cpu" else ""
    yield f"{recipe.name}: foundation {version['version']}{commit}"
    yield (
        f"  device      {described(placement.plain())}{threads}, {plural(world_size(), 'process', 'processes')}, "
        f"{plural(workers, 'loader worker')}{' each' if world_size() > 1 and workers else ''}"
    )
    if world_size() > 1:
        yield f"  parallel    {stage.parallel.described}"
    if stage.recipe.train.float8 != "none":
        slowly = "; a CPU does so slowly, for tests" if stage.placement.device.type == "cpu" else ""
        yield f"  float8      {plural(stage.parallel.in_float8, 'linear layer')} of all branches{slowly}"
    for part in parts if len(parts) > 1 else ():
        here = "  <- here" if part.number == stage.part.number else ""
        yield f"  stage {part.number + 1:<5} {part.name}: steps {part.begun + 1:,} to {part.ends:,}{here}"
    yield f"  parameters  {count:,} trained, {encoder:,} of them in the encoder"
    for line in begins_of(learner, flat) if step == 0 else ():
        yield f"  weights     {line}"
    yield f"  samples     {samples:,} in the shards, {flat.train.batch_size:,} in a batch"
    yield f"  steps       {clock.total_steps:,}, the data {epochs:,.3g} times{early}"


def begins_of(learner: Learner, recipe: Recipe) -> list[str]:
    """Where the first weights of trained branches come from, where they are not random, a sentence each.

    Args:
        learner: of the stage.
        recipe: flat, of the stage.
    """
    said = [line for branch in learner.named_branches.values() for line in branch.begins]
    if recipe.initial is not None and not recipe.initial.heads and recipe.heads and recipe.train.only is None:
        said.append("such heads pull at the encoder from the first step; initial.warm_up_heads trains them alone first")
    return said


def of_stage(name: str | None) -> str:
    """What stands in front of a line that concerns one stage; nothing where the run has no stages."""
    return "" if name is None else f"stage {name}: "


def doubts_about_saves(
    checkpoints: Path, needed: int | None, seconds: float | None, grace: float | None
) -> Iterator[str]:
    """Warnings before the first step of a run that might not be able to save later on.

    Args:
        checkpoints: their folder.
        needed: bytes of a checkpoint; None where one has just been written.
        seconds: that a save takes.
        grace: ``train.grace_seconds``.
    """
    if needed is not None and (free := checkpoint.free_bytes(checkpoints)) < needed:
        yield (
            f"warning: a checkpoint needs {needed:,} bytes and {free:,} are free for {checkpoints}: training goes on, "
            "but nothing is saved before there is room. Make room now, or stop it and go on later"
        )
    if grace is not None and seconds is not None and seconds > grace:
        yield (
            f"warning: a save takes {seconds:.1f} s and train.grace_seconds is {grace:g}: after a signal the run "
            "may be killed before its state is written. Raise the scheduler's signal delay"
        )


def stopped_early(step: int, total: int, folder: Path) -> str | None:
    """What to say of a run that ``train.stop_after`` has ended before its length; None where it is complete."""
    if step >= total:
        return None
    return (
        f"stopped early at step {step:,} of {total:,} (train.stop_after); go on with: "
        f"foundation pretrain {shlex.quote(str(folder))}"
    )


def end_by(error: BaseException, newest: Path | None) -> tuple[str, str]:
    """State and reason of a run that an error ends.

    Args:
        error: what ended it.
        newest: checkpoint that is known to be whole.
    """
    if isinstance(error, KeyboardInterrupt):
        where = f"from {newest.name}" if newest else "from the start"
        return "stopped", f"interrupted without a last save; the same command goes on {where}"
    return "stopped" if isinstance(error, RequeueRequest) else "failed", redact(str(error))
