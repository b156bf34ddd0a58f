"""What every encoder of ours keeps to: inputs of one pass, padding that nobody sees, taps that are results."""

from __future__ import annotations

import pytest
import torch

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.encoders.protocol import Capabilities, EncoderInput, EncoderModule, Layered, check_hiding
from foundation.encoders.rotation import Rotation
from foundation.encoders.segments import Segment
from foundation.errors import UserError
from foundation.modalities.audio import tokenizer as audio
from foundation.modalities.image import tokenizer as image
from foundation.modalities.imu import tokenizer as imu
from foundation.modalities.points import tokenizer as points
from foundation.modalities.video import tokenizer as video
from foundation.types import Features
from tests.encoders.inputs import inputs

KINDS = {
    "image": (image.Config(patch_size=4), (16, 16), 3),
    "audio": (audio.Config(patch=(16, 4)), (16, 64), 1),
    "video": (video.Config(tubelet=2, patch_size=8), (8, 16, 16), 3),
    "imu": (imu.Config(patch=4), (64,), 6),
    "points": (points.Config(stride=8, group_size=8, widths=(8, 8, 8)), (128,), 3),
}


def small(kind: str = "image", **changes) -> tuple[vit.Encoder, torch.Tensor]:
    """An encoder of 16 tokens a row with lively weights, and two rows of input."""
    torch.manual_seed(0)
    tokenizer, size, channels = KINDS[kind]
    position = PositionConfig(kind="mlp") if kind == "points" else PositionConfig()
    config = vit.Config(**{"width": 32, "depth": 2, "heads": 2, "size": size, "tokenizer": tokenizer,
                           "position": position} | changes)  # fmt: skip
    encoder = config.build().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder, torch.randn(2, channels, *size)


def of_tokens(encoder: vit.Encoder, chosen: torch.Tensor) -> torch.Tensor:
    """Noise on the tokens that are chosen [R, N], where the tokenizer gives them."""
    noise = torch.zeros(*chosen.shape, encoder.width)
    noise[chosen] = 5.0
    return noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"class_token": False}, {"registers": 2}])
def test_padding_changes_nothing_that_is_real(kind, changes):
    encoder, view = small(kind, **changes)
    valid = torch.rand(2, 16) < 0.6
    valid[:, 0] = True
    noise = of_tokens(encoder, ~valid)
    (clean,) = encoder(inputs([view], valid=[valid]), ["attention.1"] if encoder.config.class_token else [])
    hook = encoder.tokenizer.register_forward_hook(lambda _, __, out: (out[0] + noise, *out[1:]))
    (noisy,) = encoder(inputs([view], valid=[valid]))
    (seen,) = encoder([view])
    hook.remove()
    torch.testing.assert_close(noisy.cls, clean.cls, rtol=0, atol=1e-6)
    torch.testing.assert_close(noisy.registers, clean.registers, rtol=0, atol=1e-6)
    torch.testing.assert_close(noisy.patches[valid], clean.patches[valid], rtol=0, atol=1e-6)
    assert not torch.allclose(seen.cls, clean.cls, atol=1e-2) and torch.equal(clean.valid, valid)
    if encoder.config.class_token:
        weights = clean.taps["attention.1"][..., encoder.prefix :]
        assert not weights.transpose(1, 2)[~valid].any()


@pytest.mark.parametrize("rotary", [False, True])
def test_a_padded_row_is_the_row_without_its_padding(rotary):
    encoder, view = small(**({"position": PositionConfig(kind="rotary")} if rotary else {}))
    tokens, grid, _ = encoder.embed(view)
    valid = torch.ones(2, 16, dtype=torch.bool)
    valid[0, 10:] = False  # the first row is shorter, the second is whole
    prefixes, patches, _ = encoder.trunk([tokens], encoder.segments([tokens], [grid], [valid], [None], None))
    (whole,) = encoder.segments([tokens], [grid], [None], [None], None)
    tables = None if whole.rotation is None else Rotation(whole.rotation.sin[:11], whole.rotation.cos[:11])
    for row, length, rotation in ((0, 11, tables), (1, 17, whole.rotation)):
        alone = encoder.trunk([tokens[row : row + 1, :length]], [Segment(1, length, rotation)])
        torch.testing.assert_close(prefixes[0][row], alone[0][0][0], rtol=0, atol=5e-6)
        torch.testing.assert_close(patches[0][row, : length - 1], alone[1][0][0], rtol=0, atol=5e-6)


@pytest.mark.parametrize("case", ["wanted", "none wanted", "left out", "left out, wanted", "drop path", "half"])
def test_padding_is_not_seen_on_any_road_through_the_trunk(case):
    encoder, view = small(drop_path=0.5 if case == "drop path" else 0.0)
    encoder.train(case == "drop path")
    valid = torch.ones(2, 16, dtype=torch.bool)
    valid[0, 9:], valid[1, 12:] = False, False
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 2:4] = True
    wanted = {"wanted": torch.tensor([0, 5, 27]), "none wanted": torch.empty(0, dtype=torch.int64)}
    wanted["left out, wanted"] = wanted["wanted"]
    given = EncoderInput(
        view=view,
        valid=valid,
        wanted=wanted.get(case),
        **({"mask": mask, "mode": "drop", "hidden_per_row": 2} if "left out" in case else {}),
    )
    results = []
    for scale in (0.0, 5.0, -5.0):
        noise = scale * of_tokens(encoder, ~valid)
        hook = encoder.tokenizer.register_forward_hook(lambda _, __, out, n=noise: (out[0] + n, *out[1:]))
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "half"):
            (found,) = encoder([given], generator=torch.Generator().manual_seed(1))
        hook.remove()
        patches = found.patches if given.wanted is not None else found.patches[valid]
        results.append((found.cls, patches))
    for cls, patches in results[1:]:
        torch.testing.assert_close(cls, results[0][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(patches, results[0][1], rtol=0, atol=1e-6)


def test_a_view_stands_several_times_in_one_pass_and_is_tokenized_once():
    encoder, view = small()
    masks = [None, torch.rand(2, 16) < 0.5, torch.rand(2, 16) < 0.5]
    with torch.no_grad():
        encoder.mask_token.normal_()
    calls = []
    encoder.tokenizer.register_forward_hook(lambda *_: calls.append(1))
    together = encoder([EncoderInput(view=view, mask=mask) for mask in masks], ["block.0"])
    assert len(calls) == 1
    for mask, found in zip(masks, together, strict=True):
        (alone,) = encoder([EncoderInput(view=view, mask=mask)], ["block.0"])
        torch.testing.assert_close(found.patches, alone.patches)
        torch.testing.assert_close(found.taps["block.0"], alone.taps["block.0"])
    assert not torch.allclose(together[1].cls, together[2].cls)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_taps_are_computed_once_and_change_nothing(drop_path):
    encoder, view = small(drop_path=drop_path)
    encoder.train()
    block, calls = encoder.trunk.blocks[1], []
    for name, module in (("block", block), ("norm", block.attention_norm)):
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    names = ["queries.1", "keys.1", "values.1", "attention.1", "block.1"]
    plain, tapped = (encoder([view], taps, generator=torch.Generator().manual_seed(0))[0] for taps in ([], names))
    assert calls == ["norm", "block"] * 2
    torch.testing.assert_close(plain.patches, tapped.patches)
    torch.testing.assert_close(plain.cls, tapped.cls)
    assert set(tapped.taps) == set(names) and len(tapped.taps["keys.1"]) == 2


class Plain(EncoderModule):
    """As little as an encoder may say."""

    modality, width = "image", 3

    def forward(self, inputs, taps=(), *, generator=None):
        return [Features(x.mean((2, 3)), x.new_zeros(len(x), 0, 3), x.flatten(2).transpose(1, 2)) for x in inputs]


def test_an_encoder_that_says_little_can_do_little():
    plain = Plain()
    assert plain.capabilities == Capabilities() and isinstance(plain, Layered)
    for mode, word in (
        ("token", "leave out the masking section"),
        ("drop", "leave tokens out"),
        ("input", "equal cells"),
    ):
        with pytest.raises(UserError, match=word):
            check_hiding(plain, mode)
    with pytest.raises(UserError, match=r"unknown tap 'block\.0': this encoder has none"):
        plain.check_taps(["block.0"])
    check_hiding(small()[0], "drop")
    with pytest.raises(UserError, match="equal cells of a grid"):
        check_hiding(small("points")[0], "input")
    assert small("points")[0].capabilities.cell_shape == (8, 3)
