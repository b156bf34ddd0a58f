"""Steps of a recipe on random views: the trainer's arithmetic without data, folder or probes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws
from foundation.data.pipeline import masks_of
from foundation.masks.rule import makers
from foundation.modalities.shapes import view_shapes
from foundation.parallel.parallelize import Parallel
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.types import Batch, View

STEP = 101
"""Optimiser step that is rehearsed: past the first, with every schedule under way, and none at which the collapse
monitor looks by default (every 100)."""


def random_batch(recipe: Recipe, size: int) -> Batch:
    """A batch of ``size`` samples: normal noise in the shapes of the recipe's views, and its masks."""
    views, shapes = {}, view_shapes(recipe.views)
    for role, (count, shape) in recipe.views.roles.items():
        rows = count * size
        views[role] = View(
            data=torch.randn(rows, *shape),
            modality=shapes[role].modality,
            role=role,
            count=count,
            sample_ids=torch.arange(size).repeat(count),
            geometry=torch.eye(len(shape) - 1, len(shape)).repeat(rows, 1, 1),
        )
    draws = Draws(0, np.zeros(size, np.int64), np.arange(size))
    coordinates_of = recipe.encoder.coordinates_of

    def coordinates(role: str, by_coordinates: bool) -> NDArray[Any]:
        if coordinates_of is not None and by_coordinates:
            return np.asarray(coordinates_of(views[role].data))
        return np.asarray(build.coordinates(recipe, role))

    counts = {role: count for role, (count, _) in recipe.views.roles.items()}
    masks = masks_of(makers(recipe.mask_rules), coordinates, counts, draws, np.arange(size), size, 0)
    keys = tuple(str(i) for i in range(size))
    return Batch(views, masks, keys, torch.full((size,), -1), 0, size, torch.arange(size))


class Rehearsal:
    """Learner, optimizer and placement of a recipe; each call is one optimiser step on one batch.

    Args:
        recipe: resolved.
        batch: samples per step, for the learning rate.
    """

    def __init__(self, recipe: Recipe, batch: int) -> None:
        clock = Clock(10 * STEP, float(STEP))
        self.placement = build.placement(recipe)
        self.learner = build.learner(recipe, clock).train()
        rests = self.learner.may_leave_parameters_out
        build.set_up(recipe, self.placement)
        compiled, float8 = recipe.train.compile == "blocks", recipe.train.float8 == "blocks"
        self.parallel = Parallel(
            self.learner, self.learner.parts, recipe.parallel, self.placement, rests, compiled, float8
        )
        self.learner.to(self.placement.device)
        trained = build.trainable(self.learner)
        self.optimizer = recipe.optimizer.build(trained, clock, batch, self.parallel.owned)
        self.parallel.begin(self.placement.device, rests, self.optimizer.adamw)

    def __call__(self, batch: Batch) -> Tensor:
        """Forward, backward, clipping, AdamW and the teachers' update, as the trainer does it.

        Returns:
            The loss, [] on the device, which is not waited for.
        """
        placement, optimizer = self.placement, self.optimizer
        optimizer.apply_schedule(STEP)
        with torch.autocast(placement.device.type, placement.autocast, enabled=placement.autocast is not None):
            result = self.parallel.module(batch, STEP, watched=False)
        result.loss.backward()
        loss, norm = result.loss.detach(), optimizer.grad_norm()
        refused = (~(loss.isfinite() & norm.isfinite())).float()
        optimizer.clip(norm)
        optimizer.step(refused)
        optimizer.zero_grad()
        self.learner.update(STEP, 1.0 - refused)
        return loss
