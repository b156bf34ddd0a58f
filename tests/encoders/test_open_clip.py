"""Image towers of open_clip give what open_clip gives, with registers they start the same, and nothing is unpickled."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import save_file

from foundation.encoders import open_clip as adapter
from foundation.encoders import open_clip_models
from foundation.encoders.protocol import EncoderInput
from foundation.errors import UserError
from foundation.zoo.load import load_encoder

open_clip = pytest.importorskip("open_clip", exc_type=Exception)
TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
KINDS = {
    "tok": {},
    "avg": {"pool_type": "avg"},
    "avg-norm-behind": {"pool_type": "avg", "final_ln_after_pool": True},
    "plain": {"no_ln_pre": True, "ls_init_value": 0.1},
    "fixed": {"pos_embed_type": "sin_cos_2d"},
}
VIEW = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory):
    """Networks of a few thousand parameters, put beside open_clip's own by its own door."""
    folder = tmp_path_factory.mktemp("open_clip")
    for name, more in {**KINDS, "pooler": {"attentional_pool": True}}.items():
        settings = {"embed_dim": 24, "vision_cfg": {**VISION, **more}, "text_cfg": TEXT}
        (folder / f"tiny-{name}.json").write_text(json.dumps(settings))
    open_clip.add_model_config(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_open_clip(kind, tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model(f"tiny-{kind}", pretrained=None).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_encoder(f"open_clip:tiny-{kind},weights={tmp_path / 'model.safetensors'}")
    found = loaded.encoder([VIEW], taps=["block.0", "block.1"])[0]
    model.visual.output_tokens = True
    with torch.no_grad():
        embedded, tokens = model.visual(VIEW)
        torch.testing.assert_close(found.cls @ model.visual.proj, embedded)
        norm = model.visual.ln_post if "behind" in kind else torch.nn.Identity()
        torch.testing.assert_close(found.patches, norm(tokens))
        torch.testing.assert_close(model.visual.ln_post(found.taps["block.1"][:, 1:]), found.patches)
    assert loaded.evaluation.size == 32 and loaded.evaluation.crop_fraction == 1.0
    assert tuple(loaded.evaluation.mean) == adapter.MEAN


def test_registers_start_as_the_model_without_them():
    torch.manual_seed(0)
    plain, given = (adapter.Config(model="tiny-tok", registers=count).build().eval() for count in (0, 4))
    given.load_state_dict(given.adopted(plain.state_dict()))
    embedded = [encoder._embed(EncoderInput(view=VIEW)) for encoder in (given, plain)]
    assert torch.equal(torch.cat((embedded[0][:, :1], embedded[0][:, 5:]), dim=1), embedded[1])
    found = given([VIEW])[0]
    assert found.registers.shape == (2, 4, 32) and given.prefix == 5
    names = dict(given.named_parameters())
    assert {given.layer_of(name) for name in names} == {0, 1, 2, 3} and given.is_patch_embed("visual.conv1.weight")


def test_it_hides_patches_and_takes_other_sizes():
    encoder = adapter.Config(model="tiny-tok").build().eval()
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3] = True
    changed = VIEW.clone()
    changed[:, :, :8, 24:] = 9.0
    hidden = [encoder([EncoderInput(view=view, mask=mask)])[0].cls for view in (VIEW, changed)]
    assert torch.equal(*hidden) and not torch.allclose(encoder([VIEW])[0].cls, encoder([changed])[0].cls)
    larger = torch.nn.functional.interpolate(VIEW, size=(48, 40))
    assert encoder([larger])[0].patches.shape == (2, 30, 32)
    resized = encoder._resized(encoder.visual.positional_embedding[1:], (6, 5))
    wanted = torch.nn.functional.interpolate(
        encoder.visual.positional_embedding[None, 1:].mT.unflatten(2, (4, 4)), (6, 5), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(resized, wanted[0].flatten(1).mT, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("open_clip:ViT-B-33,random", "open_clip has no model 'ViT-B-33'; similar: .*ViT-B-32"),
        ("open_clip:ViT-B-32", "stands 'pretrained=TAG', .* of the tags there are: openai, laion"),
        ("open_clip:ViT-B-32,pretrained=laion", "publishes no weights 'laion' of 'ViT-B-32'; there are: openai"),
        ("open_clip:ViT-B-32,pretrained=openai", "trained with QuickGELU: take ViT-B-32-quickgelu"),
        ("open_clip:RN50,random", "'RN50' is a ResNet"),
        ("open_clip:tiny-pooler,random", "an attention over all tokens"),
        ("open_clip:ViT-B-16-SigLIP,random", "is timm's 'vit_base_patch16_siglip_224': take it from there"),
        ("open_clip:tiny-tok,weights=model.pt", r"model\.pt is not read: .* \.safetensors files"),
        ("open_clip:tiny-tok,weights=none.safetensors", r"none\.safetensors does not exist"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_what_there_is(source, problem):
    with pytest.raises(UserError, match=problem):
        load_encoder(source)


def test_a_file_of_another_model_is_refused(tmp_path):
    tower = adapter.Config(model="tiny-plain").build().visual.state_dict()
    save_file(tower, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"does not fit the image tower of open_clip's 'tiny-tok': ln_pre\.bias"):
        load_encoder(f"open_clip:tiny-tok,weights={tmp_path / 'other.safetensors'}")


def test_nobody_waits_for_a_server_that_does_not_answer(monkeypatch, tmp_path):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(UserError, match="'laion2b_s34b_b79k' of open_clip's 'ViT-B-32' are not on this machine"):
        shape = open_clip_models.shape_of("ViT-B-32")
        open_clip_models._fetched("ViT-B-32", "laion2b_s34b_b79k", open_clip_models.tag_of(shape, "laion2b_s34b_b79k"))
    assert time.monotonic() - begun < 20
    planned = load_encoder("open_clip:ViT-B-32,pretrained=laion2b_s34b_b79k", fetch=False)
    assert all(weight.is_meta for weight in planned.encoder.parameters()) and planned.evaluation.size == 224


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(open_clip_models.importlib, "import_module", missing)
    monkeypatch.setattr(open_clip_models, "installed", lambda package: None)
    with pytest.raises(UserError, match=r"pip install 'foundation-pretrain\[clip\]'"):
        open_clip_models.import_open_clip()
