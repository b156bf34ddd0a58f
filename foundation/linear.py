"""Linear layers whose float32 products run in oneDNN where that is the quicker of torch's two CPU libraries.

torch sends float32 products on a CPU to MKL, which takes its slower kernels on processors of other makers than its own.
oneDNN, which torch also carries (for half precision, convolutions and compiled graphs), has the same kernels for all.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation import planned
from foundation.linear_float8 import fits_float8, linear_float8

FEWEST_PRODUCTS = 2**26
"""Multiplications of a layer below which MKL is as quick or quicker: oneDNN begins a call with more to look up."""


@functools.cache
def onednn_is_quicker() -> bool:
    """Whether this processor is an x86-64 of another maker than MKL's, and this torch can call oneDNN."""
    try:
        processor = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # no Linux
        return False
    if "AuthenticAMD" not in processor or not torch.backends.mkldnn.is_available():
        return False
    # What torch's compiler emits for a linear layer is no part of the documented interface: try it first.
    left, right = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
    try:
        return torch.equal(_product(left, right.t(), right[0]), left @ right + right[0])
    except (AttributeError, RuntimeError, TypeError):
        return False


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``inputs @ weight.T + bias`` by oneDNN; the weight may be any transposed view, inputs are made contiguous."""
    if bias is not None:
        bias = bias.contiguous()  # the operator reads it as if it were, whatever its strides
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


class _OneDnnLinear(torch.autograd.Function):
    """[T, I] -> [T, O]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        to_inputs = to_weight = to_bias = None
        # What is to be differentiated once more (``create_graph``) goes by operators that torch can differentiate.
        again = torch.is_grad_enabled()
        if ctx.needs_input_grad[0]:
            to_inputs = gradient @ weight if again else _product(gradient, weight.t(), None)
        if ctx.needs_input_grad[1]:
            # oneDNN wants the first factor contiguous: worth the copy where that is the narrower one.
            narrow = gradient.shape[1] <= inputs.shape[1] and not again
            to_weight = _product(gradient.t(), inputs.t(), None) if narrow else gradient.t() @ inputs
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(dim=0)
        return to_inputs, to_weight, to_bias


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, float8: bool = False) -> Tensor:
    """``inputs @ weight.T + bias`` as ``torch.nn.functional.linear``, equal to it within rounding.

    Args:
        inputs: [..., I].
        weight: [O, I].
        bias: [O].
        float8: under autocast to bfloat16, multiply in 8 bits where the sizes allow it: equal within some per cent.

    Returns:
        [..., O].
    """
    if float8 and fits_float8(weight) and _by_bfloat16(inputs):
        return linear_float8(inputs, weight, bias)
    if torch.compiler.is_compiling() or not _by_onednn(inputs, weight, bias):
        return F.linear(inputs, weight, bias)
    flat = inputs.reshape(-1, inputs.shape[-1])
    result: Tensor = _OneDnnLinear.apply(flat, weight, bias)
    return result.unflatten(0, inputs.shape[:-1])


def _by_bfloat16(inputs: Tensor) -> bool:
    """Whether autocast would compute this product in bfloat16."""
    kind = planned.kind(inputs.device)
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16


def _by_onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN computes this product; torch has the rare forms, and words for what does not fit."""
    return (
        planned.kind(inputs.device) == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.numel() * weight.shape[0] >= FEWEST_PRODUCTS
        and inputs.ndim > 1
        and inputs.shape[-1] == weight.shape[-1]
        and (bias is None or (bias.dtype == torch.float32 and bias.shape == weight.shape[:1]))
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not _transformed()
        and onednn_is_quicker()
    )


def _transformed() -> bool:
    """Whether the call is recorded to run elsewhere, or transformed by ``torch.func``: neither knows the operator."""
    return (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # type: ignore[no-untyped-call]
        or torch._C._are_functorch_transforms_active()
    )


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`.

    Attributes:
        float8: see there; :mod:`foundation.parallel.float8` sets it.
    """

    float8 = False

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(inputs, self.weight, self.bias, self.float8)
