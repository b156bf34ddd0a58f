"""Target transforms over several processes equal those of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from foundation.objectives.centering import Centering, SinkhornKnopp
from tests.objectives.contexts import context

SIZES = [3, 5, 0, 4]  # rows of each process; masked patches differ in number, and there may be none


def _process(rank: int, address: str, scores: np.ndarray, results: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=len(SIZES))
    own = torch.from_numpy(scores).split(SIZES)[rank]
    centering = Centering(scores.shape[1])
    centering(own, 0.1, step=0)
    results[rank] = (SinkhornKnopp(3)(own, 0.1).numpy(), centering.next_centre().numpy())
    dist.destroy_process_group()


@pytest.mark.slow
def test_unequal_parts_give_the_assignments_and_the_centre_of_the_whole(tmp_path, spawnable):
    scores = torch.randn(sum(SIZES), 7, generator=torch.Generator().manual_seed(0))
    whole = Centering(7)
    whole(scores, 0.1, step=0)
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = (str(tmp_path / "meet"), scores.numpy(), results)
        torch.multiprocessing.spawn(_process, arguments, nprocs=len(SIZES), join=True)
        parts = [results[rank] for rank in range(len(SIZES))]
    expected = SinkhornKnopp(3)(scores, 0.1).numpy()
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), expected, rtol=1e-5, atol=1e-7)
    for _, centre in parts:
        np.testing.assert_allclose(centre, whole.next_centre().numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("target", ["centering", "sinkhorn"])
def test_no_objective_waits_for_the_device(make_batch, target):
    from foundation.heads import prototypes as heads
    from foundation.objectives import dino, ibot, koleo
    from foundation.schedules import Clock

    configs = (dino.Config(target=target), ibot.Config(target=target), koleo.Config())
    head = {"cls": heads.Config(prototypes=64)}
    objectives = [config.build(context(Clock(10, 1.0), head, 16)).cuda() for config in configs]
    masked = np.zeros((8, 9), dtype=bool)
    masked[::2, :4] = True
    batch = make_batch(4, {"global": 2, "local": 3}, masked).to("cuda")
    rows = {"cls": {"global": 8, "local": 12}, "masked": {"global": 16}}
    outputs = {
        request: torch.randn(rows[request.token][request.view], 64, device="cuda", requires_grad=True)
        for objective in objectives
        for request in objective.requests
    }
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            torch.stack([objective(outputs, batch, 0).loss for objective in objectives]).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
