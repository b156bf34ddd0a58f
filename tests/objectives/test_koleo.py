"""KoLeo against the reference implementations, on one process and on four."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from foundation.errors import UserError
from foundation.objectives import koleo as module
from foundation.objectives.koleo import koleo
from foundation.schedules import Clock
from tests.objectives.contexts import context


def agrees(data, name, grad, x, **settings):
    x = torch.from_numpy(x).requires_grad_()
    loss, _ = koleo(x, **settings)
    assert loss.item() == pytest.approx(float(data[name]), rel=1e-5)
    loss.backward()
    expected = torch.from_numpy(data[grad])
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("case", ["gaussian", "scaled", "clustered"])
def test_koleo_of_dinov2(golden, case):
    data = golden("05_dinov2_koleo")
    agrees(data, f"output/{case}/loss", f"grad/{case}", data[f"input/{case}"])


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_koleo_of_dinov3_in_one_process(golden, neighbours):
    data = golden("05_dinov3_koleo")
    name = f"distributed_world1_topk{neighbours}"
    agrees(data, f"output/{name}/loss", f"grad/{name}/x", data["input/x"], neighbours=neighbours, across_processes=True)


def _process(rank: int, address: str, features: np.ndarray, cases: list[dict], results: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=4)
    for i, settings in enumerate(cases):
        x = torch.from_numpy(features[3 * rank : 3 * rank + 3]).requires_grad_()
        loss, _ = koleo(x, across_processes=True, **settings)
        loss.backward()
        results[i, rank] = (loss.item(), x.grad.numpy())
    dist.destroy_process_group()


@pytest.mark.slow
def test_koleo_over_four_processes(golden, tmp_path, spawnable):
    data = golden("05_dinov3_koleo")
    names = sorted({key.split("/")[1] for key in data if key.startswith("output/world4")})
    cases = []
    for name in names:
        neighbours, group = name.removeprefix("world4_topk").split("_group")
        cases.append({"neighbours": int(neighbours), "group": None if group == "global" else int(group)})
    assert len(cases) == 4
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(
            _process, (str(tmp_path / "meet"), data["input/x_world4"], cases, results), nprocs=4, join=True
        )
        for i, name in enumerate(names):
            losses = [results[i, rank][0] for rank in range(4)]
            np.testing.assert_allclose(losses, data[f"output/{name}/loss_per_rank"], rtol=1e-5)
            gradient = np.concatenate([results[i, rank][1] for rank in range(4)])
            np.testing.assert_allclose(gradient, data[f"grad/{name}/x"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_collapsed_features_stay_finite(dtype, value):
    x = torch.full((8, 32), value, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16 if dtype == torch.float32 else dtype):
        loss, distance = koleo(x)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and x.grad.isfinite().all()
    assert distance < 1e-2


def test_views_count_separately_and_a_lone_sample_has_loss_zero(make_batch):
    objective = module.Config().build(context(Clock(1, 1.0), {}, 4))
    x = torch.randn(6, 4, requires_grad=True)
    loss = objective({objective.request: x}, make_batch(3, {"global": 2}), 0).loss
    torch.testing.assert_close(loss, koleo(x[:3])[0] + koleo(x[3:])[0])
    lone = objective({objective.request: x[:2]}, make_batch(1, {"global": 2}), 0).loss
    lone.backward()
    assert lone.item() == 0.0


def test_a_group_needs_all_processes():
    with pytest.raises(UserError, match="group needs across_processes"):
        module.Config(group=4, across_processes=False)
