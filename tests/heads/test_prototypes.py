"""Prototype heads against the reference implementation and their own promises."""

from __future__ import annotations

import pytest
import torch

from foundation import chunks
from foundation.errors import UserError
from foundation.heads import prototypes as heads


def from_golden(data, prefix: str, case: str, width: int, **settings) -> heads.PrototypeHead:
    config = heads.Config(
        prototypes=int(data[f"arg/{case}/out_dim"]),
        hidden=int(data[f"arg/{case}/hidden_dim"]),
        bottleneck=int(data[f"arg/{case}/bottleneck_dim"]),
        layers=int(data[f"arg/{case}/nlayers"]),
        norm="batch" if data[f"arg/{case}/use_bn"] else "none",
        bias=bool(data[f"arg/{case}/mlp_bias"]),
        **settings,
    )
    head = config.build(width)
    state = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in data.items() if k.startswith(prefix)}
    if config.layers == 1:  # the reference has a bare layer here
        state = {k.replace("mlp.", "mlp.0."): v for k, v in state.items()}
    head.load_state_dict(state)
    return head


@pytest.mark.parametrize("case", ["head0", "head1", "head2", "head3"])
def test_head_equals_the_reference(golden, case):
    data = golden("03_dinov2_dino_head")
    head = from_golden(data, f"param/{case}/", case, int(data[f"arg/{case}/in_dim"]), freeze_scale=False)
    modes = ["train", "eval"] if f"output/{case}/train/logits" in data else ["eval"]  # the statistics move in training
    for mode in modes:
        head.train(mode == "train").zero_grad()
        x = torch.from_numpy(data[f"input/{case}/x"]).requires_grad_()
        scores = head(x)
        torch.testing.assert_close(scores.detach().numpy(), data[f"output/{case}/{mode}/logits"], rtol=1e-5, atol=1e-5)
        (scores * torch.from_numpy(data[f"input/{case}/cotangent"])).sum().backward()
        torch.testing.assert_close(x.grad.numpy(), data[f"grad/{case}/{mode}/x"], rtol=1e-4, atol=1e-5)
        for name in ("weight_g", "weight_v"):
            expected = data[f"grad/{case}/{mode}/param/last_layer.{name}"]
            actual = getattr(head.last_layer, name).grad.numpy()
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        if mode == "train":
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                expected = torch.from_numpy(data[f"output/{case}/after_train_step/mlp.1.{name}"])
                torch.testing.assert_close(head.state_dict()[f"mlp.1.{name}"], expected)


def test_one_call_equals_separate_calls_and_keeps_leading_shapes():
    head = heads.Config(prototypes=12, hidden=16, bottleneck=8).build(10)
    a, b = torch.randn(4, 10), torch.randn(2, 3, 10)
    together = head(torch.cat([a, b.flatten(0, 1)]))
    torch.testing.assert_close(together[:4], head(a))
    torch.testing.assert_close(together[4:].unflatten(0, (2, 3)), head(b))


def test_frozen_scale_has_no_parameter_and_bounds_scores_by_one():
    head = heads.Config(prototypes=12, hidden=16, bottleneck=8, freeze_scale=True).build(10)
    assert [name for name, _ in head.last_layer.named_parameters()] == ["weight_v"]
    assert head(torch.randn(50, 10) * 100).abs().max() <= 1.0 + 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_zero_features_stay_finite_in_16_bits(dtype):
    head = heads.Config(prototypes=12, hidden=16, bottleneck=8).build(10)
    x = torch.zeros(4, 10, requires_grad=True)
    with torch.autocast("cpu", dtype):
        scores = head(x)
    scores.float().pow(2).sum().backward()
    assert scores.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("with_length", [False, True])
def test_gradient_of_the_normalised_rows(with_length):
    direction = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    length = torch.rand(5, 1, dtype=torch.float64, requires_grad=True) if with_length else None
    assert torch.autograd.gradcheck(heads._NormaliseRows.apply, (direction, length, torch.float64))


@pytest.mark.parametrize("freeze_scale", [False, True])
def test_prototypes_of_many_chunks_equal_the_formula(monkeypatch, freeze_scale):
    monkeypatch.setitem(chunks.ELEMENTS, "cpu", 24)  # three rows of eight
    layer = heads.PrototypeLayer(8, 10, freeze_scale)
    plain = layer.weight_v.detach().clone().requires_grad_()
    if not freeze_scale:
        torch.nn.init.uniform_(layer.weight_g, 0.5, 2.0)
    length = 1.0 if freeze_scale else layer.weight_g.detach()
    weight, expected = layer.weight(), length * plain / plain.norm(dim=1, keepdim=True)
    torch.testing.assert_close(weight, expected)
    direction = torch.randn_like(weight)
    (weight * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(layer.weight_v.grad, plain.grad)
    torch.testing.assert_close(layer.weight(torch.bfloat16), expected.to(torch.bfloat16))


def test_impossible_settings_name_field_and_value():
    with pytest.raises(UserError, match=r"heads\.layers is 0; it must be from 1"):
        heads.Config(prototypes=8, layers=0)


def test_a_projector_has_no_prototypes_and_dino_says_so():
    from foundation.objectives import dino
    from foundation.schedules import Clock
    from tests.objectives.contexts import context

    config = heads.Config(prototypes=None, hidden=8, bottleneck=4, layers=2, norm="batch", activation="relu")
    head = config.build(6)
    assert config.outputs == 4 and isinstance(head, heads.Projector) and head(torch.randn(3, 5, 6)).shape == (3, 5, 4)
    with pytest.raises(UserError, match=r"heads\.cls\.prototypes"):
        dino.Config().build(context(Clock(10, 1.0), {"cls": config}, 6))
    with pytest.raises(UserError, match="'gelu' or 'relu'"):
        heads.Config(prototypes=4, activation="tanh")


@pytest.mark.parametrize("prototypes", [None, 16])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_no_token_gives_no_score(prototypes, norm):
    """A process of a run may have no masked token, and a head of its own for them."""
    head = heads.Config(prototypes=prototypes, hidden=8, bottleneck=8, norm=norm).build(4)
    tokens = torch.zeros(0, 4, requires_grad=True)
    scores = head(tokens)
    assert scores.shape == (0, prototypes or 8)
    scores.sum().backward()
    assert all(torch.isfinite(buffer).all() for buffer in head.buffers())
