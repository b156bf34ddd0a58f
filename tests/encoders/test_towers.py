"""Encoders side by side: each view finds its own, results are those of the single encoders."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from foundation.encoders import timm_models, towers, vit
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as ImageTokenizer
from foundation.modalities.video.tokenizer import Config as VideoTokenizer
from tests.encoders.inputs import inputs

IMAGE = vit.Config(preset=None, width=32, depth=2, heads=2, size=(16, 16), tokenizer=ImageTokenizer(patch_size=8))
VIDEO = vit.Config(
    preset=None, width=32, depth=3, heads=2, size=(4, 16, 16), tokenizer=VideoTokenizer(tubelet=2, patch_size=8)
)


@pytest.fixture
def both() -> towers.Towers:
    torch.manual_seed(0)
    return towers.Config(towers={"clip": VIDEO, "frame": IMAGE}, main="clip").build().eval()


def test_every_view_goes_to_its_tower_and_comes_back_in_its_place(both):
    views = [torch.randn(2, 3, 16, 16), torch.randn(3, 3, 4, 16, 16), torch.randn(1, 3, 8, 8)]
    masks = [None, torch.rand(3, 8) < 0.5, None]
    found = both(inputs(views, masks, wanted=[None, None, torch.empty(0, dtype=torch.int64)]))
    (first,) = both.towers["frame"]([views[0]])
    (second,) = both.towers["clip"](inputs([views[1]], [masks[1]]))
    torch.testing.assert_close(found[0].patches, first.patches)
    torch.testing.assert_close(found[1].cls, second.cls)
    assert found[2].cls.shape == (1, 32) and found[2].patches.shape == (0, 32)


def test_tokens_left_out(both):
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[:, :6] = True
    views = [torch.randn(3, 3, 4, 16, 16), torch.randn(2, 3, 16, 16)]
    clip, frame = both(inputs(views, [mask, None], drop=[6, None]))
    (alone,) = both.towers["clip"](inputs([views[0]], [mask], drop=[6]))
    torch.testing.assert_close(clip.patches, alone.patches)
    assert both.capabilities.drops and frame.patches.shape == (2, 4, 32)


def test_what_the_engine_asks(both):
    config = both.config
    assert (both.width, both.depth, both.modality, config.modality) == (32, 3, "video", "video")
    assert config.size == (4, 16, 16) and len(config.coordinates((4, 16, 16))) == 8
    assert len(config.coordinates((16, 16))) == 4
    names = [name for name, _ in both.named_parameters()]
    layers = {name: both.layer_of(name) for name in names}
    assert layers["towers.clip.trunk.norm.weight"] == layers["towers.frame.trunk.norm.weight"] == 4
    assert layers["towers.clip.cls_token"] == 0 and layers["towers.frame.cls_token"] == 1
    assert both.flops([(2, 3, 16, 16), (1, 3, 4, 16, 16)]) == both.towers["frame"].flops(
        [(2, 3, 16, 16)]
    ) + both.towers["clip"].flops([(1, 3, 4, 16, 16)])
    assert "attention.2" in both.tap_names()
    (feature,) = both([torch.randn(1, 3, 4, 16, 16)], taps=("attention.2",))
    assert feature.taps["attention.2"].shape == (1, 2, 9)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="main is 'sound'; the towers are: clip"):
        towers.Config(towers={"clip": VIDEO}, main="sound")
    with pytest.raises(UserError, match="clip and frame both take views of video"):
        towers.Config(towers={"clip": VIDEO, "frame": VIDEO}, main="clip")
    wide = vit.Config(preset=None, width=64, depth=2, heads=2, size=(16, 16), tokenizer=ImageTokenizer(patch_size=8))
    with pytest.raises(UserError, match="one width, as they share the heads: clip 32, frame 64"):
        towers.Config(towers={"clip": VIDEO, "frame": wide}, main="clip")
    with pytest.raises(UserError, match=r"no tower takes views of 1 axes; there are: clip \(3\)"):
        towers.Config(towers={"clip": VIDEO}, main="clip").build()([torch.randn(2, 6, 50)])


def test_a_tower_that_gives_all_patches_beside_one_that_leaves_some_out():
    timm = pytest.importorskip("foundation.encoders.timm")
    try:
        timm_models.import_timm()
    except UserError as error:
        pytest.skip(str(error))
    clip = dataclasses.replace(VIDEO, width=64, depth=1)
    frame = timm.Config(model="test_vit", size=(32, 32))
    encoder = towers.Config(towers={"clip": clip, "frame": frame}, main="clip").build().eval()
    views = [torch.randn(2, 3, 32, 32), torch.randn(1, 3, 4, 16, 16)]
    places = [torch.tensor([6, 1]), torch.tensor([3])]
    for found, whole, chosen in zip(encoder(inputs(views, wanted=places)), encoder(views), places, strict=True):
        torch.testing.assert_close(found.cls, whole.cls)
        torch.testing.assert_close(found.patches, whole.patches.flatten(0, 1)[chosen])
    with pytest.raises(UserError, match=r"one width.*clip 32, frame 64"):
        towers.Config(towers={"clip": VIDEO, "frame": frame}, main="clip").build()
    with pytest.raises(UserError, match=r"frame\.size is null"):
        towers.Config(towers={"clip": clip, "frame": dataclasses.replace(frame, size=None)}, main="clip")
