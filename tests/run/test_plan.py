"""The dry run: published shapes give published numbers, for every shipped recipe, without data or weights."""

from __future__ import annotations

import pytest

from foundation import config, paths
from foundation.errors import UserError
from foundation.run.plan import plan, show_plan
from foundation.run.recipe import Recipe
from tests.stand_ins import STAND_INS


def load(name: str, *overrides: str) -> Recipe:
    return config.load(Recipe, paths.recipe(name), ["data.samples_per_epoch=10000", *overrides])


TAUGHT = ("audio-visual", "comodo")
"""Parts of the names of recipes whose teacher has to be trained or fetched first."""
TINY = ("branches.teacher.weights=timm:test_vit.r160_in1k,random", "branches.teacher.frames=mean")


MANY_SIZES = ("poa-resnet", "poa-swin")
"""Recipes whose every size is built by timm once to be planned: half a minute."""


def _marked(name: str):
    return pytest.param(name, marks=pytest.mark.slow) if name in MANY_SIZES else name


@pytest.mark.parametrize("name", [_marked(name) for name in sorted(paths.recipes())])
def test_every_shipped_recipe_can_be_planned(name):
    figures = plan(load(name, "data.shards=[]", *STAND_INS.get(name, ())))
    assert figures.clock.total_steps > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(paths.recipes()))
def test_a_step_of_every_shipped_recipe_can_be_followed(name):
    figures = plan(load(name, "data.shards=[]", "train.batch_size=2", "train.accumulate=1", *STAND_INS.get(name, ())))
    found = figures.memory
    assert found["parameters"] >= 4 * figures.trained and found["AdamW"] == 8 * figures.trained
    assert found.get("activations", 0) + found.get("gradients", 0) > 0


@pytest.mark.parametrize(
    ("name", "encoder", "steps", "tokens"),
    [
        # 21.67 M of ViT-S/16 and 384 of the mask token; 100 epochs of 1,281,167 / 512; 2 x 197 + 8 x 37 tokens.
        ("dino-vits16", 21_665_664 + 384, 250_228, 2 * 197 + 8 * 37),
        # 800 epochs of 1,281,167 / 1,024; 2 x 197 + 10 x 37 tokens.
        ("ibot-vits16", 21_665_664 + 384, 1_000_912, 2 * 197 + 10 * 37),
        # 500 epochs of 1,250 steps; 2 x 257 + 8 x 50 tokens.
        ("dinov2-vitl14", None, 625_000, 2 * 257 + 8 * 50),
    ],
)
def test_reference_recipes_have_the_published_numbers(name, encoder, steps, tokens):
    recipe = config.load(Recipe, paths.recipe(name), ["data.shards=[]"])
    figures = plan(recipe)
    assert figures.clock.total_steps == steps
    assert figures.tokens["student"] == tokens
    if encoder is not None:
        assert figures.parameters["encoder"] == encoder


def test_weights_that_a_run_would_fetch_are_said_with_the_key_for_a_file(capsys):
    show_plan(load("ph-reg", "data.shards=[]", "train.steps_per_epoch=100", "train.length=200 epochs"))
    captured = capsys.readouterr()
    model = "timm:vit_base_patch14_dinov2.lvd142m"
    said = captured.err.splitlines()
    assert sum(f"note: published weights of {model} are fetched" in line for line in said) == 2
    assert any(line.endswith(": encoder.weights=FILE.safetensors") for line in said)
    assert any(f"branches.original.weights='{model},weights=FILE.safetensors'" in line for line in said)
    shown = " ".join(captured.out.split())
    assert "20,000 (200.0 epochs)" in shown and "epoch (train.steps_per_epoch) │ 100 steps" in shown
    assert f"passes over the data │ {20_000 * 8 / 31783:.1f}" in shown
    assert plan(load("cifar10-dino-ibot-nano", "data.shards=[]")).published == []


def test_a_slice_of_the_student_and_a_batch_for_many_processes_are_said(capsys):
    assert plan(load("poa-vitl", "data.shards=[]")).shares["elastic"].startswith("a slice of student, ")
    recipe = load("fsdd-mae-nano", "data.shards=[]", "train.batch_size=262144")
    show_plan(recipe)
    captured = capsys.readouterr()
    assert "--processes N shows what each of N needs" in captured.err
    show_plan(recipe, processes=16)
    assert "--processes N" not in capsys.readouterr().err


def test_published_learning_rates():
    assert (r := load("dino-vits16")).optimizer.learning_rate.start * r.optimizer.factor(512) == pytest.approx(1e-3)
    assert (r := load("ibot-vits16")).optimizer.learning_rate.start * r.optimizer.factor(1024) == pytest.approx(2e-3)
    r = load("dinov2-vitl14")
    assert r.optimizer.learning_rate.start * r.optimizer.factor(3072) == pytest.approx(2e-4 * 3**0.5)


def test_processes_share_activations_but_not_parameters():
    recipe = load("fsdd-mae-nano", "data.shards=[]", "train.batch_size=64")
    one, eight = plan(recipe).memory, plan(recipe, processes=8).memory
    assert eight["activations"] * 8 == pytest.approx(one["activations"], rel=0.1)
    assert eight["AdamW"] == one["AdamW"]
    assert eight["gradients"] == one["parameters"]  # in buckets that are always there


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="cannot be divided among 7"):
        plan(load("ibot-vits16", "data.shards=[]"), processes=7)


def test_epochs_of_unknown_length_are_refused():
    recipe = config.load(Recipe, paths.recipe("dino-vits16"), ["data.shards=[]", "about.samples=null"])
    with pytest.raises(UserError, match="the length of an epoch is unknown"):
        plan(recipe)


def test_what_is_frozen_needs_neither_gradients_nor_moments(tiny_recipe):
    whole, some = plan(tiny_recipe()), plan(tiny_recipe("train.only=[heads]"))
    assert some.parameters == whole.parameters and whole.trained == sum(whole.parameters.values())
    assert some.trained == some.parameters["head cls"]
    whole_memory, some_memory = whole.memory, some.memory
    assert whole_memory["AdamW"] - some_memory["AdamW"] == 8 * whole.parameters["encoder"]
    assert whole_memory["parameters"] == some_memory["parameters"]
    assert some_memory["activations"] < whole_memory["activations"]  # nothing is kept for the encoder's gradients


def test_a_frozen_teacher_counts_with_its_own_size(tiny_recipe):
    expert = "branches={teacher: {name: ema}, expert: {name: frozen, weights: 'timm:vit_tiny_patch16_224,random'}}"
    asked = "objectives=[{name: dino}, {name: feature_distillation, teacher: expert, token: cls}]"
    figures = plan(tiny_recipe(expert, asked))
    assert figures.tokens["expert"] == 2 * (1 + 196)  # two global views of 16 pixels, shown to it at 224
    assert figures.memory["teachers"] > 4 * 5_500_000
