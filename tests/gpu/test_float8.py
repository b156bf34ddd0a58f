"""Products of 8-bit numbers on a GPU against float32, forward and backward, and in steps of a recipe."""

from __future__ import annotations

import pytest
import torch

from foundation.linear_float8 import multiplies_float8
from foundation.run.rehearsal import Rehearsal, random_batch
from tests.test_linear_float8 import MOST, compared, error

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def able(device: torch.device) -> None:
    """Skip where the GPU is too old."""
    if not multiplies_float8(device):
        pytest.skip(f"{torch.cuda.get_device_name(device)} multiplies no 8-bit numbers")


@pytest.mark.parametrize("tokens", [1, 37, 4096])
def test_products_and_gradients_are_those_of_float32_within_the_rounding_of_8_bits(device, exact, tokens):
    for (wanted, ours), most in zip(compared(tokens, 384, 1536, device), MOST, strict=True):
        assert error(ours, wanted) < most


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
