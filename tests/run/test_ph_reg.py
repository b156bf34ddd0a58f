"""PH-Reg as a recipe of two stages on real pictures: registers for what a ViT has learnt without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foundation import config, paths
from foundation.checkpoints.checkpoint import sha256
from foundation.cli import main
from foundation.errors import RecipeError, UserError
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.trainable import choose
from foundation.schedules import Clock
from tests.run.test_kill import assert_equal, tensors

RECIPE, FIRST, STEPS = "cifar10-ph-reg-nano", 20, 60
SMALL = (
    f"stages.0.length={FIRST} steps", f"train.length={STEPS - FIRST} steps", "train.batch_size=16",
    "train.log_every=1", "train.precision=float32", "train.device=cpu", "data.workers=0", "data.shuffle_window=64",
    "checkpoints={every: 10 steps, keep_last: 20}", "optimizer.learning_rate={start: 3e-3, warmup: 2 steps}",
    "branches.clean.copies=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(shared_data) -> tuple[str, ...]:
    return (*SMALL, f"data.shards=['{shared_data('cifar10')}/train-000000.tar']")


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ph-reg") / "run"
    assert main(["pretrain", RECIPE, *settings, "--run", str(folder)]) == 0
    return folder


def stages(*overrides: str) -> tuple[Recipe, dict]:
    """The second stage, and the branches of the first."""
    recipe = config.load(Recipe, paths.recipe(RECIPE), list(overrides))
    return recipe.stage(1), build.branches(recipe.stage(0), Clock(10, 1.0))[0]


def test_the_second_stage_starts_as_the_first_has_ended_with_registers_beside():
    recipe, previous = stages()
    learner = build.learner(recipe, Clock(10, 1.0), previous)
    before, after = (branch.encoder.state_dict() for branch in (previous["student"], learner.branch("student")))
    assert after.keys() - before.keys() == {"register_tokens"} and after["register_tokens"].shape == (1, 8, 96)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    original = learner.branch("original").encoder.state_dict()
    assert all(torch.equal(original[name], value) for name, value in before.items())
    choose(learner, recipe.train.only)
    trained = {
        name.split(".")[0] for name, p in learner.branch("student").encoder.named_parameters() if p.requires_grad
    }
    assert trained == {"tokenizer", "register_tokens", "positions", "trunk"}


def test_what_cannot_work_is_refused_before_the_first_step():
    for wrong, problem in (
        ("branches.clean.of=student", "'student' is trained"),
        ("branches.clean.of=nobody", "'nobody' is not there"),
        ("branches.clean.fill=[1.0, 2.0]", "it has 3 channels, and fill has 2 numbers"),
        ("objectives.0.mask=other", "other"),
    ):
        recipe, previous = stages(wrong)
        with pytest.raises((RecipeError, UserError), match=problem):
            build.learner(recipe, Clock(10, 1.0), previous)


@pytest.mark.slow
def test_both_stages_lower_their_losses_and_only_what_is_unlocked_moves(whole, metrics):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    first, second = lines[:FIRST], lines[FIRST:]
    assert sum(line["loss"] for line in first[-4:]) < sum(line["loss"] for line in first[:4])
    for name in ("feature_distillation", "feature_distillation-2"):
        values = [line[f"loss/{name}"] for line in second]
        assert sum(values[-5:]) < 0.95 * sum(values[:5]), (name, values)
    before, after = tensors(whole, FIRST, "student"), tensors(whole, STEPS, "student")
    moved = {name for name, value in before.items() if name in after and not torch.equal(after[name], value)}
    assert moved and all(
        name.startswith(("encoder.tokenizer.", "encoder.positions.", "encoder.trunk.blocks.2.")) for name in moved
    )
    assert "encoder.register_tokens" in after and "encoder.register_tokens" not in before


@pytest.mark.slow
def test_stopped_in_the_second_stage_it_goes_on_bit_for_bit(whole, settings, tmp_path):
    folder = tmp_path / "run"
    stop = f"train.stop_after={FIRST + 7} steps"
    assert main(["pretrain", RECIPE, *settings, stop, "--run", str(folder)]) == 0
    assert main(["pretrain", str(folder)]) == 0
    assert_equal(folder, whole)


@pytest.mark.slow
def test_a_model_of_ones_own_is_given_registers_and_loses_planted_artefacts(shared_data, tmp_path):
    """A run of one stage from an export whose table of positions has been spoilt in two cells."""
    from foundation.probes.artefacts import look
    from foundation.zoo.load import load_encoder

    first, data = tmp_path / "first", f"data.shards=['{shared_data('cifar10')}/train-000000.tar']"
    assert main(["pretrain", RECIPE, *SMALL, data, "train.stop_after=4 steps", "--run", str(first)]) == 0
    good = first / "export" / "student.safetensors"
    model = plant(good, tmp_path / "planted.safetensors", cells=(9, 44), norm=8.0)
    own = (
        "stages=[]", "train.only=[registers, positions, patch_embed, blocks.-1]", f"initial={{weights: {model}}}",
        f"branches.original={{name: frozen, weights: {model}}}", "branches.clean.shift=[0.3]",
    )  # fmt: skip
    assert main(["pretrain", RECIPE, *SMALL[1:], data, *own, "--run", str(tmp_path / "second")]) == 0
    shards = [f"{shared_data('cifar10')}/test-000000.tar"]
    clean, spoilt, mended = (
        look(load_encoder(m), shards, limit=64).tokens.unflatten(0, (64, 64))
        for m in (good, model, tmp_path / "second")
    )
    before, after = (
        float(1 - torch.cosine_similarity(one, clean, dim=-1)[:, [9, 44]].mean()) for one in (spoilt, mended)
    )
    assert before > 0.1 and after < 0.8 * before, (before, after)


def plant(source: Path, target: Path, cells: tuple[int, ...], norm: float) -> Path:
    """The export with a vector of that norm added to the positions of some cells."""
    weights = load_file(source)
    direction = torch.nn.functional.normalize(torch.randn(96, generator=torch.Generator().manual_seed(0)), dim=0)
    weights["positions.table"][:, [1 + cell for cell in cells]] += norm * direction
    save_file(weights, target)
    card = json.loads(source.with_suffix(".json").read_text())
    target.with_suffix(".json").write_text(json.dumps(card | {"sha256": sha256(target)}))
    return target
