"""Soft cross-entropy over many prototypes, in float32 whatever autocast says, without a float32 copy of the scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of one chunk: on a CPU it should stay in cache, on a GPU it should bound the temporary memory (256 MiB).
_CHUNK = {"cpu": 2**18}
_CHUNK_ELSEWHERE = 2**26


def _rows_per_chunk(student: Tensor, chunk: int | None) -> int:
    elements = _CHUNK.get(student.device.type, _CHUNK_ELSEWHERE) if chunk is None else chunk
    return max(1, elements // max(1, student.shape[0] * student.shape[2]))


class _SoftCrossEntropy(torch.autograd.Function):
    """Saves the scores as they came and one number per row; the softmax is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, target: Tensor, temperature: float, chunk: int | None) -> Tensor:
        views, rows, _ = student.shape
        normaliser = student.new_empty((views, rows), dtype=torch.float32)
        mass = target.sum(dim=2, dtype=torch.float32)  # [V or 1, B]
        match = torch.empty_like(normaliser)
        step = _rows_per_chunk(student, chunk)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            scores = student[:, part].float() * (1.0 / temperature)
            shift = scores.amax(dim=2)
            scores -= shift[..., None]  # before the sums: the loss is a small difference of large numbers
            match[:, part] = (target[:, part] * scores).sum(dim=2)
            relative = scores.exp_().sum(dim=2).log_()
            match[:, part] -= mass[:, part] * relative
            normaliser[:, part] = relative + shift
        ctx.save_for_backward(student, target, normaliser, mass)
        ctx.temperature, ctx.step = temperature, step
        return match.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        student, target, normaliser, mass = ctx.saved_tensors
        result = torch.empty_like(student)
        scale = (gradient.float() / ctx.temperature)[..., None]  # [V, B, 1]
        positive = scale * mass[..., None]
        for start in range(0, student.shape[1], ctx.step):
            part = slice(start, start + ctx.step)
            share = student[:, part].float() * (1.0 / ctx.temperature)
            share = share.sub_(normaliser[:, part, None]).exp_().mul_(positive[:, part])
            result[:, part] = share.sub_(target[:, part] * scale[:, part])
        return result, None, None, None


def soft_cross_entropy(student: Tensor, target: Tensor, temperature: float = 1.0, chunk: int | None = None) -> Tensor:
    """``-sum_k target_k log softmax(student / temperature)_k`` of every row.

    A target may be the *sum* of several distributions: cross-entropy is linear in it, so a student row that meets T
    teacher views costs one pass, not T.

    Args:
        student: [V, B, K] scores of V views of B samples, or [B, K].
        target: [V, B, K], or [1, B, K] (shared by all views); or [B, K]. Not differentiated.
        temperature: of the student.
        chunk: scores handled at a time; None chooses by device. Changes memory, not the result.

    Returns:
        Losses [V, B] (or [B]) in float32.
    """
    if student.dim() == 2:
        return soft_cross_entropy(student[None], target[None], temperature, chunk)[0]
    losses: Tensor = _SoftCrossEntropy.apply(student, target.detach(), temperature, chunk)
    return losses
