"""The CPU against the GPU, and one precision against the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.measure import parity
from foundation.measure.flops import count_flops
from foundation.measure.recipes import dinov2
from foundation.modalities.image import views
from foundation.run.rehearsal import STEP, Rehearsal, random_batch

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("modality", parity.SMALL)
def test_views_masks_losses_and_one_step_of_every_modality(modality: str, device: torch.device, tmp_path: Path) -> None:
    found = parity.compare(*parity.SMALL[modality], device, tmp_path / "shards", 8, 0)
    assert found["within"] == "yes", (found, parity.TOLERANCES)


@pytest.mark.parametrize(
    "config",
    [views.published("dino"), views.published("dinov2"), views.Config(degrees=180.0, plain_size=96)],
    ids=["dino", "dinov2", "turned, with plain views"],
)
@pytest.mark.parametrize("placement", ["device", "workers"])
def test_the_device_half_of_augmentation(config: views.Config, placement: str, device: torch.device) -> None:
    maker = replace(config, placement=placement).build(True)
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(6, 3, 9, 12, generator=generator)
    images = torch.nn.functional.interpolate(smooth, size=(180, 240), mode="bicubic").clamp(0, 1)
    samples = [{"image": image.mul(255).to(torch.uint8)} for image in images]
    prepared = maker.prepare(samples, Draws(0, np.zeros(6, np.int64), np.arange(6)))
    here, there = maker.finish(prepared), maker.finish(prepared.pin_memory().to(device))
    assert set(here) == set(there) == set(maker.describe())
    for role, view in here.items():
        found = there[role]
        assert found.data.device == device and found.data.shape == view.data.shape and found.count == view.count
        apart = (found.data.cpu() - view.data).abs()
        assert apart.max() < parity.TOLERANCES["views"] and apart.mean() < parity.TOLERANCES["views_mean"], role
        assert torch.equal(found.sample_ids.cpu(), view.sample_ids)
        torch.testing.assert_close(found.geometry.cpu(), view.geometry)


def test_half_precision_is_near_float32(device: torch.device, exact: None) -> None:
    losses, norms = [], []
    for precision in ("float32", "bfloat16"):
        recipe = dinov2("small", 8, f"train.precision={precision}", "train.device=cuda", tiny=True)
        rehearsal = Rehearsal(recipe, 8)
        torch.manual_seed(0)
        batch = random_batch(recipe, 8).to(device)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            result = rehearsal.learner(batch, STEP, watched=False)
        result.loss.backward()
        losses.append(result.loss.item())
        norms.append(rehearsal.optimizer.grad_norm().item())
        rehearsal.optimizer.zero_grad()
        assert all(torch.isfinite(rehearsal(batch)) for _ in range(2))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def test_counted_operations_are_those_of_the_cpu(device: torch.device) -> None:
    counts = []
    for where in (CPU, device):
        recipe = dinov2("small", 2, "train.precision=float32", f"train.device={where.type}", tiny=True)
        rehearsal = Rehearsal(recipe, 2)
        torch.manual_seed(0)
        batch = random_batch(recipe, 2).to(where)

        def step(rehearsal: Rehearsal = rehearsal, batch=batch) -> None:
            rehearsal(batch)

        counts.append(count_flops(step, where))
    # A fused kernel computes the scores anew in its backward pass, which its formula counts: a little more.
    assert counts[0].uncounted == counts[1].uncounted == ()
    assert counts[1].total == pytest.approx(counts[0].total, rel=0.05)
