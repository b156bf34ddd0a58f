"""Vision transformers for images in timm and in Hugging Face transformers: the same features, or a reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import foundation
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as Patches
from foundation.zoo.targets import export

pytestmark = pytest.mark.usefixtures("timm_itself")

ROTARY = PositionConfig(kind="rotary")
EQUAL = {
    "plain": {},
    "registers": {"registers": 3},
    "layer scale": {"layer_scale": 1e-5},
    "DINOv2 giant": {"ffn": "swiglu", "layer_scale": 0.1, "registers": 2},
    "no bias": {"qkv_bias": False},
    "keys without bias": {"zero_key_bias": True},
    "narrow": {"mlp_ratio": 2.5},
    "no positions": {"position": PositionConfig(kind="none")},
    "larger views": {"size": 64, "position": PositionConfig(antialias=True)},
    "larger views of DINOv2": {"size": 64, "registers": 2, "position": PositionConfig(offset=0.1)},
    "other attention": {"attention": "explicit", "packing": "always"},
}
ONLY_TIMM = {
    "no class token": {"class_token": False},
    "registers alone": {"class_token": False, "registers": 2},
    "DINOv3's gates": {"ffn": "swiglu64"},
}
ONLY_TRANSFORMERS = {
    "DINOv3": {"position": ROTARY, "registers": 4, "layer_scale": 1e-5, "norm_eps": 1e-5, "zero_key_bias": True},
    "DINOv3 7B": {"position": ROTARY, "ffn": "swiglu64"},
    "another epsilon": {"norm_eps": 1e-5},
}


@pytest.mark.parametrize("name", [*EQUAL, *ONLY_TIMM])
def test_timm_has_the_same_features(name, image_encoder, tmp_path):
    import timm

    loaded = image_encoder(**(EQUAL | ONLY_TIMM)[name])
    written = export(loaded, to="timm", out=tmp_path / "out")
    assert written.deviation <= 1e-5 and sorted(p.name for p in written.path.iterdir()) == [
        "config.json", "foundation_card.json", "model.safetensors",
    ]  # fmt: skip
    from safetensors.torch import load_file

    said = json.loads((written.path / "config.json").read_text())
    model = timm.create_model(said["architecture"], num_classes=0, **said["model_args"])
    model.load_state_dict(load_file(written.path / "model.safetensors"))
    view = torch.randn(2, 3, *[loaded.evaluation.size] * 2)
    ours = loaded.encoder([view])[0]
    with torch.no_grad():
        theirs = model.eval().forward_features(view)
    torch.testing.assert_close(theirs[:, model.num_prefix_tokens :], ours.patches, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*EQUAL, *ONLY_TRANSFORMERS])
def test_transformers_has_the_same_features(name, image_encoder, tmp_path):
    transformers = pytest.importorskip("transformers")
    loaded = image_encoder(**(EQUAL | ONLY_TRANSFORMERS)[name])
    written = export(loaded, to="transformers", out=tmp_path / "out")
    assert written.deviation <= 1e-5
    model = transformers.AutoModel.from_pretrained(written.path)
    view = torch.randn(2, 3, *[loaded.evaluation.size] * 2)
    ours = loaded.encoder([view])[0]
    with torch.no_grad():
        theirs = model(view)
    torch.testing.assert_close(theirs.pooler_output, ours.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        theirs.last_hidden_state[:, -ours.patches.shape[1] :], ours.patches, rtol=1e-5, atol=1e-5
    )


REFUSED = {
    "stem": ({"tokenizer": Patches(patch_size=8, stem="conv")}, "convolutional stem", "convolutional stem"),
    "norm": ({"norm": "rmsnorm"}, "norm is rmsnorm", "norm is rmsnorm"),
    "two norms": ({"separate_class_norm": True}, "norms of their own", "norms of their own"),
    "rotary": ({"position": PositionConfig(kind="rotary", normalise="max")}, "positions are rotary", "normalise: max"),
    "periods": (
        {"position": PositionConfig(kind="rotary", base=None, min_period=1.0, max_period=9.0)},
        "positions are rotary", "from min_period to max_period",
    ),
    "bfloat16": ({"position": PositionConfig(kind="rotary", dtype="bfloat16")}, "rotary", "tables are bfloat16"),
    "epsilon": ({"norm_eps": 1e-5}, r"norms add 1e-05", None),
    "class token": ({"class_token": False}, None, "no class token"),
    "gates": ({"ffn": "swiglu64"}, None, "swiglu64, mlp_ratio 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_equal_is_refused_by_its_trait(name, image_encoder, tmp_path):
    settings, timm, transformers = REFUSED[name]
    loaded = image_encoder(**settings)
    for to, said in (("timm", timm), ("transformers", transformers)):
        if said is not None:
            if to == "transformers":
                pytest.importorskip("transformers")
            with pytest.raises(UserError, match=rf"small cannot be written as {to}: .*{said}"):
                export(loaded, to=to, out=tmp_path / to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["quickstart-audio", "quickstart-points", "quickstart-imu"])
def test_other_modalities_are_refused(recipe, exported, tmp_path):
    modality = recipe.partition("-")[2]
    path = exported(recipe, "encoder.depth=1")
    for to in ("timm", "transformers"):
        if to == "transformers":
            pytest.importorskip("transformers")
        with pytest.raises(UserError, match=f"its tokenizer takes {modality}, and .* take images"):
            export(path, to=to, out=tmp_path / to)


@pytest.mark.parametrize(
    "model", [pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow), "test_resnet", "test_efficientnet"]
)
def test_models_of_timm_go_back_to_timm(model, tmp_path):
    written = export(f"timm:{model},random", to="timm", out=tmp_path / "out")
    assert written.deviation <= 1e-6
    with pytest.raises(UserError, match="it is an encoder 'TimmEncoder'"):
        pytest.importorskip("transformers")
        export(f"timm:{model},random", to="transformers", out=tmp_path / "no")


def test_image_processors_make_the_views_of_the_evaluation(image_encoder, real_samples, tmp_path):
    """Both resize whole numbers by torch's own antialiased bicubic filter; they may differ by rounding alone."""
    transformers = pytest.importorskip("transformers")
    written = export(image_encoder(size=64), to="transformers", out=tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(written.path)
    from foundation.modalities.image.evaluation import EvaluationConfig
    from foundation.zoo.preprocess import Preprocess

    ours = Preprocess("image", EvaluationConfig(size=64))
    unit = 1 / 255 / min(EvaluationConfig().std)
    for path in real_samples("quickstart"):
        with Image.open(path) as image:
            theirs = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        difference = (theirs - ours(path)).abs()
        assert float(difference.max()) <= 1.01 * unit and float((difference > 1e-4).float().mean()) < 0.02
    small = Image.fromarray(np.full((40, 56, 3), 9, np.uint8))
    assert processor(small, return_tensors="pt")["pixel_values"].shape == ours(small).shape
    assert any("fewer than 96 pixels are not cut" in note for note in written.notes)


def test_positions_that_are_resized_by_other_rules_are_said(image_encoder, tmp_path):
    """What timm resizes as we do stays as it was trained; what it does not is written at the evaluation's size."""
    from safetensors.torch import load_file

    for name, position, rows in (("alike", PositionConfig(antialias=True), 17), ("other", PositionConfig(), 65)):
        written = export(image_encoder(size=64, position=position), to="timm", out=tmp_path / name)
        assert load_file(written.path / "model.safetensors")["pos_embed"].shape[1] == rows
        assert any("from 4 x 4 to 8 x 8 patches" in note for note in written.notes) == (name == "other")


def test_sub_networks_are_written_like_any_other(image_encoder, tmp_path):
    from dataclasses import replace

    from foundation.encoders.elastic import SubNetwork, stand_alone

    whole = image_encoder(width=64, heads=4, depth=4)
    part = stand_alone(whole.encoder, SubNetwork(32, (2,)))
    loaded = replace(whole, encoder=part, config=part.config)
    assert export(loaded, to="timm", out=tmp_path / "part").deviation <= 1e-5


def test_the_card_says_what_it_is_and_names_no_path(exported, tmp_path):
    path = exported("quickstart", "encoder.depth=1", "encoder.tokenizer.stem=patch")
    written = export(path, to="timm", out=tmp_path / "out")
    text = (written.path / "foundation_card.json").read_text()
    card = json.loads(text)
    assert (card["name"], card["step"], card["modality"]) == ("quickstart-teacher", 7, "image")
    assert card["view"] == [3, 48, 48] and card["foundation_version"] == foundation.__version__
    assert str(tmp_path) not in text
