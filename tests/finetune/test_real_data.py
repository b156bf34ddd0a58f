"""Fine-tuning on real recordings of every modality, from an encoder that has learnt nothing: what the labels teach."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

import foundation
from foundation import config, paths
from foundation.cli import main
from foundation.data.shards import open_shards
from foundation.data.write import write_shards
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export


@dataclass(frozen=True)
class Case:
    """Recipe of the encoder, folder and patterns of real shards, longest training, chance, further words, and the
    classes that are learnt (none: all)."""

    recipe: str
    data: str
    train: str
    epochs: int
    chance: float
    words: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


CASES = {
    "image": Case("cifar10-dino-ibot-nano", "cifar10", "train-000000.tar", 4, 0.1),
    "audio": Case("fsdd-dino-ibot-nano", "fsdd", "train-*.tar", 4, 0.1),
    "points": Case("shapes16-dino-ibot-nano", "shapes16_points", "train-*.tar", 8, 0.12),
    # Whole-body actions, which a fresh encoder learns in seconds: to throw, jog, stand up, lunge.
    "video": Case(
        "utd-depth-dino-ibot-nano",
        "utd_mhad_depth_imu",
        "train-*.tar",
        12,
        1 / 4,
        ("--batch-size", "8"),
        ("4", "21", "23", "25"),
    ),
    "imu": Case("hapt-dino-ibot-nano", "hapt_imu", "train-000000.tar", 3, 1 / 6),
}


@pytest.fixture
def case(request, shared_data, tmp_path):
    """``case(name)``: the case, its model, and its training and test shards."""

    def find(name):
        one = CASES[name]
        folder = shared_data(one.data)
        recipe = config.load(Recipe, paths.recipe(one.recipe).read_text(encoding="utf-8"))
        torch.manual_seed(0)
        tensors = recipe.encoder.build().state_dict()
        model = write_export(tmp_path / "model" / "fresh.safetensors", tensors, recipe, "student", 0)
        train, test = (str(folder / pattern) for pattern in (one.train, "test-*.tar"))
        if one.classes:
            for split, pattern in (("train", train), ("test", test)):
                write_shards(of_classes(pattern, one.classes), tmp_path / "few" / split, split)
            train, test = (str(tmp_path / "few" / split / f"{split}-*.tar") for split in ("train", "test"))
        return one, str(model), train, test

    return find


def of_classes(pattern, classes):
    """Samples of some classes alone."""
    shards = open_shards(pattern)
    for place in range(shards.num_samples):
        raw = shards.read(*shards.locate(place))
        if raw["cls"].decode() in classes:
            yield {"__key__": raw["__key__"], "mp4": raw["mp4"], "cls": raw["cls"]}


def tuned(one, model, train, test, run, *words):
    command = ["finetune", model, "--train", train, "--test", test, "--run", str(run), "--epochs", str(one.epochs)]
    assert main([*command, *one.words, *words, "train.log_every=1000"]) == 0
    return json.loads((run / "finetune.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_labels_teach_an_encoder_what_chance_does_not_know(name, case, tmp_path):
    one, model, train, test = case(name)
    result = tuned(one, model, train, test, tmp_path / "all", "--mode", "all", "--learning-rate", "1e-3")
    assert result["interval"][0] > 1.5 * one.chance, result
    assert foundation.load(tmp_path / "all").card.name.startswith("all-best")


@pytest.mark.slow
def test_a_head_alone_does_as_well_as_a_linear_probe(case, tmp_path):
    one, model, train, test = case("imu")
    head = tuned(one, model, train, test, tmp_path / "head", "--epochs", "2", "--learning-rate", "3e-2")
    probe = foundation.evaluate(model, train=train, test=test, tasks="logistic", cached=False).scores["logistic"]
    assert abs(head["value"] - probe.value) < 0.06, (head["value"], probe.value)
