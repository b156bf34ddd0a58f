"""Linear layers that multiply in 8-bit floating point (e4m3), as DINOv3 and others train on H100s.

Each row of the inputs and each row of the weights gets a scale of its own, so that its largest number is the largest
that 8 bits hold. Forward pass and gradients of the inputs are products of 8-bit numbers; the gradients of the weights,
sums over thousands of tokens, stay in bfloat16. Results are bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foundation import planned

MULTIPLE = 16
"""Numbers of inputs and outputs must be a multiple of it: what the GPU's 8-bit products ask for."""
_DTYPE = torch.float8_e4m3fn
_LARGEST = torch.finfo(_DTYPE).max
_SMALLEST_PEAK = 1e-12  # of a row; one of zeros must not be divided by zero


def fits_float8(weight: Tensor) -> bool:
    """Whether the weights [O, I] of a layer can be multiplied in 8 bits."""
    return weight.shape[0] % MULTIPLE == 0 and weight.shape[1] % MULTIPLE == 0


def multiplies_float8(device: torch.device) -> bool:
    """Whether torch can multiply 8-bit numbers on this device: NVIDIA's from Ada and Hopper on, and slowly a CPU."""
    ones = torch.ones(MULTIPLE, MULTIPLE, device=device)
    try:
        return torch.equal(_product(ones, ones).float(), MULTIPLE * ones)
    except (RuntimeError, NotImplementedError, ValueError):
        return False


def linear_float8(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs @ weight.T + bias`` of 8-bit numbers.

    Args:
        inputs: [..., I].
        weight: [O, I]; see :func:`fits_float8`.
        bias: [O].

    Returns:
        [..., O] bfloat16.
    """
    # As autocast would: then it is all one whether the weights come in float32 or gathered in bfloat16.
    flat = inputs.reshape(-1, inputs.shape[-1]).to(torch.bfloat16)
    result: Tensor = _Float8Linear.apply(flat, weight.to(torch.bfloat16), bias)
    return result.unflatten(0, inputs.shape[:-1])


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit numbers [R, K], contiguous, and what each row is to be multiplied by, [R, 1] float32."""
    wide = rows.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST_PEAK) / _LARGEST
    return (wide / scale).clamp(-_LARGEST, _LARGEST).to(_DTYPE).contiguous(), scale


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T``, [T, K] and [O, K] -> [T, O] bfloat16."""
    # Autocast would round the scales. Of the two names that torch has for it, this one its counter of operations knows.
    with torch.autocast(planned.kind(left.device), enabled=False):
        (own, of_own), (other, of_other) = _scaled(left), _scaled(right)
        return torch._scaled_mm(own, other.t(), of_own, of_other.t(), out_dtype=torch.bfloat16)


class _Float8Linear(torch.autograd.Function):
    """[T, I] -> [T, O]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.bias = None if bias is None else bias.dtype
        result = _product(inputs, weight)
        return result if bias is None else result + bias.to(result.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        to_inputs = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_inputs = _product(gradient, weight.t())
        if ctx.needs_input_grad[1]:
            to_weight = gradient.t() @ inputs
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(dim=0).to(ctx.bias)
        return to_inputs, to_weight, to_bias
