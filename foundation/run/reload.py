"""The branches of a run with the weights of a checkpoint: what an export, which has one encoder, does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from foundation import config
from foundation.branches.base import Branch
from foundation.checkpoints import checkpoint
from foundation.engine.learner import Learner
from foundation.errors import UserError
from foundation.paths import near_path
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock


def reload(path: Path, device: torch.device | str = "cpu") -> tuple[Recipe, Learner, Path]:
    """The flat recipe of the stage, its learner in evaluation mode, and the checkpoint.

    Args:
        path: a run folder (its newest checkpoint counts) or a checkpoint folder.
        device: where the learner shall be.

    Raises:
        UserError: there is no usable checkpoint, or one that this recipe does not fit.
    """
    folder = path
    if not (path / checkpoint.MANIFEST).exists():
        if not (path / "checkpoints").is_dir():
            what = "is no run and no checkpoint" if path.exists() else f"does not exist{near_path(path)}"
            raise UserError(f"{path} {what}: give a run folder or a checkpoint folder")
        newest, skipped = checkpoint.newest(path / "checkpoints")
        if newest is None:
            reasons = "; ".join(f"{p.name}: {reason}" for p, reason in skipped) or "there is none yet"
            raise UserError(f"no usable checkpoint in {path}: {reasons}")
        folder = newest
    content: Any = checkpoint.read(folder, ())[1]
    whole = config.load(Recipe, str(content["recipe"]) + "\n", name=f"the recipe of {folder}")
    recipe = whole.stage(int(content.get("stage", 0)))
    learner = build.learner(recipe, Clock(max(1, int(content["step"])), 1.0), _before(whole, int(content["stage"])))
    names = tuple(name for name, branch in learner.named_branches.items() if branch.state_dict())
    for name, tensors in checkpoint.read(folder, names)[0].items():
        try:
            learner.named_branches[name].load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f"branch {name!r} of {folder} does not fit its recipe: {error}") from error
    return recipe, learner.to(device).eval(), folder


def _before(recipe: Recipe, stage: int) -> dict[str, Branch] | None:
    """Branches of the stages before, of which some of this one may be made; their weights are read over."""
    previous: dict[str, Branch] | None = None
    for number in range(stage):
        previous = dict(build.learner(recipe.stage(number), Clock(1, 1.0), previous).named_branches.items())
    return previous
