"""Products of 8-bit numbers, really computed (a CPU can, slowly), against those of float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from foundation.linear import Linear, linear
from foundation.linear_float8 import linear_float8, multiplies_float8

CPU = torch.device("cpu")
MOST = (0.05, 0.05, 0.005, 0.005)
"""Relative errors of the result, and of the gradients of inputs, weight and bias."""
pytestmark = pytest.mark.skipif(not multiplies_float8(CPU), reason="this torch multiplies no 8-bit numbers on a CPU")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative, of all numbers together."""
    return float((found.float() - wanted).norm() / wanted.norm())


def compared(tokens: int, inputs: int, outputs: int, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Result and gradients of inputs, weight and bias, in float32 and in 8 bits."""
    shapes = ((tokens, inputs), (outputs, inputs), (outputs,), (tokens, outputs))
    *given, upstream = (random(*shape, seed=seed).to(device) for seed, shape in enumerate(shapes))
    results = []
    for product in (F.linear, linear_float8):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        result = product(*leaves)
        result.backward(upstream.to(result.dtype))
        results.append([result.detach(), *(leaf.grad for leaf in leaves)])
    return list(zip(*results, strict=True))


def test_products_and_gradients_are_those_of_float32_within_the_rounding_of_8_bits():
    found = compared(37, 64, 48, CPU)
    # Three bits of mantissa err by 2 to 3 % of each number; the gradients of weights and bias are of bfloat16.
    assert all(error(ours, wanted) < most for (wanted, ours), most in zip(found, MOST, strict=True))
    assert error(found[0][1], found[0][0]) > 0.005, "it was not computed in 8 bits"
    assert [ours.dtype for _, ours in found] == [torch.bfloat16, *3 * [torch.float32]]


def test_every_row_has_its_own_scale():
    """One huge token must not push the others below what 8 bits can hold."""
    inputs = random(4, 32)
    inputs[0] *= 1e6
    inputs[3] = 0
    weight = random(16, 32, seed=1)
    weight[2] *= 1e5
    found, wanted = linear_float8(inputs, weight), F.linear(inputs, weight)
    for row in range(3):
        for column in (slice(0, 2), slice(2, 3), slice(3, 16)):
            assert error(found[row, column], wanted[row, column]) < 0.2
    assert torch.equal(found[3], torch.zeros(16, dtype=torch.bfloat16))


def test_leading_dimensions_stay():
    inputs = random(2, 3, 32)
    assert torch.equal(linear_float8(inputs, random(16, 32))[1, 2], linear_float8(inputs[1, 2:], random(16, 32))[0])


@pytest.mark.parametrize("outputs, exact", [(48, False), (40, True)])
def test_sizes_that_the_hardware_does_not_take_are_computed_as_before(outputs, exact):
    inputs, layer = random(5, 32), Linear(32, outputs)
    layer.float8 = True
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(inputs), F.linear(inputs, layer.weight, layer.bias)) is exact


def test_without_autocast_nothing_changes():
    """Probes that look at features in float32 get them in float32, whatever the training multiplied in."""
    inputs, weight = random(5, 32), random(48, 32, seed=1)
    assert torch.equal(linear(inputs, weight, float8=True), linear(inputs, weight))
