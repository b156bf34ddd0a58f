"""The chunked soft cross-entropy is the plain one."""

from __future__ import annotations

import pytest
import torch

from foundation.objectives.cross_entropy import soft_cross_entropy


def plain(student, target, temperature):
    return -(target * torch.log_softmax(student / temperature, dim=-1)).sum(dim=-1)


def inputs(views=3, rows=7, prototypes=11, shared=False):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(views, rows, prototypes, dtype=torch.float32, generator=generator, requires_grad=True)
    target = torch.rand(1 if shared else views, rows, prototypes, generator=generator)  # sums differ from 1
    return student, target


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 40])
def test_values_and_gradients_equal_the_plain_formula_for_any_chunk(shared, chunk):
    student, target = inputs(shared=shared)
    weights = torch.rand(3, 7)
    losses = soft_cross_entropy(student, target, 0.1, chunk)
    expected = plain(student, target, 0.1)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad((losses * weights).sum(), student)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), student)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_gradient_by_finite_differences():
    student, target = inputs()
    # Uphill for sure: a slope near 0 would drown in the rounding of the sum.
    direction = torch.randn(student.shape, generator=torch.Generator().manual_seed(1)) - student.detach()
    soft_cross_entropy(student, target, 0.5).sum().backward()
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (soft_cross_entropy(student + s * direction, target, 0.5).sum() for s in (step, -step))
    slope = ((ahead - behind) / (2 * step)).item()
    assert (student.grad * direction).sum().item() == pytest.approx(slope, rel=2e-3)


def test_a_second_backward_is_refused_instead_of_wrong():
    student, target = inputs()
    loss = soft_cross_entropy(student, target).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward runs once"):
        loss.backward()


def test_a_sum_of_targets_costs_one_pass():
    student, target = inputs()
    apart = sum(soft_cross_entropy(student, t[None], 0.1) for t in target)
    torch.testing.assert_close(soft_cross_entropy(student, target.sum(0, keepdim=True), 0.1), apart)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_scores_give_float32_losses_and_finite_gradients(dtype):
    student = torch.full((2, 3, 64), 60.0, dtype=dtype, requires_grad=True)
    target = torch.softmax(torch.randn(2, 3, 64), dim=-1)
    with torch.autocast("cpu", dtype):
        losses = soft_cross_entropy(student, target, 0.04)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.full((2, 3), 64.0).log())
    losses.sum().backward()
    assert student.grad.isfinite().all() and student.grad.dtype == dtype


def test_no_rows_give_no_losses_and_a_zero_gradient():
    student = torch.zeros(0, 5, requires_grad=True)
    soft_cross_entropy(student, torch.zeros(0, 5)).sum().backward()
    assert student.grad.shape == (0, 5)
