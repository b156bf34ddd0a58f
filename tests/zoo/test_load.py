"""Exports and checkpoints load to the very weights that were trained, and damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from foundation import config
from foundation.checkpoints.checkpoint import write
from foundation.errors import UserError
from foundation.run import build
from foundation.run.model_recipe import recipe_of
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.zoo.export import export_branches, export_checkpoint
from foundation.zoo.load import load_encoder

RECIPE = """
name: tiny
data: {shards: [nowhere.tar]}
views: {name: image, global_views: {count: 2, size: 16, blur: [0.0]}, local_views: {count: 0}}
encoder: {name: vit, preset: null, width: 32, depth: 2, heads: 2, size: [16, 16], registers: 2,
  tokenizer: {name: image, patch_size: 4}}
heads:
  cls: {prototypes: 16, hidden: 16, bottleneck: 8}
objectives: [{name: dino, other_views: []}]
optimizer: {learning_rate: 1e-3}
train: {length: 10 steps, batch_size: 4}
"""


@pytest.fixture
def recipe() -> Recipe:
    return config.load(Recipe, RECIPE)


@pytest.fixture
def learner(recipe):
    built = build.learner(recipe, Clock(10, 10))
    with torch.no_grad():
        for parameter in built.branches["teacher"].parameters():
            parameter.add_(0.01)  # so that student and teacher differ
    return built


def features(encoder) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return encoder.eval()([torch.randn(2, 3, 16, 16, generator=generator)])[0].cls


@pytest.fixture
def run(recipe, learner, tmp_path) -> Path:
    """A run folder with one checkpoint and no export."""
    state = {"step": 7, "recipe": config.dump(recipe)}
    tensors = {name: branch.state_dict() for name, branch in learner.branches.items()}
    write(tmp_path / "run" / "checkpoints", 7, tensors, state)
    return tmp_path / "run"


def test_run_checkpoint_and_export_give_the_same_encoder(run, recipe, learner):
    export_branches(recipe, learner, run / "export", 7)
    wanted = {
        "teacher": features(learner.branches["teacher"].encoder),
        "student": features(learner.branches["student"].encoder),
    }
    assert not torch.equal(wanted["teacher"], wanted["student"])
    for branch, value in wanted.items():
        for source in (run, run / "checkpoints" / "step-00000007", run / "export" / f"{branch}.safetensors"):
            loaded = load_encoder(source, branch=branch)
            assert torch.equal(features(loaded.encoder), value)
            assert not loaded.encoder.training and not any(p.requires_grad for p in loaded.encoder.parameters())
            assert loaded.evaluation.size == 16 and loaded.modality == "image"


def test_export_of_a_checkpoint_equals_export_of_the_run(run, recipe, learner, tmp_path):
    export_branches(recipe, learner, tmp_path / "a", 7)
    export_checkpoint(run / "checkpoints" / "step-00000007", tmp_path / "b")
    for name in ("student", "teacher"):
        a, b = (json.loads((tmp_path / x / f"{name}.json").read_text()) for x in "ab")
        assert a == b


def test_a_changed_export_is_refused(run, recipe, learner):
    export_branches(recipe, learner, run / "export", 7)
    path = run / "export" / "teacher.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum mismatch"):
        load_encoder(path)


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model.pth holds no weights that are known here; there are: a"):
        load_encoder(tmp_path / "model.pth")


def test_a_mistyped_folder_or_file_names_the_nearest(run, recipe, learner):
    with pytest.raises(UserError, match=r"rnu' does not exist; did you mean '.*/run'"):
        load_encoder(run.with_name("rnu"))
    export_branches(recipe, learner, run / "export", 7)
    with pytest.raises(
        UserError, match=r"taecher\.safetensors' does not exist; did you mean '.*/teacher\.safetensors'"
    ):
        load_encoder(run / "export" / "taecher.safetensors")


def test_unknown_branch_lists_those_there_are(run):
    with pytest.raises(UserError, match="no encoder of a branch 'expert'; there are: student, teacher"):
        load_encoder(run, branch="expert")


def test_untrained_twin_differs_and_does_not_move_the_random_state(run):
    loaded = load_encoder(run)
    before = torch.get_rng_state()
    twin = loaded.untrained(seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(features(twin), features(loaded.encoder))
    assert torch.equal(features(twin), features(loaded.untrained(seed=3)))


def test_weights_of_timm_that_are_not_finite_are_named(tmp_path):
    timm = pytest.importorskip("timm", exc_type=Exception)
    from safetensors.torch import save_file

    tensors = timm.create_model("test_vit", pretrained=False).state_dict()
    tensors["norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=r"1 of the 64 numbers of '.*norm\.weight' are NaN"):
        load_encoder(f"timm:test_vit,weights={tmp_path / 'bad.safetensors'}")


def test_the_bare_name_of_a_published_model_is_told_how_to_write_it():
    with pytest.raises(UserError, match=r"did you mean timm:resnet18\?"):
        load_encoder("resnet18")


def test_loading_draws_nothing_from_the_generators_of_the_run(run):
    """Weights of a run follow from its seed alone, whatever ``initial`` or a frozen branch has loaded before."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_encoder("timm:vit_tiny_patch16_224,random")
    load_encoder(run)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_run_is_loaded_by_the_branch_that_it_measures(tiny_recipe, train, tmp_path):
    objectives = "objectives=[{name: dino, teacher: avg}]"
    train(
        tiny_recipe("branches={avg: {name: ema}}", objectives, "masking=null", "train.length=1 steps"), tmp_path / "r"
    )
    assert "tiny avg at step 1" in load_encoder(tmp_path / "r").description


@pytest.mark.parametrize(
    ("settings", "branch"),
    [
        pytest.param((), "teacher", marks=pytest.mark.slow),
        pytest.param(("measured=student",), "student", marks=pytest.mark.slow),
        (("branches={avg: {name: ema}}", "objectives=[{name: dino, teacher: avg}]", "masking=null"), "avg"),
        (("branches={teacher: {name: previous, at: start}}",), "student"),
        pytest.param(
            ("branches={teacher: {name: ema}, big: {name: trained}, own: {name: ema, of: big}}",),
            "teacher",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("stages=[{name: a, length: 1 steps}, {name: b, length: 1 steps, measured: student}]",),
            "student",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_run_and_exports_are_loaded_by_the_branch_that_was_measured(tiny_recipe, train, tmp_path, settings, branch):
    run = tmp_path / "run"
    train(tiny_recipe(*settings, "train.length=2 steps"), run)
    assert f" {branch} at step 2" in load_encoder(run).description
    shutil.rmtree(run / "checkpoints")
    assert f"-{branch} at step 2" in load_encoder(run).description


def test_a_checkpoint_that_does_not_say_which_was_measured_gives_its_teacher_or_its_student(run, learner, recipe):
    """Those of older versions."""
    assert "teacher" in load_encoder(run).description
    tensors = {"student": learner.branches["student"].state_dict()}
    write(run / "checkpoints", 8, tensors, {"step": 8, "recipe": config.dump(recipe)})
    assert "student" in load_encoder(run).description


def test_a_branch_with_an_encoder_of_its_own_is_exported_as_what_it_is(tiny_recipe, train, tmp_path):
    """At the end, on the way, and out of a checkpoint."""
    other = "{name: vit, width: 16, depth: 1, heads: 2, size: [16, 16], tokenizer: {name: image, patch_size: 4}}"
    recipe = tiny_recipe(
        f"branches={{teacher: {{name: ema}}, small: {{name: trained, encoder: {other}}}}}",
        "objectives=[{name: dino}, {name: dino, student: small}]", "masking=null", "train.length=1 steps",
        "jobs=[{name: export, every: 1 steps, branch: small}]",
    )  # fmt: skip
    train(recipe, tmp_path / "run")
    again = export_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000001", tmp_path / "again")
    found = [*(tmp_path / "run" / "export").rglob("small.safetensors"), *(p for p in again if p.stem == "small")]
    assert len(found) == 3
    for path in found:
        assert load_encoder(path).encoder.width == 16
    assert sorted(path.stem for path in again) == ["small", "student", "teacher"]


def test_the_recipe_of_a_model_is_that_of_its_stage(tiny_recipe, train, tmp_path):
    stages = (
        "stages=[{name: a, length: 1 steps}, {name: b, length: 1 steps, masking: null, objectives: [{name: dino}]}]"
    )
    train(tiny_recipe(stages), tmp_path / "run")
    made = export_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000002", tmp_path / "again")
    (again,) = (path for path in made if path.stem == "teacher")
    for source in (tmp_path / "run", tmp_path / "run" / "export" / "teacher.safetensors", again):
        recipe = recipe_of(load_encoder(source))
        assert recipe is not None and recipe.masking is None and len(recipe.objectives) == 1
