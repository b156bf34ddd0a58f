"""Gram anchoring: the published losses and gradients (golden file 05), and a teacher that sees more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import RecipeError, UserError
from foundation.objectives import gram
from foundation.run import build
from foundation.run.rehearsal import Rehearsal, random_batch
from foundation.schedules import Clock
from foundation.types import ViewShape
from tests.encoders.test_parity import FORWARD, GRADIENT, close
from tests.objectives.contexts import context

ANCHOR = "branches={teacher: {name: ema}, gram: {name: previous, of: teacher, at: job}}"
REFRESH = "jobs=[{name: refresh, every: 2 steps}]"


@pytest.mark.parametrize("negatives", ["keep", "remove_both", "remove_teacher"])
@pytest.mark.parametrize("level", ["view", "batch"])
@pytest.mark.parametrize("normalise", [True, False])
def test_published_losses_and_gradients(golden, normalise, level, negatives):
    arrays = golden("05_dinov3_gram")
    student, teacher = (torch.from_numpy(arrays[f"input/{who}_features"]) for who in ("student", "teacher"))
    config = gram.Config(teacher="teacher", normalise=normalise, level=level, negatives=negatives)
    objective = config.build(context(Clock(10, 1.0), {}, 16))
    outputs = {objective.student_request: student.requires_grad_(), objective.teacher_request: teacher}
    loss = objective(outputs, None, 0).loss
    case = f"norm{int(normalise)}_neg_{negatives}_imglevel{int(level == 'view')}"
    close(loss, arrays[f"output/{case}/loss"], FORWARD)
    loss.backward()
    close(student.grad, arrays[f"grad/{case}/student_features"], GRADIENT)


def test_an_anchor_that_sees_larger_views_is_resized_to_the_students_grid(tiny_recipe):
    """The whole way of a batch, on a student that sees hidden patches."""
    asked = "objectives=[{name: gram, teacher_view: plain, weight: 1.0}]"
    recipe = tiny_recipe(ANCHOR, asked, "views.plain_size=32", "encoder.drop_path=0")
    learner, batch = Rehearsal(recipe, 3).learner, random_batch(recipe, 3)
    anchor, student = (learner.branches[name].encoder for name in ("gram", "student"))
    whole = anchor([batch.views["plain"].data])[0].patches
    maps = F.interpolate(whole.mT.unflatten(2, (8, 8)), size=(4, 4), mode="bicubic", align_corners=False)
    goal = F.normalize(maps.flatten(2).mT, dim=-1)
    mask = batch.masks["global", "masking"].masked
    from tests.encoders.inputs import inputs

    own = F.normalize(student(inputs([batch.views["global"].data], [mask]))[0].patches, dim=-1)
    wanted = (own @ own.mT - goal @ goal.mT).square().mean()
    result = learner(batch, 0)
    torch.testing.assert_close(result.loss, wanted, rtol=1e-4, atol=1e-6)
    result.loss.backward()
    assert mask.any() and all(p.grad is None for p in anchor.parameters())


def test_impossible_settings_are_refused(tiny_recipe):
    with pytest.raises(UserError, match="branch 'student' cannot be its own anchor: give branches a gram: "):
        gram.Config(teacher="student")
    with pytest.raises(UserError, match="level must be one of 'view', 'batch', got 'pixel'"):
        gram.Config(level="pixel")
    one = ViewShape(2, (3, 16, 16), "image")
    views = {"global": one, "local": replace(one, count=6)}
    with pytest.raises(UserError, match="2 views 'global' and 6 'local': teacher_view must show the same crops"):
        gram.Config(teacher="teacher", teacher_view="local").build(
            replace(context(Clock(10, 1.0), {}, 16), views=views)
        )
    with pytest.raises(RecipeError, match="there is no branch 'gram'; the recipe's are: student, teacher"):
        build.learner(tiny_recipe("objectives=[{name: dino}, {name: gram}]"), Clock(10, 10.0))
    with pytest.raises(RecipeError, match=r"needs the view 'plain'; the recipe has: global, local"):
        settings = (ANCHOR, REFRESH, "objectives=[{name: dino}, {name: gram, teacher_view: plain}]")
        build.learner(tiny_recipe(*settings), Clock(10, 10.0))
