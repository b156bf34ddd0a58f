"""What is written for others is read again by our own converters: names lead there and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from foundation.encoders import vit
from foundation.errors import UserError
from foundation.modalities.video.evaluation import EvaluationConfig
from foundation.modalities.video.tokenizer import Config as Tubelets
from foundation.zoo.convert.timm_vit import Config as TimmVit
from foundation.zoo.convert.vjepa2 import POSITION
from foundation.zoo.load import LoadedEncoder
from foundation.zoo.targets import export
from tests.zoo.targets.drawn import random_weights

pytestmark = pytest.mark.usefixtures("timm_itself")


@pytest.mark.parametrize("settings", [{}, {"registers": 3}, {"layer_scale": 0.1}, {"qkv_bias": False}], ids=str)
def test_timm_and_back(settings, image_encoder, tmp_path):
    loaded = image_encoder(**settings)
    written = export(loaded, to="timm", out=tmp_path / "out")
    converted = TimmVit(heads=2).convert(load_file(written.path / "model.safetensors"))
    again = converted.encoder.build().eval()
    again.load_state_dict(converted.tensors)
    view = torch.randn(2, 3, 32, 32)
    ours, found = loaded.encoder([view])[0], again([view])[0]
    torch.testing.assert_close(found.cls, ours.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.patches, ours.patches, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.registers, ours.registers, rtol=1e-5, atol=1e-5)


def clips(**settings) -> LoadedEncoder:
    """An encoder as V-JEPA 2's, with heads whose width leaves numbers that are not turned."""
    given = {
        "width": 64, "depth": 2, "heads": 2, "size": (4, 32, 32), "class_token": False,
        "tokenizer": Tubelets(tubelet=2, patch_size=8), "position": POSITION, **settings,
    }  # fmt: skip
    made = vit.Config(**given)
    evaluation = EvaluationConfig(size=32, frames=4)
    return LoadedEncoder(random_weights(made.build()), "video", evaluation, "clips", None, None, made, name="clips")


def test_vjepa2_in_transformers_has_the_same_features(tmp_path):
    pytest.importorskip("transformers")
    written = export(clips(), to="transformers", out=tmp_path / "out")
    assert written.deviation <= 1e-5 and any("skip_predictor=True" in note for note in written.notes)
    for settings, said in (
        ({"position": replace(POSITION, frequencies="pair")}, r"position\.frequencies is pair"),
        ({"class_token": True}, "class_token is True"),
    ):
        with pytest.raises(UserError, match=f"clips cannot be written as transformers: its {said}"):
            export(clips(**settings), to="transformers", out=tmp_path / "no")
