"""Counting operations: by hand, forward and backward, and what cannot be counted."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from foundation.measure.flops import count_flops
from foundation.measure.recipes import dinov2
from foundation.measure.steps import Steps

CPU = torch.device("cpu")


def test_a_linear_layer_forward_and_backward():
    layer, inputs = torch.nn.Linear(6, 5, bias=False), torch.randn(7, 6, requires_grad=True)
    forward = 2 * 7 * 6 * 5
    assert count_flops(lambda: layer(inputs.detach()), CPU).total == forward
    counted = count_flops(lambda: layer(inputs).sum().backward(), CPU)
    assert counted.total == 3 * forward  # of the weights and of the inputs too
    assert counted.uncounted == () and sum(counted.by_operator.values()) == counted.total


def test_attention_is_counted_where_torch_has_no_formula_for_its_kernel():
    query = torch.randn(2, 3, 11, 8, requires_grad=True)
    products = 2 * (2 * 2 * 3 * 11 * 11 * 8)  # scores and mixing
    counted = count_flops(lambda: F.scaled_dot_product_attention(query, query, query).sum().backward(), CPU)
    assert counted.total == 3 * products
    assert counted.uncounted == ()


def test_products_without_a_formula_are_named():
    name = "foundation_test::attention_like"
    torch.library.define(name, "(Tensor x) -> Tensor")
    torch.library.impl(name, "CompositeExplicitAutograd")(lambda x: x @ x)
    counted = count_flops(lambda: torch.ops.foundation_test.attention_like(torch.randn(4, 4)), CPU)
    assert counted.uncounted == ("foundation_test.attention_like",)


def test_a_step_of_a_recipe_counts_student_teacher_heads_and_backward():
    recipe = dinov2("small", 2, "train.precision=float32", "train.device=cpu", tiny=True)
    steps = Steps(recipe, 2)
    steps.use_attention("sdpa")
    found = steps.flops()
    assert found.uncounted == ()
    encoder = steps.rehearsal.learner.branch("student").encoder
    forward = encoder.flops([(4, 3, 32, 32), (16, 3, 16, 16)])
    teacher = encoder.flops([(4, 3, 32, 32)])
    # The last block leaves out what nothing reads, and heads come on top.
    assert 0.8 * (3 * forward + teacher) < found.total < 1.3 * (3 * forward + teacher)
    assert steps.flops(4).total > 1.9 * found.total
