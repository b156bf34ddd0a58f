"""Linear layers by oneDNN: the numbers and gradients of torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from foundation import linear as module
from foundation.linear import Linear, linear


@pytest.fixture
def always(monkeypatch):
    """oneDNN for products of any size on any processor that torch's build has it for."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(module, "FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(module, "onednn_is_quicker", lambda: True)


def by_onednn(result) -> bool:
    """Whether the layer that made a result is ours: the last node, or the one before the view that shapes it."""
    node = result.grad_fn
    return any("OneDnn" in n.name() for n in (node, *(before for before, _ in node.next_functions)) if n is not None)


def both(inputs, weight, bias, gradient=None):
    """Result and gradients by :func:`linear` and by torch."""
    results = []
    for function in (linear, F.linear):
        leaves = [None if x is None else x.clone().requires_grad_() for x in (inputs, weight, bias)]
        result = function(*leaves)
        (result.square() if gradient is None else result * gradient).sum().backward()
        results.append([result, *(leaf.grad for leaf in leaves if leaf is not None)])
    return results


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (0,)])
@pytest.mark.parametrize("outputs", [6, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_numbers_and_gradients_are_those_of_torch(always, shape, outputs, bias):
    torch.manual_seed(0)
    ours, theirs = both(torch.randn(*shape, 16), torch.randn(outputs, 16), torch.randn(outputs) if bias else None)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    assert by_onednn(ours[0]) == (0 not in shape) and not by_onednn(theirs[0])


def test_inputs_weights_and_gradients_in_any_order_of_memory(always):
    torch.manual_seed(0)
    inputs, weight = torch.randn(16, 9).t(), torch.randn(16, 24)[:, ::2].t()
    ours, theirs = both(inputs, weight, None, torch.ones(1).expand(9, 12))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_needs_no_gradient_gets_none(always):
    layer, inputs = Linear(8, 4), torch.randn(5, 8)
    layer(inputs).sum().backward()
    assert inputs.grad is None and layer.weight.grad is not None
    layer.requires_grad_(False)
    layer(inputs.requires_grad_()).sum().backward()
    torch.testing.assert_close(inputs.grad, layer.weight.sum(0).expand(5, 8))
    with torch.no_grad():
        assert layer(inputs).grad_fn is None


def test_other_precisions_go_the_usual_way(always):
    inputs, layer = torch.randn(5, 8), Linear(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    assert layer.double()(inputs.double()).dtype == torch.float64
    assert linear(torch.ones(2, 3, device="meta"), torch.ones(4, 3, device="meta")).shape == (2, 4)


@pytest.mark.parametrize("operator", ["as it is", "gone", "another meaning"])
def test_an_operator_that_is_gone_or_means_something_else_is_not_used(monkeypatch, tmp_path, operator):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    (tmp_path / "cpuinfo").write_text("vendor_id : AuthenticAMD\n")
    monkeypatch.setattr(module, "Path", lambda _: tmp_path / "cpuinfo")

    def gone(*_):
        raise AttributeError("no such operator")

    other = {"gone": gone, "another meaning": lambda x, w, b: x @ w.t()}
    if operator in other:
        monkeypatch.setattr(module, "_product", other[operator])
    assert module.onednn_is_quicker.__wrapped__() == (operator == "as it is")
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\n")
    assert not module.onednn_is_quicker.__wrapped__()


@pytest.mark.parametrize("bias", [torch.randn(24)[::2], torch.randn(1).expand(12), torch.randn(24)[6:18]])
def test_a_bias_in_any_order_of_memory(always, bias):
    inputs, weight = torch.randn(9, 16), torch.randn(12, 16)
    assert by_onednn(linear(inputs, weight.requires_grad_(), bias))
    torch.testing.assert_close(linear(inputs, weight, bias), F.linear(inputs, weight, bias), rtol=1e-5, atol=1e-5)


def test_a_gradient_is_differentiated_again(always):
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((9, 16), (12, 16), (12,))]
    results = []
    for function in (linear, F.linear):
        first = torch.autograd.grad(function(*leaves).tanh().square().sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # torch.jit is on its way out, and says so
def test_forms_and_transforms_that_only_torch_has(always):
    layer, inputs = Linear(8, 4), torch.randn(5, 8)
    torch.testing.assert_close(layer(inputs[0]), layer(inputs)[0])  # [I] -> [O]
    assert Linear(0, 4)(torch.ones(3, 0)).shape == (3, 4) and Linear(8, 0)(inputs).shape == (5, 0)
    torch.testing.assert_close(torch.func.grad(lambda x: layer(x).sum())(inputs), layer.weight.sum(0).expand(5, 8))
    torch.testing.assert_close(torch.func.vmap(layer)(inputs), layer(inputs))
    torch.testing.assert_close(torch.jit.trace(layer, inputs)(inputs), layer(inputs))
    exported = torch.export.export(layer, (inputs,))
    assert not any("mkldnn" in str(node.target) or "autograd" in str(node.target) for node in exported.graph.nodes)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.ones(5, 7))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not by_onednn(layer(inputs))
    assert by_onednn(layer(inputs))


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")  # of a function that remembers its result, on purpose
def test_a_compiled_layer_stays_one_graph(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_PRODUCTS", 1)
    layer, inputs = Linear(8, 4), torch.randn(5, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    compiled(inputs).sum().backward()
    torch.testing.assert_close(layer.weight.grad, inputs.sum(0).expand(4, 8))
    torch.testing.assert_close(compiled(inputs), F.linear(inputs, layer.weight, layer.bias))
