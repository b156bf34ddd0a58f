"""Patches and frames; an encoder of each computes what the ATST references computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.audio.tokenizer import Config
from tests.encoders.inputs import inputs
from tests.encoders.reference_names import our_name


def test_patches_and_frames():
    patches, frames = Config(patch=(16, 16)), Config(patch=(64, 4))
    assert patches.grid((128, 592)) == (8, 37) and frames.grid((64, 1001)) == (1, 250)
    assert patches.coordinates((32, 48)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    tokens, grid, valid = frames.build(8)(torch.randn(2, 1, 64, 21))
    assert tokens.shape == (2, 5, 8) and grid == (1, 5) and valid is None


def test_patch_projection_is_the_strided_convolution():
    tokenizer = Config(patch=(4, 2)).build(8)
    view = torch.randn(2, 1, 8, 7)
    expected = tokenizer.projection(view).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokenizer(view)[0], expected)
    conv = Config(patch=(8, 8), stem="conv").build(16)
    assert conv(torch.randn(2, 1, 32, 67))[0].shape == (2, 4 * 8, 16)
    assert tokenizer.flops(10) == 2 * 10 * 8 * 8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Config(patch=(16,)), "bands and frames"),  # type: ignore[arg-type]
        (lambda: Config(patch=(0, 4)), "bands and frames"),
        (lambda: Config(patch=(64, 4), stem="conv"), "square"),
        (lambda: Config(patch=(12, 4)).grid((64, 40)), r"tokenizer.patch: \[16, 4\]|tokenizer.patch: \[8, 4\]"),
        (lambda: Config(patch=(16, 16)).grid((64, 10)), "shorter than one token"),
        (lambda: Config().build(8)(torch.randn(2, 3, 64, 64)), r"\[rows, 1, mels, frames\]"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


def reference(data, kind: str) -> vit.Encoder:
    """Our encoder with the weights of the golden file; a longer table of positions than the recording needs."""
    encoder = vit.Config(
        preset=None,
        width=32,
        depth=2,
        heads=4,
        size=(64, 120),
        qkv_bias=False,
        class_token=kind == "clip",
        tokenizer=Config(patch=(64, 4)),
        position=PositionConfig(fit="cut"),
    ).build()
    prefix = f"param/{kind}/"
    weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in data.items() if k.startswith(prefix)}
    ours = {}
    for name, value in weights.items():
        if name == "mask_embed":
            ours["mask_token"] = value[0]
        elif name.startswith("patch_embed"):
            last = name.rpartition(".")[2]
            ours[f"tokenizer.projection.{last}"] = value.view(32, 1, 64, 4) if last == "weight" else value
        else:
            ours[our_name(name.replace("norm_frame", "norm"))] = value
    encoder.load_state_dict(ours, strict=True)
    return encoder.eval()


def test_clip_encoder_of_atst(golden):
    data = golden("10_atst_encoders")
    encoder = reference(data, "clip")
    for row, frames in enumerate(data["input/length_frames"].tolist()):
        spectrogram = torch.from_numpy(data["input/melspec"][row : row + 1]).requires_grad_()
        features = encoder([spectrogram[..., :frames]])[0]
        expected = torch.from_numpy(data["output/clip/last_layer_normed_tokens"][row])
        torch.testing.assert_close(features.cls[0], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(features.patches[0], expected[1 : 1 + frames // 4], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            features.cls[0], torch.from_numpy(data["output/clip/cls"][row]), atol=1e-5, rtol=1e-5
        )
        (features.cls[0] * torch.from_numpy(data["input/cotangent_clip"][row])).sum().backward()
        gradient = torch.from_numpy(data["grad/clip/melspec"][row])
        used = 4 * (frames // 4)
        torch.testing.assert_close(spectrogram.grad[0, ..., :used], gradient[..., :used], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("branch", "hide"), [("student_masked_input", True), ("teacher_unmasked_input", False)])
def test_frame_encoder_of_atst(golden, branch, hide):
    data = golden("10_atst_encoders")
    encoder, outputs = reference(data, "frame"), []
    masks = torch.from_numpy(data["input/frame_mask"])
    for row, frames in enumerate(data["input/length_frames"].tolist()):
        count = frames // 4
        mask = masks[row : row + 1, :count]
        view = torch.from_numpy(data["input/melspec"][row : row + 1, ..., :frames])
        features = encoder(inputs([view], [mask if hide else None]))[0]
        outputs.append(features.patches[0][mask[0]])
        scene = torch.from_numpy(data["output/frame/scene_embedding_last1"][row])
        if not hide:
            torch.testing.assert_close(features.cls[0], scene, atol=1e-5, rtol=1e-4)  # the mean of the frames
            whole = torch.from_numpy(data["output/frame/frame_embedding_last1"][row, :count])
            torch.testing.assert_close(features.patches[0], whole, atol=1e-5, rtol=1e-5)
    expected = torch.from_numpy(data[f"output/frame/{branch}"])
    torch.testing.assert_close(torch.cat(outputs), expected, atol=1e-5, rtol=1e-5)


def test_without_a_class_token_the_mean_stands_in_and_nobody_attends(golden):
    encoder = reference(golden("10_atst_encoders"), "frame")
    assert "attention.0" not in encoder.tap_names() and "keys.1" in encoder.tap_names()
    with pytest.raises(UserError, match=r"unknown tap 'attention.0': this encoder has block\.0"):
        encoder([torch.zeros(1, 1, 64, 40)], taps=["attention.0"])
    features = encoder([torch.randn(2, 1, 64, 40)], taps=["block.0"])[0]
    torch.testing.assert_close(features.cls, features.patches.mean(1))
    assert features.taps["block.0"].shape == (2, 10, 32) and features.registers.shape == (2, 0, 32)


def test_positions_are_cut_and_not_stretched():
    encoder = vit.Config(
        preset=None,
        width=8,
        depth=1,
        heads=2,
        size=(64, 40),
        tokenizer=Config(patch=(64, 4)),
        position=PositionConfig(fit="cut"),
    ).build()
    table = encoder.positions.table[:, 1:]
    assert torch.equal(encoder.positions((1, 6))[1], table[:, :6])
    assert encoder.positions((1, 15))[1].shape == (1, 15, 8)  # longer than trained: resized
    assert np.array_equal(encoder.config.coordinates((64, 8)), [[0, 0], [0, 1]])
