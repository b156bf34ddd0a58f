"""Whitening: statistics of the first steps, equal however a step is cut, and a transform that stays."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F

from foundation.objectives.whitening import FLOOR, Whitening

WIDTH = 6


def features(count: int, seed: int = 0) -> torch.Tensor:
    """Correlated channels of very different spread, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99)))[0]
    return torch.randn(count, WIDTH, generator=generator) * torch.logspace(-0.5, 0.5, WIDTH) @ turn + 20.0


def test_the_transform_is_the_inverse_root_of_the_shrunk_covariance():
    whitening, parts = Whitening(WIDTH, 3), [features(400, seed) for seed in range(3)]
    first = whitening(parts[0], 0)
    torch.testing.assert_close(first, F.layer_norm(parts[0], (WIDTH,), eps=1e-6))
    for step in (1, 2):
        whitening(parts[step], step)
    seen, new = torch.cat(parts).double(), features(5, 7)
    covariance, share = seen.T.cov(correction=0), max(WIDTH / (WIDTH + len(seen)), FLOOR)
    shrunk = (1 - share) * covariance + share * covariance.trace() / WIDTH * torch.eye(WIDTH, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(shrunk)
    wanted = (new.double() - seen.mean(0)) @ vectors @ torch.diag(values**-0.5) @ vectors.T
    torch.testing.assert_close(whitening(new, 3), wanted.float(), rtol=1e-3, atol=1e-3)


def test_many_features_come_out_uncorrelated_with_deviation_one_and_the_transform_stays():
    whitening = Whitening(WIDTH, 2)
    for step in range(3):
        out = whitening(features(20_000, step), step)
    values = torch.linalg.eigvalsh(out.T.cov())
    assert values.min() > 0.9 and values.max() < 1.1 and out.mean(dim=0).abs().max() < 0.05
    before = copy.deepcopy(whitening.state_dict())
    for step in (3, 4, 8):
        whitening(features(10, step) * 100, step)
    assert all(torch.equal(value, before[name]) for name, value in whitening.state_dict().items())


def test_two_halves_of_a_step_are_the_whole_and_a_saved_state_goes_on():
    whole, halves = Whitening(WIDTH, 4), Whitening(WIDTH, 4)
    for step in range(6):
        some = features(40, step)
        wanted = whole(some, step)
        if step == 3:  # a process that was stopped and started again
            saved, halves = halves.state_dict(), Whitening(WIDTH, 4)
            halves.load_state_dict(saved)
        found = torch.cat([halves(part, step) for part in some.split([25, 15])])
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(halves.transform, whole.transform, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_and_steps_without_any_leave_it_alone():
    whitening = Whitening(WIDTH, 8)
    whitening(features(40), 0)
    whitening(torch.full((3, WIDTH), torch.nan), 1)
    good = whitening.mean.clone()
    assert whitening(torch.empty(0, WIDTH), 2).shape == (0, WIDTH)
    whitening(features(0), 3)
    assert torch.equal(whitening.mean, good) and good.any() and torch.isfinite(whitening.transform).all()


SIZES = [30, 0]  # rows of each process: masked patches differ in number, and there may be none


def _process(rank: int, address: str, results: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=len(SIZES))
    whitening = Whitening(WIDTH, 3)
    for step in range(5):
        whitening(features(sum(SIZES), step).split(SIZES)[rank], step)
    results[rank] = {name: value.numpy() for name, value in whitening.state_dict().items()}
    dist.destroy_process_group()


@pytest.mark.slow
def test_unequal_parts_give_the_transform_of_the_whole_in_every_process(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))  # spawned processes copy sys.path
    whole = Whitening(WIDTH, 3)
    for step in range(5):
        whole(features(sum(SIZES), step), step)
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (str(tmp_path / "meet"), results), nprocs=len(SIZES), join=True)
        one, other = (results[rank] for rank in range(len(SIZES)))
    for name, value in whole.state_dict().items():
        np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_allclose(one[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
