"""Patches that no objective asks for: the last block leaves them out, and nothing else changes."""

from __future__ import annotations

import contextlib

import pytest
import torch

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.engine.branch import Branch
from foundation.modalities.image import tokenizer
from foundation.objectives.base import Request
from foundation.types import Batch, TokenMask, View

ROTARY = PositionConfig(kind="rotary")


def lively(**changes) -> vit.Encoder:
    """An encoder whose every parameter matters."""
    torch.manual_seed(0)
    shape = {"preset": None, "width": 32, "depth": 3, "heads": 2, "size": (32, 32), "registers": 2}
    encoder = vit.Config(tokenizer=tokenizer.Config(patch_size=4), **(shape | changes)).build()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return encoder


@contextlib.contextmanager
def first_rows():
    """Drop path keeps the first rows: the order in which views draw must not matter to a comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
        yield


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_scale": 0.5},
        {"drop_path": 0.4, "position": ROTARY},
        {"separate_class_norm": True, "zero_key_bias": True},
        {"qkv_bias": False, "ffn": "swiglu", "drop_path": 0.4, "layer_scale": 0.5},
    ],
)
@pytest.mark.parametrize("packing", ["always", "never"])
@pytest.mark.parametrize("autocast", [False, True])
def test_patches_that_nobody_wants_change_nothing_else(settings, packing, autocast):
    encoder = lively(packing=packing, **settings).train()
    views = [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 16, 8)]
    results = []
    for whole in (None, [True, False, False]):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), first_rows():
            features = encoder(views, whole=whole)
        sum(f.cls.float().square().sum() + f.registers.float().sin().sum() for f in features).backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        results.append((features, gradients))
    (full, expected), (short, gradients) = results
    assert [f.patches.shape[1] for f in short] == [16, 0, 0]
    near = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(short[0].patches, full[0].patches, **near)
    for a, b in zip(short, full, strict=True):
        torch.testing.assert_close((a.cls, a.registers), (b.cls, b.registers), **near)
    for name, gradient in gradients.items():
        scale = expected[name].abs().max() + 1e-3
        torch.testing.assert_close(gradient / scale, expected[name] / scale, **near)


def test_a_tapped_last_block_computes_all_tokens():
    encoder = lively().eval()
    view = torch.randn(2, 3, 16, 16)
    (full,) = encoder([view], taps=["block.2"])
    (short,) = encoder([view], taps=["block.2"], whole=[False])
    torch.testing.assert_close(short.taps["block.2"], full.taps["block.2"])


def test_a_branch_leaves_out_what_no_request_needs():
    seen = []

    class Watched(vit.Encoder):
        def forward(self, *arguments, whole=None, **keywords):
            seen.append(whole)
            return super().forward(*arguments, whole=whole, **keywords)

    encoder = Watched(lively().config)
    views = {
        name: View(torch.randn(2, 3, size, size), "image", name, 1, torch.arange(2), torch.zeros(2, 2, 3))
        for name, size in (("global", 16), ("local", 8))
    }
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 3] = True
    masks = {"global": TokenMask(hidden, hidden.flatten().nonzero().flatten(), torch.ones(2))}
    batch = Batch(views, masks, ("a", "b"), torch.zeros(2), 0, 2)
    branch = Branch(encoder, {})
    cls = [Request("student", view, "cls") for view in views]
    assert set(branch(batch, [*cls, Request("student", "global", "masked")])) == {
        *cls,
        Request("student", "global", "masked"),
    }
    branch(batch, cls)
    assert seen == [[True, False], [False, False]]
