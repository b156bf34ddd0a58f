"""The encoder as a whole: packing, masks, drop path, sizes, taps, presets."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch

from foundation.config import from_plain, to_plain
from foundation.encoders import vit
from foundation.encoders.attention import attend, choose_backend
from foundation.encoders.blocks import keep_rows
from foundation.encoders.positions import PositionConfig, RotaryPositions
from foundation.encoders.presets import PRESETS
from foundation.encoders.protocol import EncoderInput
from foundation.encoders.segments import Segment, merge
from foundation.encoders.trunk import drop_path_rates
from foundation.errors import UserError
from foundation.modalities.image import tokenizer
from tests.encoders.inputs import inputs

ROTARY = PositionConfig(kind="rotary")


def small(**changes) -> vit.Config:
    defaults = dict(
        packing="always",
        preset=None,
        width=32,
        depth=3,
        heads=2,
        tokenizer=tokenizer.Config(patch_size=4),
        size=(32, 32),
        registers=2,
    )
    return vit.Config(**(defaults | changes))


def lively(config: vit.Config) -> vit.Encoder:
    """An encoder whose every parameter matters (a mask token of zeros or a small layer scale would hide mistakes)."""
    torch.manual_seed(0)
    encoder = config.build()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return encoder


@pytest.mark.parametrize("position", [PositionConfig(), ROTARY, PositionConfig(kind="none")])
def test_a_packed_call_equals_separate_calls(position):
    encoder = lively(small(position=position, layer_scale=0.5)).eval()
    views = [torch.randn(3, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.randn(5, 3, 16, 24), torch.randn(2, 3, 24, 16)]
    masks = [torch.rand(3, 64) < 0.4, None, torch.rand(5, 24) < 0.4, None]
    taps = ("block.0", "keys.1", "attention.2")
    together = encoder(inputs(views, masks), taps)
    for view, mask, packed in zip(views, masks, together, strict=True):
        alone = encoder(inputs([view], [mask]), taps)[0]
        for name in ("cls", "registers", "patches"):
            torch.testing.assert_close(getattr(packed, name), getattr(alone, name), rtol=1e-5, atol=1e-5)
        assert set(packed.taps) == set(taps)
        for tap in taps:
            torch.testing.assert_close(packed.taps[tap], alone.taps[tap], rtol=1e-5, atol=1e-5)


def test_packed_gradients_equal_separate_gradients():
    encoder = lively(small())
    views = [torch.randn(3, 3, 32, 32), torch.randn(4, 3, 16, 16)]
    sum(f.cls.square().sum() + f.patches.square().sum() for f in encoder(views)).backward()
    packed = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    for view in views:
        f = encoder([view])[0]
        (f.cls.square().sum() + f.patches.square().sum()).backward()
    separate = [p.grad for p in encoder.parameters() if p.grad is not None]
    for a, b in zip(packed, separate, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_packing_follows_its_setting():
    views = [torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16)]
    passes = {}
    for packing, batch in (("always", 2), ("never", 2), ("auto", 2), ("auto", 150)):
        encoder = small(packing=packing).build().eval()
        count = []
        encoder.trunk.register_forward_hook(lambda *_, count=count: count.append(1))
        with torch.no_grad():
            assert len(encoder([view[:1].expand(batch, -1, -1, -1) for view in views])) == 2
        passes[packing, batch] = len(count)
    assert passes == {("always", 2): 1, ("never", 2): 2, ("auto", 2): 1, ("auto", 150): 2}


def test_rows_do_not_influence_each_other():
    encoder = lively(small()).eval()
    view = torch.randn(4, 3, 32, 32)
    changed = view.clone()
    changed[2] += 1
    before, after = encoder([view])[0], encoder([changed])[0]
    assert torch.equal(before.cls[[0, 1, 3]], after.cls[[0, 1, 3]])
    assert not torch.allclose(before.cls[2], after.cls[2])


def test_hidden_patches_do_not_leak():
    encoder = lively(small()).eval()
    view, mask = torch.randn(2, 3, 32, 32), torch.zeros(2, 64, dtype=torch.bool)
    mask[:, [0, 9, 63]] = True
    changed = view.clone()
    changed[:, :, :4, :4] = 100.0
    changed[:, :, 4:8, 4:8] = -100.0
    changed[:, :, 28:, 28:] = 7.0
    hidden, also_hidden = (encoder(inputs([one], [mask]))[0] for one in (view, changed))
    for name in ("cls", "registers", "patches"):
        assert torch.equal(getattr(hidden, name), getattr(also_hidden, name))
    assert not torch.allclose(encoder([view])[0].cls, encoder([changed])[0].cls)


@pytest.mark.parametrize("position", [PositionConfig(offset=0.1), PositionConfig(antialias=True), ROTARY])
def test_any_resolution_and_patch_size(position):
    for patch in (1, 4, 7):
        encoder = small(
            tokenizer=tokenizer.Config(patch_size=patch), position=position, size=(4 * patch, 4 * patch)
        ).build()
        for rows, columns in ((1, 1), (2, 9), (5, 3)):
            features = encoder([torch.randn(2, 3, rows * patch, columns * patch)])[0]
            assert features.patches.shape == (2, rows * columns, 32)
            assert features.registers.shape == (2, 2, 32)
            assert torch.isfinite(features.cls).all()


def test_rotary_tables_are_kept_and_prefix_tokens_stay():
    rotary = RotaryPositions(16, 3, ROTARY)
    tables = rotary((4, 5), torch.device("cpu"))
    assert rotary((4, 5), torch.device("cpu")) is tables
    queries = torch.randn(2, 23, 2, 16)
    turned = tables(queries)
    assert torch.equal(turned[:, :3], queries[:, :3])
    torch.testing.assert_close(turned.norm(dim=-1), queries.norm(dim=-1))


def test_rotary_augmentation_follows_its_generator_and_training_only():
    encoder = lively(small(position=PositionConfig(kind="rotary", shift=0.2, jitter=1.5, rescale=2.0)))
    view = [torch.randn(2, 3, 16, 16)]
    first, again, other = (encoder(view, generator=torch.Generator().manual_seed(s))[0].cls for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    encoder.eval()
    assert torch.equal(encoder(view)[0].cls, encoder(view)[0].cls)
    rotary = encoder.positions
    for _ in range(50):
        shift, jitter, rescale = rotary.draw(torch.device("cpu"))
        assert shift.shape == jitter.shape == (2,) and rescale.shape == (1,)
        assert shift.abs().max() <= 0.2
        assert jitter.min() >= 1 / 1.5 and jitter.max() <= 1.5
        assert 0.5 <= rescale.item() <= 2


def test_rotary_augmentation_can_be_drawn_in_each_block():
    calls = []
    for redraw in ("forward", "block"):
        encoder = small(position=PositionConfig(kind="rotary", rescale=2.0, redraw=redraw)).build()
        count = [0]
        encoder.positions.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        encoder([torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)])
        calls.append(count[0])
    assert calls == [2, 6]


def test_drop_path_keeps_the_right_rows():
    generator = torch.Generator().manual_seed(0)
    segments = [Segment(10, 3), Segment(1, 5), Segment(4, 2)]
    seen = torch.zeros(10)
    for _ in range(400):
        kept = keep_rows(segments, 0.35, torch.device("cpu"), generator)
        assert [s.rows for s in kept.segments] == [6, 1, 2]
        assert kept.factors == [10 / 6, 1.0, 2.0]
        assert kept.index.numel() == 6 * 3 + 5 + 2 * 2
        first = kept.index[:18].view(6, 3)
        assert torch.equal(first % 3, torch.arange(3).expand(6, 3))
        assert torch.equal(kept.index[18:23], torch.arange(30, 35))
        assert first[:, 0].unique().numel() == 6
        seen[first[:, 0] // 3] += 1
    assert (seen / 400 - 0.6).abs().max() < 0.1


def test_drop_path_expectation_is_the_full_residual():
    encoder = lively(small(depth=1, drop_path=0.5, registers=0))
    with torch.no_grad():
        # Without a feed-forward part the residual is linear in the kept rows, and its mean is exact.
        encoder.trunk.blocks[0].ffn.out.weight.zero_()
        encoder.trunk.blocks[0].ffn.out.bias.zero_()
        views = [torch.randn(4, 3, 8, 8), torch.randn(6, 3, 4, 4)]
        rows = [encoder.embed(view)[0] for view in views]
        segments = [Segment(r.shape[0], r.shape[1]) for r in rows]
        tokens = torch.cat([r.flatten(0, 1) for r in rows])
        block = encoder.trunk.blocks[0]
        mean = torch.stack([block(tokens, segments) for _ in range(2000)]).mean(0)
        full = block.eval()(tokens, segments)
    assert (mean - full).abs().max() < 0.1 * (full - tokens).abs().max()


def test_drop_path_is_off_in_evaluation_and_reproducible():
    encoder = lively(small(drop_path=0.5))
    view = [torch.randn(8, 3, 16, 16)]
    draws = [encoder(view, generator=torch.Generator().manual_seed(s))[0].cls for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    encoder.eval()
    assert torch.equal(encoder(view)[0].cls, encoder(view)[0].cls)
    assert drop_path_rates(0.3, 4, "uniform") == [0.3] * 4
    assert drop_path_rates(0.3, 4, "linear") == pytest.approx([0, 0.1, 0.2, 0.3])


def test_taps():
    encoder = lively(small()).eval()
    view = [torch.randn(2, 3, 16, 16)]
    taps = encoder(view, taps=["block.2", "queries.0", "keys.0", "values.1", "attention.0", "attention.2"])[0].taps
    assert taps["block.2"].shape == taps["keys.0"].shape == (2, 1 + 2 + 16, 32)
    assert taps["attention.2"].shape == (2, 2, 19)
    torch.testing.assert_close(taps["attention.2"].sum(-1), torch.ones(2, 2))
    query, key = (taps[f"{kind}.0"].unflatten(-1, (2, 16)) for kind in ("queries", "keys"))
    by_hand = torch.einsum("rhd,rthd->rht", query[:, 0], key).div(4).softmax(-1)
    torch.testing.assert_close(taps["attention.0"], by_hand)
    torch.testing.assert_close(encoder.trunk.norm(taps["block.2"])[:, 0], encoder(view)[0].cls)
    with pytest.raises(UserError, match=r"unknown tap 'block\.3', 'nonsense': .*block\.0 to block\.2.*attention\.0"):
        encoder.check_taps(["block.1", "block.3", "nonsense"])


# Published counts of backbones without a head: patch 16 at 224 pixels; giant: DINOv2, patch 14 at 518.
COUNTS = {"tiny": 5_524_416, "small": 21_665_664, "base": 85_798_656, "large": 303_301_632}


@pytest.mark.parametrize("preset", COUNTS)
def test_parameter_counts_of_presets(preset):
    with torch.device("meta"):
        encoder = vit.Config(preset=preset).build()
    assert sum(p.numel() for p in encoder.parameters()) - encoder.mask_token.numel() == COUNTS[preset]


def test_a_preset_that_changes_nothing_is_said():
    given = {"width": 192, "depth": 3, "heads": 3}
    with pytest.warns(UserWarning, match=r"encoder\.preset 'base' changes nothing"):
        assert vit.Config(preset="base", **given).shape.width == 192
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vit.Config(**given).shape.width == 192 and vit.Config(preset="base", depth=3).shape.depth == 3
    assert vit.Config().shape == PRESETS["small"]
    with pytest.raises(UserError, match=r"encoder\.heads is missing"):
        vit.Config(width=192, depth=3)


def test_parameter_count_of_giant():
    config = vit.Config(
        preset="giant", tokenizer=tokenizer.Config(patch_size=14), size=(518, 518), layer_scale=1e-5, token_std=1e-6
    )
    with torch.device("meta"):
        encoder = config.build()
    assert encoder.trunk.shape.hidden == 4096
    assert sum(p.numel() for p in encoder.parameters()) == 1_136_480_768  # the published file has a mask token too


def test_preset_shapes_can_be_overridden_and_are_required_without_preset():
    shape = vit.Config(preset="nano", depth=2, ffn="swiglu").shape
    assert (shape.width, shape.depth, shape.heads, shape.ffn) == (128, 2, 4, "swiglu")
    with pytest.raises(UserError, match=r"encoder\.heads is missing"):
        vit.Config(preset=None, width=32, depth=2)


def test_config_survives_the_card():
    config = small(
        tokenizer=tokenizer.Config(patch_size=8, stem="conv"),
        position=PositionConfig(kind="rotary", base=None, min_period=0.5, max_period=90.0, rescale=2.0),
        layer_scale=1e-5,
    )
    assert from_plain(vit.Config, to_plain(config)) == config
    assert from_plain(vit.Config, dataclasses.asdict(config)) == config
    assert to_plain(config)["tokenizer"]["name"] == "image"
    assert config.build().modality == config.modality == "image"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(heads=5), "encoder.width 32 is not a multiple of encoder.heads 5"),
        (dict(size=(30, 32)), "30x32 is not a multiple of the patch size 4: the nearest .* 28x32 or 32x32"),
        (dict(drop_path=1.0), "encoder.drop_path is 1; it must be at least 0 and below 1"),
        (dict(registers=-1), "encoder.registers is -1"),
        (dict(tokenizer={"patch_size": 4}), "encoder.tokenizer is .* must be the Config"),
        (dict(width=36, heads=6, position=ROTARY), "multiple of 4"),
        (dict(depth=0), "encoder.depth is 0"),
    ],
)
def test_impossible_settings_say_what_would_be_right(change, message):
    with pytest.raises(UserError, match=message):
        small(**change)


def test_wrong_inputs_say_what_is_wrong():
    encoder = small().build()
    with pytest.raises(UserError, match=r"mask is \[2, 9\].*\[2, 16\]"):
        encoder(inputs([torch.randn(2, 3, 16, 16)], [torch.zeros(2, 9, dtype=torch.bool)]))
    with pytest.raises(UserError, match=r"valid is \[2, 9\].*\[2, 16\]"):
        encoder(inputs([torch.randn(2, 3, 16, 16)], valid=[torch.ones(2, 9, dtype=torch.bool)]))
    with pytest.raises(UserError, match="'drop' needs hidden_per_row"):
        EncoderInput(view=torch.randn(2, 3, 16, 16), mask=torch.zeros(2, 16, dtype=torch.bool), mode="drop")
    with pytest.raises(UserError, match="image resolution 17x16 is not a multiple of the patch size 4"):
        encoder([torch.randn(2, 3, 17, 16)])


def test_layers_for_learning_rate_decay():
    encoder = small(separate_class_norm=True, layer_scale=0.1).build()
    layers = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    zero = {name for name, layer in layers.items() if layer == 0}
    assert zero == {
        "cls_token", "mask_token", "register_tokens", "positions.table",
        "tokenizer.projection.weight", "tokenizer.projection.bias",
    }  # fmt: skip
    assert layers["trunk.blocks.0.attention.qkv.weight"] == 1
    assert layers["trunk.blocks.2.ffn_scale"] == 3
    assert layers["trunk.norm.weight"] == layers["trunk.class_norm.bias"] == 4


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_flops_agree_with_torchs_own_count(stem, ffn):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = small(tokenizer=tokenizer.Config(patch_size=8, stem=stem), ffn=ffn)
    encoder = config.build().eval().requires_grad_(False)
    views = [torch.randn(2, 3, 32, 32), torch.randn(3, 3, 16, 24)]
    # Written out: the counter of torch 2.11 does not know the fused kernel of a CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        encoder(views)
    assert encoder.flops([tuple(v.shape) for v in views]) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_autocast_is_finite_and_keeps_a_float32_stream():
    encoder = lively(small(position=ROTARY, layer_scale=0.5, drop_path=0.3))
    views = [torch.randn(4, 3, 16, 16), torch.randn(4, 3, 8, 8)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(inputs(views, [torch.rand(4, 16) < 0.5, None]), ["block.1"])
        loss = sum(f.cls.float().square().mean() + f.patches.float().mean() for f in features)
    loss.backward()
    assert features[0].taps["block.1"].dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
    encoder.eval()
    exact = encoder(views)[0].cls
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(views)[0].cls
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("position", [PositionConfig(), ROTARY])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_meta_build_then_reset_gives_a_sound_encoder(position, stem):
    config = small(position=position, layer_scale=1e-5, tokenizer=tokenizer.Config(patch_size=4, stem=stem))
    with torch.device("meta"):
        encoder = config.build()
    encoder.to_empty(device="cpu")
    for parameter in encoder.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    encoder.reset_parameters()
    assert all(torch.isfinite(p).all() for p in encoder.parameters())
    assert torch.isfinite(encoder([torch.randn(1, 3, 16, 16)])[0].patches).all()
    weight = encoder.trunk.blocks[1].attention.qkv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_copy_serves_as_teacher():
    encoder = lively(small())
    encoder([torch.randn(1, 3, 16, 24)])  # fills the caches
    teacher = copy.deepcopy(encoder).eval()
    view = [torch.randn(2, 3, 16, 24)]
    torch.testing.assert_close(teacher(view)[0].cls, encoder.eval()(view)[0].cls)


def test_neighbours_of_equal_length_share_one_attention_call():
    segments = [Segment(2, 5), Segment(3, 5), Segment(4, 2)]
    assert [(s.rows, s.tokens) for s in merge(segments)] == [(5, 5), (4, 2)]


def test_asking_for_xformers_without_a_gpu_says_so():
    with pytest.raises(UserError, match="xformers needs a CUDA GPU"):
        small(attention="xformers").build()([torch.randn(1, 3, 16, 16)])
    assert choose_backend("auto", torch.device("cpu")) == "sdpa"


def test_asking_for_a_missing_xformers_names_the_extra(monkeypatch):
    from foundation.encoders import packed_attention

    monkeypatch.setattr(packed_attention, "xformers", lambda: (None, "it is not installed"))
    with pytest.raises(UserError, match=r"foundation-pretrain\[gpu\]"):
        choose_backend("xformers", torch.device("cuda"))
    assert choose_backend("auto", torch.device("cuda")) == "sdpa"


@pytest.mark.gpu
def test_backends_agree_on_a_gpu():
    encoder = lively(small(position=ROTARY, depth=2)).eval().cuda()
    views = [torch.randn(3, 3, 32, 32, device="cuda"), torch.randn(5, 3, 16, 16, device="cuda")]
    results = []
    for backend in ("sdpa", "xformers"):
        for block in encoder.trunk.blocks:
            block.attention.backend = backend
        try:
            results.append(encoder(views)[1].patches)
        except UserError as error:
            pytest.skip(str(error))
    torch.testing.assert_close(*results, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rows", [0, 3])
def test_packed_half_precision_attention_is_the_formula_and_gives_its_gradients(rows):
    tokens, heads, width = 17, 2, 8
    qkv = torch.randn(rows * tokens, 3 * heads * width, dtype=torch.bfloat16, requires_grad=True)
    mixed = attend(qkv, [Segment(rows, tokens)], heads)
    direction = torch.randn_like(mixed)
    (gradient,) = torch.autograd.grad(mixed, qkv, direction)
    plain = qkv.detach().double().requires_grad_()
    query, key, value = plain.view(rows, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-1, -2) * width**-0.5).softmax(-1)
    expected = (weights @ value).transpose(1, 2).reshape(rows * tokens, heads * width)
    (wanted,) = torch.autograd.grad(expected, plain, direction.double())
    torch.testing.assert_close(mixed.double(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(gradient.double(), wanted, rtol=0.03, atol=0.03)
