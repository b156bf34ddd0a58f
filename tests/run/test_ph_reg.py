"""PH-Reg as a recipe of two stages on real pictures: registers for what a ViT has learnt without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundation import config, paths
from foundation.cli import main
from foundation.errors import RecipeError, UserError
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.trainable import choose
from foundation.schedules import Clock
from tests.run.test_kill import assert_equal

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


def tensors(folder: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    (checkpoint,) = (folder / "checkpoints").glob(f"step-*{step:03}")
    return load_file(checkpoint / f"{name}.safetensors")


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
        ("encoder.tokenizer.patch_size=8", "into 16 patches and branch 'clean' into 64"),
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
def test_an_export_without_registers_is_given_some_and_loses_planted_artefacts(shared_data, whole, tmp_path):
    """A run of one stage from a model of one's own, whose table of positions has been spoilt in two cells."""
    from foundation.probes import artefacts
    from foundation.zoo.load import load_encoder

    stopped, data = tmp_path / "first", f"data.shards=['{shared_data('cifar10')}/train-000000.tar']"
    assert main(["pretrain", RECIPE, *SMALL, data, f"train.stop_after={FIRST} steps", "--run", str(stopped)]) == 0
    model = plant(stopped / "export" / "student.safetensors", tmp_path / "planted.safetensors", cells=(9, 44), norm=4.0)
    own = (
        "stages=[]", "train.only=[registers, positions, patch_embed, blocks.-1]", f"initial={{weights: {model}}}",
        f"branches.original={{name: frozen, weights: {model}}}", "branches.clean.shift=[0.3]",
        "branches.clean.copies=8",
    )  # fmt: skip
    assert main(["pretrain", RECIPE, *SMALL[1:], data, *own, "--run", str(tmp_path / "second")]) == 0
    shards = [f"{shared_data('cifar10')}/test-000000.tar"]
    looks = [artefacts.look(load_encoder(m), shards, limit=64) for m in (model, tmp_path / "second")]
    limit = artefacts.Limit.of(looks[0].norms, 6.0)
    shares = [artefacts.summary(look, 6.0, 150.0, limit)["above_first"] for look in looks]
    assert shares[0] == pytest.approx(2 / 64, abs=1e-3) and shares[1] < 0.5 * shares[0], shares


def plant(source: Path, target: Path, cells: tuple[int, ...], norm: float) -> Path:
    """The export with a vector of that norm added to the positions of some cells."""
    from safetensors.torch import save_file

    from foundation.checkpoints.checkpoint import sha256

    weights = load_file(source)
    direction = torch.nn.functional.normalize(torch.randn(96, generator=torch.Generator().manual_seed(0)), dim=0)
    weights["positions.table"][:, [1 + cell for cell in cells]] += norm * direction
    save_file(weights, target)
    card = json.loads(source.with_suffix(".json").read_text())
    target.with_suffix(".json").write_text(json.dumps(card | {"sha256": sha256(target)}))
    return target
