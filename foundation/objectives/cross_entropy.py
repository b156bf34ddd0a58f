"""Soft cross-entropy over many prototypes, in float32 whatever autocast says, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foundation.chunks import Rows, elements


def _rows_per_chunk(student: Tensor, chunk: int | None) -> int:
    size = elements(student.device) if chunk is None else chunk
    return max(1, size // max(1, student.shape[0] * student.shape[2]))


class _SoftCrossEntropy(torch.autograd.Function):
    """Makes the gradient in the forward pass, while a chunk is in cache, and only scales it in the backward pass.

    Nothing but the gradient, in the precision of the scores, lives in between.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, target: Callable[[slice], Tensor], temperature: float, chunk: int | None
    ) -> Tensor:
        views, rows, _ = student.shape
        losses = student.new_empty((views, rows), dtype=torch.float32)
        # float16 would lose the many small entries before the loss scale reaches them.
        dtype = torch.float32 if student.dtype == torch.float16 else student.dtype
        ctx.gradient = torch.empty_like(student, dtype=dtype) if ctx.needs_input_grad[0] else None
        ctx.temperature, ctx.dtype = temperature, student.dtype
        ctx.step = step = _rows_per_chunk(student, chunk)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            wanted = target(part)
            mass = wanted.sum(dim=2, keepdim=True, dtype=torch.float32)  # [V or 1, b, 1]
            scores = student[:, part].float() * (1.0 / temperature)
            share = torch.softmax(scores, dim=2)  # its exponentials are what costs most: no second ones
            scores -= scores.amax(dim=2, keepdim=True)  # the loss is a small difference of large numbers
            normaliser = share.amax(dim=2).log_()  # minus the log of the sum of exp(scores): the largest score is 0
            losses[:, part] = -mass[..., 0] * normaliser - scores.mul_(wanted).sum(dim=2)
            if ctx.gradient is not None:
                ctx.gradient[:, part] = torch.addcmul(wanted, share, mass, value=-1.0)  # its negative
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        result, ctx.gradient = ctx.gradient, None
        if result is None:
            raise RuntimeError("soft_cross_entropy scales its gradient in place: backward runs once")
        factor = (gradient / -ctx.temperature)[..., None]
        if result.dtype == torch.float32:
            return result.mul_(factor).to(ctx.dtype), None, None, None
        for start in range(0, result.shape[1], ctx.step):  # in one call a CPU makes float32 copies of all
            part = slice(start, start + ctx.step)
            result[:, part] = result[:, part].float().mul_(factor[:, part])
        return result.to(ctx.dtype), None, None, None


def soft_cross_entropy(
    student: Tensor, target: Tensor | Rows, temperature: float = 1.0, chunk: int | None = None
) -> Tensor:
    """``-sum_k target_k log softmax(student / temperature)_k`` of every row.

    A target may be the *sum* of several distributions: cross-entropy is linear in it, so a student row that meets T
    teacher views costs one pass, not T.

    Args:
        student: [V, B, K] scores of V views of B samples, or [B, K].
        target: [V, B, K], or [1, B, K] (shared by all views); or [B, K], which may be rows that are computed as they
            are asked for. Not differentiated.
        temperature: of the student.
        chunk: scores handled at a time; None chooses by device. Changes memory, not the result.

    Returns:
        Losses [V, B] (or [B]) in float32.
    """
    if student.dim() == 2:
        one_view: Tensor = _SoftCrossEntropy.apply(student[None], lambda part: target[part][None], temperature, chunk)
        return one_view[0]
    assert isinstance(target, Tensor)
    views: Tensor = _SoftCrossEntropy.apply(student, lambda part: target[:, part], temperature, chunk)
    return views
