"""Products of 8-bit numbers on a GPU against float32, forward and backward, and in steps of a recipe."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from foundation.linear_float8 import linear_float8, multiplies_float8
from foundation.run.rehearsal import Rehearsal, random_batch

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def able(device: torch.device) -> None:
    """Skip where the GPU is too old."""
    if not multiplies_float8(device):
        pytest.skip(f"{torch.cuda.get_device_name(device)} multiplies no 8-bit numbers")


@pytest.mark.parametrize("tokens", [1, 37, 4096])
def test_products_and_gradients_are_those_of_float32_within_the_rounding_of_8_bits(device, tokens):
    draw = torch.Generator(device).manual_seed(0)
    inputs, weight, bias, upstream = (
        torch.randn(*shape, device=device, generator=draw)
        for shape in ((tokens, 384), (1536, 384), (1536,), (tokens, 1536))
    )
    results = []
    for product in (F.linear, linear_float8):
        leaves = [tensor.clone().requires_grad_() for tensor in (inputs, weight, bias)]
        result = product(*leaves)
        result.backward(upstream.to(result.dtype))
        results.append([result.detach(), *(leaf.grad for leaf in leaves)])
    for number, (wanted, found) in enumerate(zip(*results, strict=True)):
        error = float((found.float() - wanted).norm() / wanted.norm())
        assert error < (0.05, 0.05, 0.01, 0.01)[number]


@pytest.mark.parametrize("compile", ["none", "blocks"])
def test_losses_are_near_those_of_bfloat16(device, tiny_recipe, compile):
    losses = {}
    for float8 in ("none", "blocks"):
        settings = ("train.device=cuda", "train.precision=bfloat16", "encoder.drop_path=0", f"train.compile={compile}")
        recipe = tiny_recipe(*settings, f"train.float8={float8}")
        torch.manual_seed(0)
        step, batch = Rehearsal(recipe, 8), random_batch(recipe, 8).to(device)
        losses[float8] = [float(step(batch)) for _ in range(3)]
    assert losses["blocks"] != losses["none"]
    assert losses["blocks"] == pytest.approx(losses["none"], rel=0.03)
