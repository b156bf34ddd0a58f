"""DISCOVR's objectives: parity with the published code where it is meant, the intended pairing where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.heads import decoder
from foundation.heads import prototypes as heads
from foundation.objectives import cluster, masked_dino
from foundation.objectives.centering import SinkhornKnopp
from foundation.schedules import Clock, Schedule
from foundation.types import Batch, TokenMask, View
from tests.objectives.contexts import context

CLOCK = Clock(400, 1.0)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def close(found: torch.Tensor, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    wanted = tensor(wanted)
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1e-12)


def batch(views: dict[str, tuple[int, int]], mask: TokenMask | None = None) -> Batch:
    """Views by name: (count, rows); only those numbers matter here."""
    made = {
        name: View(torch.zeros(rows, 1), "any", name, count, torch.zeros(rows, dtype=torch.int64), torch.zeros(rows))
        for name, (count, rows) in views.items()
    }
    return Batch(made, {} if mask is None else {("global", "masking"): mask}, (), torch.zeros(0), 0, 0)


def masked(prototypes: int, **settings) -> masked_dino.MaskedDino:
    config = masked_dino.Config(**settings)
    return config.build(context(CLOCK, {"cls": heads.Config(prototypes=prototypes)}, 8))


# Masked copies


@pytest.mark.parametrize("branch", ["video_dino", "image_dino/tube", "image_dino/multi_local"])
def test_losses_of_masked_copies_are_the_published_ones(golden, branch):
    data = golden("12_discovr_losses")
    part = branch.split("/")[0]
    teacher, student = tensor(data[f"input/{part}/teacher_logits"]), tensor(data[f"input/{branch}/student_logits"])
    warmup, final = float(data["arg/dino/warmup_teacher_temp"]), float(data["arg/dino/teacher_temp"])
    epoch, epochs = int(data["arg/dino/epoch"]), int(data["arg/dino/warmup_epochs"])
    temperature = warmup + (final - warmup) * epoch / (epochs - 1)
    assert temperature == pytest.approx(float(data["output/teacher_temp_schedule_first60"][epoch]))
    objective = masked(48, teacher_temperature=Schedule(start=temperature, shape="constant"))
    objective.target.centre.copy_(tensor(data[f"input/{part}/center"])[0])
    student.requires_grad_()
    outputs = {objective.teacher_request: teacher, objective.student_request: student.flatten(0, 1)}
    loss = objective(outputs, batch({}), 0).loss
    factor = float(data["arg/dino/reference_batch"]) / len(teacher) if part == "image_dino" else 1.0
    close(factor * loss, data[f"output/{branch}/loss"])
    (factor * loss).backward()
    close(student.grad, data[f"grad/{branch}/student_logits"])


def test_a_copy_meets_its_own_view_only():
    torch.manual_seed(0)
    objective = masked(6, target="centering").eval()
    teacher = 8 * torch.eye(6)[:4]  # four views, each sure of another prototype
    student = (teacher.roll(0, 0) * 1.0).repeat(3, 1)
    own = objective({objective.teacher_request: teacher, objective.student_request: student}, batch({}), 0).loss
    mixed = {objective.teacher_request: teacher, objective.student_request: student.roll(1, 0)}
    assert own < 1e-3 and objective(mixed, batch({}), 0).loss > 10
    with pytest.raises(UserError, match="11 rows of 'masked' are no copies of 4 rows of 'global'"):
        objective({objective.teacher_request: teacher, objective.student_request: student[:11]}, batch({}), 0)


def test_the_centre_averages_scores_not_probabilities():
    objective = masked(5)
    teacher, student = torch.randn(4, 5), torch.randn(8, 5)
    objective({objective.teacher_request: teacher, objective.student_request: student}, batch({}), 0)
    torch.testing.assert_close(objective.target.next_centre(), 0.1 * teacher.mean(0))


# Cluster codes


def test_sinkhorn_is_the_published_one(golden):
    data = golden("12_discovr_losses")
    scores, epsilon = tensor(data["input/sinkhorn/scores"]), float(data["arg/sinkhorn_eps"])
    for name, iterations in (("", int(data["arg/sinkhorn_iterations"])), ("_iterations1", 1), ("_iterations3", 3)):
        close(SinkhornKnopp(iterations)(scores, epsilon), data[f"output/sinkhorn/assignment{name}"])


def test_cluster_distillation_is_the_published_one(golden):
    data = golden("12_discovr_losses")
    count, width = data["input/assignment/prototypes"].shape
    config = cluster.Config(prototypes=count, over="all", head=None, teacher_term=False)
    assert (config.epsilon, config.sinkhorn_iterations, config.temperature) == (0.05, 10, 0.1)
    objective = config.build(context(CLOCK, {}, width))
    with torch.no_grad():
        objective.prototypes.copy_(tensor(data["input/assignment/prototypes"]))
    student = tensor(data["input/assignment/student_features"]).flatten(0, 1).requires_grad_()
    teacher = tensor(data["input/assignment/teacher_features"]).flatten(0, 1)
    result = objective.swap(student, teacher)
    objective.update()
    close(objective.prototypes.detach(), data["output/assignment/prototypes_normalised"])
    close(result.loss, data["output/cluster_distillation/loss"])
    result.loss.backward()
    grad = tensor(data["grad/cluster_distillation/student_features"]).flatten(0, 1)
    close(student.grad, grad.numpy(), 1e-4)
    close(objective.prototypes.grad, data["grad/cluster_distillation/prototypes"], 1e-4)


def made(**settings) -> cluster.Cluster:
    torch.manual_seed(0)
    decoders = {"decoder": decoder.Config(depth=1, width=8, heads=2)}
    return cluster.Config(prototypes=16, **settings).build(context(CLOCK, decoders, 12))


def hidden(rows: int, tokens: int, share: float = 0.5) -> TokenMask:
    from foundation.masks.rule import token_mask

    return token_mask(np.arange(rows * tokens).reshape(rows, tokens) % tokens < share * tokens)


def test_tokens_are_paired_by_place():
    """Frame f, patch p of a clip's frames stands beside tubelet (f, p)."""
    objective = made()
    views, samples, frames, patches = 2, 3, 4, 5
    student = torch.zeros(views * samples, frames * patches, 12)
    teacher = torch.empty(views * frames * samples, patches, 12)
    for v in range(views):
        for f in range(frames):
            for b in range(samples):
                for p in range(patches):
                    teacher[(v * frames + f) * samples + b, p] = 1000 * v + 100 * b + 10 * f + p
    found = objective.aligned(teacher, student, batch({"global": (views, views * samples)}))[..., 0]
    for row in range(views * samples):
        v, b = divmod(row, samples)
        expected = [1000 * v + 100 * b + 10 * f + p for f in range(frames) for p in range(patches)]
        assert found[row].tolist() == expected
    with pytest.raises(UserError, match=r"20 tokens .* do not correspond to 3 x 5"):
        objective.aligned(teacher[:18], student, batch({"global": (views, views * samples)}))


@pytest.mark.parametrize("over", ["masked", "all"])
def test_gradients_reach_decoder_prototypes_and_student_but_not_the_teacher(over):
    objective = made(over=over)
    student = torch.randn(4, 6, 8, requires_grad=True)  # behind the decoder
    teacher = torch.randn(8, 3, 12)
    outputs = {objective.student_request: student, objective.teacher_request: teacher}
    mask = hidden(4, 6)
    result = objective(outputs, batch({"global": (2, 4)}, mask), 0)
    result.loss.backward()
    assert student.grad.abs().sum() > 0 and all(p.grad is not None for p in objective.parameters())
    assert objective.prototypes.grad.abs().sum() > 0
    assert 0 <= result.metrics["agreement"] <= 1 and 0 < result.metrics["prototypes"] <= 1
    torch.testing.assert_close(objective.prototypes.norm(dim=1), torch.ones(16))
    assert {request.token for request in objective.requests} == (
        {"patches", "masked"} if over == "masked" else {"patches"}
    )


def test_only_hidden_tokens_count():
    objective = made(head=None).eval()
    student, teacher = torch.randn(2, 6, 12), torch.randn(4, 3, 12)
    mask = hidden(2, 6)
    outputs = {objective.student_request: student, objective.teacher_request: teacher}
    before = objective(outputs, batch({"global": (1, 2)}, mask), 0).loss
    changed = torch.where(mask.masked[..., None], student, torch.randn(2, 6, 12))
    outputs[objective.student_request] = changed
    torch.testing.assert_close(objective(outputs, batch({"global": (1, 2)}, mask), 0).loss, before)
    outputs[objective.student_request] = student + 1.0
    assert not torch.isclose(objective(outputs, batch({"global": (1, 2)}, mask), 0).loss, before)


def test_the_teachers_tokens_are_standardised():
    tokens = 3 + 5 * torch.randn(2, 200, 4)
    found = cluster.standardise(tokens)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(1, correction=0), torch.ones(2, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: cluster.Config(prototypes=1), "cluster.prototypes is 1; it must be from 2"),
        (lambda: cluster.Config(epsilon=0.0), "cluster.epsilon is 0; it must be from 1e-06"),
        (lambda: cluster.Config(over="some"), "'masked' or 'all'"),  # type: ignore[arg-type]
        (lambda: decoder.Config(heads=5), "is not a multiple of its heads 5"),
        (
            lambda: masked_dino.Config(student_temperature=0.0),
            "masked_dino.student_temperature is 0; it must be from 1e-06",
        ),
    ],
)
def test_settings_that_cannot_work(make, text):
    with pytest.raises(UserError, match=text):
        make()


def test_a_recipe_without_masks_is_refused(tiny_recipe):
    from foundation.run import build

    recipe = tiny_recipe("masking=null", "objectives=[{name: cluster, teacher_view: global, head: null}]")
    with pytest.raises(UserError, match="needs masked 'global' views"):
        build.learner(recipe, CLOCK)
