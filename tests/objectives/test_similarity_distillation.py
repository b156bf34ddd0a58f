"""Distillation of similarities: the reference's numbers, a plain loop, and a queue that is the same everywhere."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from foundation.branches.base import Offer
from foundation.errors import UserError
from foundation.objectives import contrast, feature_distillation
from foundation.objectives.base import ObjectiveContext
from foundation.objectives.similarity_distillation import Config, SimilarityDistillation
from foundation.objectives.store import Stores
from foundation.schedules import Clock, Duration
from foundation.types import ViewShape
from tests.objectives.test_contrast import batch_of

CLOCK = Clock(10, 1.0)
SENSORS = {"view": "imu.global", "teacher_view": "video.global"}


def context(width: int = 24, samples: int | None = None, **counts: int) -> ObjectiveContext:
    views = {name: ViewShape(count, (1,), "image") for name, count in counts.items()}
    offer = Offer(width, {})
    return ObjectiveContext(CLOCK, {"student": offer, "teacher": offer}, views=views, stores=Stores(samples))


def objective(width: int = 24, **settings) -> SimilarityDistillation:
    return Config(**SENSORS, **settings).build(context(width))


def pair(samples: int, student: int = 1, teacher: int = 1):
    return batch_of(list(range(samples)), **{"imu.global": student, "video.global": teacher})


def test_losses_gradients_and_queue_of_the_reference(golden):
    data = golden("09_comodo_loss")
    module = objective(queue=32)
    assert (module.config.teacher_temperature, module.config.student_temperature) == pytest.approx(
        (float(data["arg/teacher_temp"]), float(data["arg/student_temp"]))
    )
    module.queue.copy_(torch.from_numpy(data["input/queue_initial"]))
    module.filled.fill_(True)
    for step in range(3):
        student = torch.from_numpy(data[f"input/step{step}/student_embedding"]).requires_grad_()
        teacher = torch.from_numpy(data[f"input/step{step}/teacher_embedding"])
        loss = module({module.student_request: student, module.teacher_request: teacher}, pair(8), step).loss
        loss.backward()
        assert loss.item() == pytest.approx(float(data[f"output/step{step}/loss"]), rel=1e-5)
        wanted = torch.from_numpy(data[f"grad/step{step}/student_embedding"])
        torch.testing.assert_close(student.grad, wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(module.queue, torch.from_numpy(data[f"output/step{step}/queue_after"]))


def test_the_l2_and_contrastive_baselines_of_the_reference(golden):
    data = golden("09_comodo_loss")
    teacher = torch.from_numpy(data["input/other/teacher"])
    sensors = {"shared_view": False, "other_views": ("imu.global",), "teacher_view": "video.global"}
    l2 = feature_distillation.Config(
        **SENSORS, token="cls", normalise="none", unit_length=True, distance="l2", layers=0
    )
    one_way, both = (contrast.Config(**sensors, temperature=0.1, same_view=True, symmetric=s) for s in (False, True))
    # The reference adds its two directions, ours is their mean.
    cases = (("l2_distill", l2, 1.0), ("info_nce_symmetric0", one_way, 1.0), ("info_nce_symmetric1", both, 2.0))
    for name, config, factor in cases:
        module = config.build(context())
        student = torch.from_numpy(data["input/other/student"]).requires_grad_()
        given = {r: student if r.branch == "student" else teacher for r in module.requests}
        loss = factor * module(given, pair(8), 0).loss
        loss.backward()
        assert loss.item() == pytest.approx(float(data[f"output/{name}/loss"]), rel=1e-5), name
        torch.testing.assert_close(student.grad, torch.from_numpy(data[f"grad/{name}/student"]), rtol=1e-4, atol=1e-6)


def test_an_empty_queue_counts_for_nothing_and_fills_up():
    module, seen = objective(5, queue=7), torch.zeros(0, 5)
    for step in range(3):
        student, teacher = torch.randn(2, 4, 5)
        result = module({module.student_request: student, module.teacher_request: teacher}, pair(4), step)
        keys = [*seen[-7:], *F.normalize(teacher.detach(), dim=1)]
        total = 0.0
        for z_s, z_t in zip(F.normalize(student.detach(), dim=1), F.normalize(teacher.detach(), dim=1), strict=True):
            p, q = ([math.exp(float(z @ k) / t) for k in keys] for z, t in ((z_t, 0.1), (z_s, 0.05)))
            total -= sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True))
        assert result.loss.item() == pytest.approx(total / 4, rel=1e-4)
        assert result.metrics["queue"].item() == pytest.approx(min(4 * step, 7) / 7)
        seen = torch.cat([seen, F.normalize(teacher.detach(), dim=1)])
        filled = min(len(seen), 7)
        torch.testing.assert_close(module.queue[7 - filled :], seen[-filled:])
        assert module.filled.tolist() == [False] * (7 - filled) + [True] * filled
    assert set(module.state_dict()) == {"queue", "filled"}


def test_a_batch_that_is_not_finite_and_evaluation_leave_the_queue_alone():
    module = objective(5, queue=4)
    student, teacher = torch.randn(2, 3, 5)
    given = {module.student_request: student, module.teacher_request: teacher}
    module.eval()(given, pair(3), 0)
    assert not module.filled.any()
    teacher[1, 2] = torch.inf
    module.train()(given, pair(3), 0)
    assert not module.filled.any() and torch.isfinite(module.queue).all()


def test_views_are_paired_by_their_number_or_with_the_only_one():
    module, rows = objective(5, queue=0).eval(), torch.randn(6, 5)
    one = {module.student_request: rows, module.teacher_request: rows[:3]}
    two = {module.student_request: rows, module.teacher_request: torch.cat([rows[:3], rows[:3]])}
    expected = F.normalize(rows[:3], dim=1)
    cosine = (F.normalize(rows, dim=1) * expected.repeat(2, 1)).sum(1).mean()
    for given, teachers in ((one, 1), (two, 2)):
        assert module(given, pair(3, 2, teachers), 0).metrics["similarity"].item() == pytest.approx(cosine.item())
    counts = {"imu.global": 3, "video.global": 2}
    with pytest.raises(UserError, match=r"3 views 'imu\.global' and 2 views 'video\.global'"):
        Config(**SENSORS).build(context(**counts))


def test_mistakes_are_named_before_the_first_step():
    with pytest.raises(UserError, match="queue is 16,384, and the data has 431 samples"):
        Config(**SENSORS).build(context(samples=431))
    with pytest.raises(UserError, match="queue is 512, and the data has 431 samples"):
        contrast.Config(queue=512).build(context(samples=431))
    offers = {"student": Offer(8, {}), "teacher": Offer(24, {})}
    with pytest.raises(UserError, match=r"of 8 numbers \(student\) and 24 \(teacher\)"):
        Config().build(dataclasses.replace(context(), offers=offers))
    with pytest.raises(UserError, match="set token to cls, not masked"):
        feature_distillation.Config(**SENSORS)
    with pytest.raises(UserError, match="shared_view is false and other_views is empty"):
        contrast.Config(shared_view=False)


def _two_steps(rank: int, world: int):
    module, losses = objective(5, queue=10), []
    for step in range(2):
        rows = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(step))  # branch, view, sample
        part = slice(rank * 4 // world, (rank + 1) * 4 // world)
        student, teacher = (branch[:, part].flatten(0, 1) for branch in rows)
        given = {module.student_request: student, module.teacher_request: teacher}
        losses.append(module(given, pair(4 // world, 2, 2), step).loss.item())
    return losses, module.queue.tolist()


def _process(rank: int, address: str, results: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    results[rank] = _two_steps(rank, 2)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_queue_of_one(tmp_path, spawnable):
    losses, queue = _two_steps(0, 1)
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (str(tmp_path / "meet"), results), nprocs=2, join=True)
        parts = [results[rank] for rank in range(2)]
    for step in range(2):
        assert (parts[0][0][step] + parts[1][0][step]) / 2 == pytest.approx(losses[step], rel=1e-5)
    assert parts[0][1] == parts[1][1]
    torch.testing.assert_close(torch.tensor(parts[0][1]), torch.tensor(queue))


def test_a_teacher_that_finds_everything_alike_teaches_once_its_embeddings_are_whitened():
    """Embeddings with a large mean and little else: cosines near 1, a distribution without any preference."""
    rows = 0.1 * torch.randn(40, 16, 24, generator=torch.Generator().manual_seed(0)) + 1.0
    found = {}
    for kind in ("none", "whitened"):
        module = objective(queue=32, normalise=kind, statistics=Duration(20))
        for step, teacher in enumerate(rows):
            given = {module.student_request: teacher, module.teacher_request: teacher}
            found[kind] = module(given, pair(16), step).metrics
    uniform = math.log(48)
    assert found["none"]["entropy"] > uniform - 0.01
    assert found["whitened"]["entropy"] < uniform / 2
    assert found["whitened"]["similarity"] < 0.5, "the student is compared as it is: its mean is its own affair"
    with pytest.raises(UserError, match="normalise must be 'none' or 'whitened'"):
        objective(normalise="layer")
