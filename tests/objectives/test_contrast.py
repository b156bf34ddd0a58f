"""Contrast: against the formula, the reference's InfoNCE, and a queue that survives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.heads import prototypes as heads
from foundation.objectives.contrast import Config, Contrast
from foundation.schedules import Clock
from foundation.types import Batch, View
from tests.objectives.contexts import context

CLOCK = Clock(10, 1.0)


def batch_of(ids: list[int], **counts: int) -> Batch:
    views = {}
    for name, count in counts.items():
        sample_ids = torch.tensor(ids * count)
        views[name] = View(torch.empty(len(sample_ids), 0), "image", name, count, sample_ids, torch.empty(0))
    return Batch(views, {}, tuple(map(str, ids)), torch.full((len(ids),), -1), 0, len(ids))


def objective(width: int = 5, **settings) -> Contrast:
    return Config(**settings).build(context(CLOCK, {}, width))


def outputs(module: Contrast, batch: Batch, width: int = 5, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        request: torch.randn(len(batch.views[request.view].sample_ids), width, generator=generator)
        for request in module.requests
    }


def by_hand(student, teacher, ids, queue, queue_ids, temperature, count, same=False) -> tuple[float, float]:
    """Plain loops over rows and pairs: loss and share of right answers."""
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    samples = len(ids)
    losses, right = [], []
    for index in range(len(student) // samples):
        for other in range(count):
            if index == other and not same:
                continue
            for b in range(samples):
                row = student[index * samples + b]
                positive = (row @ teacher[other * samples + b] / temperature).exp()
                negatives = [
                    (row @ teacher[v * samples + n] / temperature).exp()
                    for v in range(count)
                    for n in range(samples)
                    if ids[n] != ids[b]
                ]
                negatives += [
                    (row @ key / temperature).exp()
                    for key, i in zip(queue, queue_ids, strict=True)
                    if i not in (-1, ids[b])
                ]
                losses.append(-(positive / (positive + sum(negatives))).log())
                right.append(float(positive > max(negatives)))
    return float(torch.stack(losses).mean()), float(np.mean(right))


@pytest.mark.parametrize("same_view", [False, True])
@pytest.mark.parametrize("ids", [[3, 8, 1, 6], [3, 8, 3, 6]])
def test_the_formula(same_view, ids):
    batch = batch_of(ids, **{"global": 2})
    module = objective(queue=6, temperature=0.3, same_view=same_view).eval()
    module.queue.copy_(F.normalize(torch.randn(6, 5), dim=1))
    module.queue_ids.copy_(torch.tensor([-1, -1, 8, 20, 21, 22]))
    given = outputs(module, batch)
    result = module(given, batch, 0)
    arguments = (ids, module.queue, module.queue_ids.tolist(), 0.3, 2, same_view)
    loss, right = by_hand(given[module.student_requests[0]], given[module.teacher_request], *arguments)
    assert result.loss.item() == pytest.approx(loss, rel=1e-5)
    assert result.metrics["top1"].item() == pytest.approx(right)


def test_info_nce_of_the_reference(golden):
    data = golden("09_comodo_loss")
    student = torch.from_numpy(data["input/other/student"]).requires_grad_()
    module = objective(24, temperature=float(data["arg/teacher_temp"]), same_view=True)
    batch = batch_of(list(range(8)), **{"global": 1})
    given = {module.teacher_request: torch.from_numpy(data["input/other/teacher"]), module.student_requests[0]: student}
    loss = module(given, batch, 0).loss
    loss.backward()
    assert loss.item() == pytest.approx(float(data["output/info_nce_symmetric0/loss"]), rel=1e-5)
    expected = torch.from_numpy(data["grad/info_nce_symmetric0/student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-6)


def test_local_views_look_for_the_teachers_views():
    batch = batch_of([1, 2, 3], **{"global": 2, "local": 3})
    module = objective(other_views=("local",))
    given = outputs(module, batch)
    locals_only = by_hand(
        given[module.student_requests[1]], given[module.teacher_request], [1, 2, 3], [], [], 0.2, 2, same=True
    )[0]
    globals_only = by_hand(given[module.student_requests[0]], given[module.teacher_request], [1, 2, 3], [], [], 0.2, 2)[
        0
    ]
    expected = (6 * locals_only + 2 * globals_only) / 8  # pairs: 3 x 2 and 2
    assert module(given, batch, 0).loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_queue_holds_the_last_teacher_views_and_is_saved():
    module = objective(queue=7)
    seen, ids = [], []
    for step in range(3):
        batch = batch_of([10 * step + n for n in range(2)], **{"global": 2})
        given = outputs(module, batch, seed=step)
        rows = F.normalize(given[module.teacher_request], dim=1)
        by_sample = torch.tensor([0, 2, 1, 3])  # both views of the first sample, then those of the second
        seen.append(rows[by_sample])
        ids += batch.views["global"].sample_ids[by_sample].tolist()
        module(given, batch, step)
        filled = min(4 * (step + 1), 7)
        torch.testing.assert_close(module.queue[7 - filled :], torch.cat(seen)[-filled:])
        assert module.queue_ids.tolist() == [-1] * (7 - filled) + ids[-filled:]
    twin = objective(queue=7)
    twin.load_state_dict(module.state_dict())
    batch = batch_of([1, 2], **{"global": 2})
    assert torch.equal(twin(outputs(twin, batch), batch, 9).loss, module(outputs(module, batch), batch, 9).loss)


def test_the_queue_rests_outside_training_and_takes_no_nan():
    batch = batch_of([1, 2], **{"global": 2})
    module = objective(queue=4).eval()
    module(outputs(module, batch), batch, 0)
    assert (module.queue_ids == -1).all()
    module.train()
    given = outputs(module, batch)
    given[module.teacher_request][1, 2] = torch.nan
    module(given, batch, 0)
    assert (module.queue_ids == -1).all() and torch.isfinite(module.queue).all()


def test_gradients_reach_the_student_only_and_pull_the_right_way():
    batch = batch_of([1, 2, 3], **{"global": 2})
    module = objective(queue=5)
    given = {request: tensor.requires_grad_() for request, tensor in outputs(module, batch).items()}
    before = module(given, batch, 0)
    before.loss.backward()
    student, teacher = given[module.student_requests[0]], given[module.teacher_request]
    assert teacher.grad is None and torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0
    with torch.no_grad():
        student -= 0.5 * student.grad
    after = objective(queue=5)(given, batch, 0)
    assert after.loss < before.loss and after.metrics["similarity"] > before.metrics["similarity"]


def test_a_lone_sample_costs_nothing_and_breaks_nothing():
    batch = batch_of([4], **{"global": 2})
    module = objective(queue=3)
    for step in range(2):  # the queue then holds the sample itself, which is no negative
        given = {request: tensor.requires_grad_() for request, tensor in outputs(module, batch).items()}
        result = module(given, batch, step)
        result.loss.backward()
        assert result.loss.item() == 0.0 and torch.isfinite(given[module.student_requests[0]].grad).all()


def test_half_precision_is_computed_in_full():
    batch = batch_of([1, 2, 3], **{"global": 2})
    module = objective()
    given = outputs(module, batch)
    half = {request: tensor.bfloat16() for request, tensor in given.items()}
    with torch.autocast("cpu", torch.bfloat16):
        result = module(half, batch, 0)
    expected = module({request: tensor.bfloat16().float() for request, tensor in given.items()}, batch, 0)
    assert result.loss.dtype == torch.float32 and torch.equal(result.loss, expected.loss)


def test_mistakes_are_named():
    for settings, words in (({"temperature": 0.0}, "temperature is 0"), ({"queue": -1}, "queue is -1")):
        with pytest.raises(UserError, match=words):
            Config(**settings)
    with pytest.raises(UserError, match=r"no head called 'contrast'; the heads of branch 'teacher' are: cls"):
        Config(head="contrast").build(context(CLOCK, {"cls": heads.Config(prototypes=4)}, 8))
    batch = batch_of([1, 2], **{"global": 1})
    module = objective()
    with pytest.raises(UserError, match="two 'global' views"):
        module(outputs(module, batch), batch, 0)
    assert Config(head="p", queue=3).build(context(CLOCK, {"p": heads.Config(prototypes=6)}, 8)).queue.shape == (3, 6)


def _process(rank: int, address: str, results: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    results[rank] = _two_steps(rank, 2)
    dist.destroy_process_group()


def _two_steps(rank: int, world: int) -> tuple[list[float], np.ndarray]:
    module = objective(queue=16)
    losses = []
    for step in range(2):
        ids = [step * 10 + n for n in range(4)]
        whole = batch_of(ids, **{"global": 2})
        given = outputs(module, whole, seed=step)
        part = slice(rank * 4 // world, (rank + 1) * 4 // world)
        own = {r: t.unflatten(0, (2, 4))[:, part].flatten(0, 1) for r, t in given.items()}
        losses.append(module(own, batch_of(ids[part], **{"global": 2}), step).loss.item())
    return losses, np.sort(module.queue_ids.numpy())


@pytest.mark.slow
def test_two_processes_see_the_negatives_of_one(tmp_path, spawnable):
    expected = _two_steps(0, 1)
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (str(tmp_path / "meet"), results), nprocs=2, join=True)
        parts = [results[rank] for rank in range(2)]
    for step in range(2):
        mean = np.mean([part[0][step] for part in parts])
        assert mean == pytest.approx(expected[0][step], rel=1e-5), "the mean over processes is the whole batch's loss"
    assert all((part[1] == parts[0][1]).all() for part in parts), "every process holds the same queue"
    assert parts[0][1].tolist() == expected[1].tolist()
