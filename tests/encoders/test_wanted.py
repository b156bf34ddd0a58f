"""Patches that no objective reads: the last block leaves them out, and nothing else changes."""

from __future__ import annotations

import contextlib

import pytest
import torch

from foundation.branches.base import EncoderBranch
from foundation.branches.request import Request
from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.masks.rule import token_mask
from foundation.modalities.image import tokenizer
from foundation.types import Batch, View
from tests.encoders.inputs import inputs

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
        {"class_token": False, "registers": 0},
        {"depth": 1, "registers": 0, "norm": "rmsnorm"},
    ],
)
@pytest.mark.parametrize("packing", ["always", "never"])
@pytest.mark.parametrize("autocast", [False, True])
def test_patches_that_nobody_wants_change_nothing_else(settings, packing, autocast):
    encoder = lively(packing=packing, **settings).train()
    views = [torch.randn(2, 3, 16, 16), torch.randn(3, 3, 16, 16), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 16, 8)]
    places = [None, torch.tensor([3, 0, 17, 16, 15]), torch.empty(0, dtype=torch.int64), torch.tensor([15])]
    results = []
    for wanted in (None, places):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), first_rows():
            features = encoder(inputs(views, wanted=wanted))
        patches = [features[0].patches.flatten(0, 1)]
        for found, chosen in zip(features[1:], places[1:], strict=True):
            patches.append(found.patches if wanted else found.patches.flatten(0, 1)[chosen])
        loss = sum(f.cls.float().square().sum() + f.registers.float().sin().sum() for f in features)
        (loss + sum(patch.float().square().sum() for patch in patches)).backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
        results.append((features, patches, gradients))
    (full, expected_patches, expected), (short, patches, gradients) = results
    assert short[0].patches.shape == (2, 16, 32)
    assert [f.patches.shape for f in short[1:]] == [(5, 32), (0, 32), (1, 32)]
    near = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(patches, expected_patches, **near)
    for a, b in zip(short, full, strict=True):
        torch.testing.assert_close((a.cls, a.registers), (b.cls, b.registers), **near)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = expected[name].abs().max() + 1e-3
        torch.testing.assert_close(gradient / scale, expected[name] / scale, **near)


def test_the_last_block_computes_wanted_tokens_only():
    encoder = lively(registers=1).eval()
    rows = []
    encoder.trunk.blocks[-1].ffn.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    view = torch.randn(2, 3, 16, 16)
    for wanted in (None, torch.tensor([1, 2, 30]), torch.empty(0, dtype=torch.int64)):
        encoder(inputs([view], wanted=[wanted]))
    assert rows == [2 * 18, 2 * 2 + 3, 2 * 2]


def test_a_tapped_last_block_computes_all_tokens():
    encoder = lively().eval()
    view, places = torch.randn(2, 3, 16, 16), torch.tensor([5, 20])
    (full,) = encoder([view], taps=["block.2"])
    (short,) = encoder(inputs([view], wanted=[places]), ["block.2"])
    torch.testing.assert_close(short.taps["block.2"], full.taps["block.2"])
    torch.testing.assert_close(short.patches, full.patches.flatten(0, 1)[places])


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_views_without_rows(drop_path):
    encoder = lively(drop_path=drop_path, packing="always").train()
    none = torch.empty(0, dtype=torch.int64)
    views = [torch.randn(0, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.randn(0, 3, 8, 8)]
    for wanted in ([none, torch.tensor([4, 17]), none], [None, none, none]):
        features = encoder(inputs(views, wanted=wanted))
        assert [len(f.cls) for f in features] == [0, 2, 0]
        assert features[1].cls.isfinite().all()


def test_wanted_patches_where_hidden_ones_are_left_out():
    encoder = lively().eval()
    view, mask = torch.randn(2, 3, 16, 16), torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 4:] = True
    places = torch.tensor([1, 6, 16, 31])  # seen and hidden ones
    (full,) = encoder(inputs([view], [mask], drop=[12]))
    for chosen in (places, places[:0]):
        (short,) = encoder(inputs([view], [mask], drop=[12], wanted=[chosen]))
        torch.testing.assert_close(short.patches, full.patches.flatten(0, 1)[chosen])
        torch.testing.assert_close(short.cls, full.cls)


def test_a_branch_leaves_out_what_no_request_needs():
    seen = []

    class Watched(vit.Encoder):
        def forward(self, given, *arguments, **keywords):
            seen.append([None if one.wanted is None else one.wanted.tolist() for one in given])
            return super().forward(given, *arguments, **keywords)

    encoder = Watched(lively().config)
    views = {
        name: View(torch.randn(2, 3, size, size), "image", name, 1, torch.arange(2), torch.zeros(2, 2, 3))
        for name, size in (("global", 16), ("local", 8))
    }
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 3] = True
    masks = {("global", "masking"): token_mask(hidden.numpy())}
    batch = Batch(views, masks, ("a", "b"), torch.zeros(2), 0, 2)
    branch = EncoderBranch(encoder, {}, {})
    cls = [Request("student", "global", "cls", mask="masking"), Request("student", "local", "cls")]
    masked, patches = (Request("student", "global", token, mask="masking") for token in ("masked", "patches"))
    some = branch(batch, [*cls, masked])
    assert set(some) == {*cls, masked}
    everything = branch(batch, [*cls, masked, patches])
    branch(batch, cls)
    assert seen == [[[3, 19], []], [None, []], [[], []]]
    torch.testing.assert_close(some[masked], everything[masked])
    torch.testing.assert_close(some[masked], everything[patches][:, 3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_drop_path_keeps_the_precision_of_the_weights(dtype):
    encoder = lively(drop_path=0.4).to(dtype).train()
    (found,) = encoder(inputs([torch.randn(3, 3, 16, 16, dtype=dtype)], wanted=[torch.tensor([1, 20])]))
    found.patches.sum().backward()
    assert found.patches.dtype == found.cls.dtype == dtype and encoder.cls_token.grad.isfinite().all()
