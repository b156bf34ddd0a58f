"""Weights that do not fit what a card or recipe says of them are refused before memory is asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.checkpoints.checkpoint import sha256
from foundation.cli import main
from foundation.engine import state
from foundation.errors import UserError
from foundation.run import build, initial
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.zoo.export import export_branches, write_export
from foundation.zoo.load import load_encoder
from tests.conftest import RECIPE


@pytest.fixture(scope="module")
def exported(tiny_shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe, folder = config.load(Recipe, RECIPE.format(shards=tiny_shards)), tmp_path_factory.mktemp("fit")
    export_branches(recipe, build.learner(recipe, Clock(10, 10)), folder, 7)
    return folder


@pytest.fixture
def export(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export")) / "student.safetensors"


def rewrite(export: Path, tensors: dict[str, torch.Tensor] | None = None, **encoder: object) -> Path:
    """The export with other tensors and another encoder on its card; its SHA-256 is right."""
    card_path = export.with_suffix(".json")
    if tensors is not None:
        save_file(load_file(export) | tensors, export)
    card = json.loads(card_path.read_text())
    card_path.write_text(json.dumps(card | {"sha256": sha256(export), "encoder": card["encoder"] | encoder}))
    return export


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({"width": 65536}, "has the shape .*the encoder needs .*65536"),
        ({"depth": 256}, "the encoder needs many more"),
        ({"registers": 1024}, "missing .*register_tokens"),
        ({"depth": 1}, "unknown .*trunk"),
    ],
)
def test_a_card_that_claims_a_giant_takes_no_memory(export, encoder, said):
    """A width of 65,536 would ask for hundreds of gigabytes; sizes beyond that lie out of the range of the field."""
    with pytest.raises(UserError, match=rf"student\.safetensors does not fit its encoder: .*{said}"):
        load_encoder(rewrite(export, **encoder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.int32), "is of I32, the encoder needs F32"),
        (lambda t: torch.full_like(t, float("nan")), "are NaN or infinite"),
        (lambda t: torch.where(t == t.max(), torch.inf, t), "1 of the .* numbers of 'cls_token' are NaN or infinite"),
        (lambda t: torch.full_like(t, 1e300, dtype=torch.float64), "32 of the 32 .* of 'cls_token' are"),
        (lambda t: t[..., :-1].contiguous(), r"has the shape \[1, 1, 31\], the encoder needs \[1, 1, 32\]"),
    ],
)  # fmt: skip
def test_weights_of_another_kind_are_refused_by_name(export, change, said):
    token = load_file(export)["cls_token"]
    with pytest.raises(UserError, match=said) as caught:
        load_encoder(rewrite(export, {"cls_token": change(token)}))
    assert "'cls_token'" in str(caught.value) and "student.safetensors" in str(caught.value)
    with pytest.raises(UserError, match=r"student\.safetensors"):
        initial.Config(weights=str(export)).apply(torch.nn.Linear(1, 1))


def test_half_precision_still_loads(export):
    half = {key: tensor.bfloat16() for key, tensor in load_file(export).items()}
    loaded = load_encoder(rewrite(export, half))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.encoder.parameters())


def test_what_is_no_safetensors_is_named(export):
    export.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"student\.safetensors cannot be read"):
        load_encoder(rewrite(export))


def test_a_checkpoint_with_nan_is_neither_loaded_nor_resumed_from(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    learner, clock = build.learner(recipe, Clock(10, 10)), Clock(10, 10)
    optimizer = recipe.optimizer.build(build.trainable(learner), clock, 8)
    tensors = state.capture(learner, optimizer)
    numbers = state.numbers(state.Progress(7, 56), 8, 1, recipe=config.dump(recipe))
    kept = tensors["student"]["encoder.cls_token"].clone()
    bad = tensors["student"] | {"encoder.cls_token": torch.full_like(kept, torch.nan)}
    folder = checkpoint.write(tmp_path, 7, tensors | {"student": bad}, numbers)
    with pytest.raises(UserError, match=r"student\.safetensors: .*'cls_token' are NaN"):
        load_encoder(folder, branch="student")
    with pytest.raises(UserError, match=r"student\.safetensors: .*'encoder\.cls_token' are NaN"):
        state.restore(learner, optimizer, *checkpoint.read(folder))
    assert torch.equal(learner.branch("student").encoder.cls_token, kept)


def test_an_export_fetches_no_weights_but_its_own(tiny_recipe, tmp_path, monkeypatch):
    """A card that says ``pretrained: true`` would have them fetched first, and then thrown away."""
    pytest.importorskip("timm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    recipe = tiny_recipe("encoder={name: timm, model: test_vit, pretrained: true}")
    encoder = dataclasses.replace(recipe.encoder, pretrained=False).build()
    path = write_export(tmp_path / "student.safetensors", encoder.state_dict(), recipe, "student", 1)
    loaded = load_encoder(path).encoder.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in encoder.state_dict().items())
    untrained = load_encoder(path).untrained(seed=5).state_dict()
    assert not all(torch.equal(untrained[key], tensor) for key, tensor in encoder.state_dict().items())


def test_views_that_no_memory_holds_are_refused_wherever_they_are_named(export, tiny_recipe, tiny_shards, capsys):
    """Sides that are each in their range: 65,536 x 65,536 pixels are 12.9 billion numbers."""
    words = ["knn", str(export), "--train", tiny_shards, "--test", tiny_shards, "--size", "65536"]
    assert main(words) == 2
    assert "--size: view 'global' of 3 x 65536 x 65536 has more than" in capsys.readouterr().err
    large = ["views.global_views.size=65536", "encoder.tokenizer.patch_size=4096", "encoder.size=[4096,4096]"]
    with pytest.raises(UserError, match="view 'global' of 3 x 65536 x 65536 has more than 268,435,456 numbers"):
        build.learner(tiny_recipe(*large), Clock(10, 10))
    card_path = export.with_suffix(".json")
    card = json.loads(card_path.read_text())
    card_path.write_text(json.dumps(card | {"evaluation": card["evaluation"] | {"size": 65536}}))
    with pytest.raises(UserError, match=r"student\.json: view 'global'"):
        load_encoder(export)


def test_networks_that_no_memory_holds_are_refused_before_they_are_filled(tiny_recipe, monkeypatch):
    monkeypatch.setattr("foundation.weights.memory_of_machine", lambda: 2**30)
    with pytest.raises(UserError, match=r"need 4\.0 GiB and more .* has 1\.0 GiB of memory.*--dry-run"):
        build.learner(tiny_recipe("heads.cls.hidden=32768", "heads.cls.bottleneck=65536"), Clock(10, 10))
    with torch.device("meta"):  # a plan for another machine
        build.learner(tiny_recipe("heads.cls.hidden=65536"), Clock(10, 10))


@pytest.mark.parametrize("model", ["resnet18.a/b", "resnet18.hf_hub:a/b", "resnet18.nonsense", "hf_hub:a/b"])
def test_a_name_that_only_begins_like_one_of_timm_is_refused_in_one_line(export, model):
    pytest.importorskip("timm")
    card_path = export.with_suffix(".json")
    card = json.loads(card_path.read_text())
    card_path.write_text(json.dumps(card | {"encoder": {"name": "timm", "model": model, "pretrained": True}}))
    with pytest.raises(UserError, match="timm has no model"):
        load_encoder(export)
