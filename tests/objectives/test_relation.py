"""Token relations: divergences as a slow loop has them, any number of heads, and teachers with another grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundation.branches.base import Offer
from foundation.errors import RecipeError, UserError
from foundation.objectives import relation
from foundation.objectives.base import ObjectiveContext
from foundation.run import build
from foundation.run.rehearsal import Rehearsal, random_batch
from foundation.schedules import Clock


def context(student=("queries", "keys", "values"), teacher=("queries", "keys", "values")) -> ObjectiveContext:
    offers = {
        name: Offer(width, {}, None, tuple(f"{kind}.{layer}" for kind in kinds for layer in range(3)))
        for name, width, kinds in (("student", 8, student), ("teacher", 12, teacher))
    }
    return ObjectiveContext(Clock(10, 1.0), offers)


def test_it_is_the_divergence_of_each_head_and_token():
    config = relation.Config(heads=2, temperature=0.5, layer=1, relations=("queries_keys", "values_values"))
    objective = config.build(context())
    assert {r.tap for r in objective.student_requests.values()} == {"queries.1", "keys.1", "values.1"}
    assert {r.tap for r in objective.teacher_requests.values()} == {"queries.2", "keys.2", "values.2"}
    outputs = {r: torch.randn(3, 5, 8 if r.branch == "student" else 12) for r in objective.requests}
    total = 0.0
    for left, right in (("queries", "keys"), ("values", "values")):
        for row in range(3):
            for head in range(2):
                rows = []
                for asked, width in ((objective.student_requests, 4), (objective.teacher_requests, 6)):
                    part = slice(head * width, (head + 1) * width)
                    a, b = (outputs[asked[kind]][row, :, part] for kind in (left, right))
                    rows.append((a @ b.T / width**0.5 / 0.5).softmax(dim=-1))
                own, goal = rows
                for token in range(5):
                    total += float((goal[token] * (goal[token] / own[token]).log()).sum())
    result = objective(outputs, None, 0)
    torch.testing.assert_close(result.loss, torch.tensor(total / (2 * 3 * 2 * 5)), rtol=1e-4, atol=1e-6)
    assert result.metrics.keys() == {"loss_queries_keys", "loss_values_values"}
    same = {r: outputs[objective.teacher_requests[k]] for k, r in objective.student_requests.items()}
    assert float(objective(outputs | same, None, 0).loss) == pytest.approx(0, abs=1e-6)


def test_a_teacher_with_another_grid_is_resized(tiny_recipe):
    shape = "preset: null, width: 24, depth: 3, heads: 3, size: [16, 16]"
    other = f"{{name: vit, {shape}, tokenizer: {{name: image, patch_size: 8}}}}"
    recipe = tiny_recipe(
        f"branches={{teacher: {{name: ema}}, expert: {{name: trained, encoder: {other}, heads: {{}}}}}}",
        "objectives=[{name: relation, teacher: expert, heads: 1, relations: [block_block], teacher_layer: 1}]",
        "encoder.drop_path=0",
    )
    learner, batch = Rehearsal(recipe, 2).learner, random_batch(recipe, 2)
    objective = learner.objectives["relation"]
    outputs = {}
    for name in ("student", "expert"):
        outputs |= learner.branches[name](batch, [r for r in objective.requests if r.branch == name], {})
    (own,), (goal,) = ([outputs[r] for r in objective.requests if r.branch == name] for name in ("student", "expert"))
    goal = F.interpolate(goal.mT.unflatten(2, (2, 2)), size=(4, 4), mode="bicubic").flatten(2).mT
    own, goal = ((t @ t.mT / t.shape[-1] ** 0.5).softmax(-1) for t in (own, goal))
    result = learner(batch, 0)
    torch.testing.assert_close(result.loss, (goal * (goal / own).log()).sum(-1).mean(), rtol=1e-3, atol=1e-6)
    result.loss.backward()
    assert any(p.grad is not None for p in learner.branches["student"].parameters())
    assert all(p.grad is None for p in learner.branches["expert"].parameters())


def test_impossible_settings_are_refused(tiny_recipe):
    with pytest.raises(UserError, match="no relation called 'query_keys'; did you mean 'queries_keys'"):
        relation.Config(relations=("query_keys",))
    with pytest.raises(UserError, match="heads 3: the width 8 of branch 'student' is no multiple"):
        relation.Config(heads=3).build(context())
    with pytest.raises(UserError, match="branch 'teacher' does not show its queries: it has taps of"):
        relation.Config(heads=4).build(context(teacher=("block",)))
    with pytest.raises(UserError, match="there is no layer 3 of branch 'teacher': it has 0 to 2"):
        relation.Config(heads=4, teacher_layer=3).build(context())
    with pytest.raises(UserError, match=r"\(no grid\) and branch 'teacher' cuts view 'global' into 9"):
        counts = {("student", "global"): 16, ("teacher", "global"): 9}
        relation.Config(heads=4).build(replace(context(), patches=counts))
    relations = "objectives=[{name: dino}, {name: relation, heads: 2}]"
    dropped = (relations, "masking={mode: drop, probability: 1, ratio: [0.5, 0.5]}")
    with pytest.raises(RecipeError, match="which leaves tokens out: inside the encoder there are the visible ones"):
        build.learner(tiny_recipe(*dropped), Clock(10, 10.0))
