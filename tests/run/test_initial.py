"""Going on from weights: heads warmed up alone in front of a still encoder, heads of an export, other grids."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundation import config
from foundation.cli import main
from foundation.encoders.positions import LearnedPositions
from foundation.errors import RecipeError, UserError
from foundation.run import build
from foundation.run.recipe import WARM_UP, Recipe
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer
from foundation.schedules import Clock
from foundation.zoo.export import export_checkpoint
from foundation.zoo.load import load_encoder
from tests.run.test_stages import digests, tensors

WIDTH, PATCH = 32, 4
EVERY = "checkpoints={every: 1 steps, keep_last: 30}"
LIKE = (
    "encoder.layer_scale=1e-5", "encoder.position.offset=0.1", "encoder.registers=0", "encoder.drop_path=0.1",
    "train.length=4 steps", EVERY,
)  # fmt: skip


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as DINOv2 publishes one, of the tiny recipe's shape, trained at a grid of 6 x 6."""
    generator, state = torch.Generator().manual_seed(0), {}
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 37, WIDTH), "mask_token": (1, WIDTH), "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,), "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
    }  # fmt: skip
    for start in ("blocks.0", "blocks.1"):
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"{start}.{name}"] = (WIDTH,)
        for layer, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"{start}.{layer}.weight"] = (out * WIDTH, into * WIDTH)
            shapes[f"{start}.{layer}.bias"] = (out * WIDTH,)
    for name, shape in shapes.items():
        state[name] = torch.randn(shape, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("published") / "v2.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def warmed(weights, tiny_shards, tmp_path_factory) -> tuple[Path, Recipe, list[str]]:
    """A run that warms its heads up for 3 steps and goes on for 4, with a checkpoint of every step."""
    from tests.conftest import RECIPE

    recipe = config.load(Recipe, RECIPE.format(shards=tiny_shards), (*LIKE, initial(weights, "warm_up_heads: 3 steps")))
    folder = tmp_path_factory.mktemp("warmed") / "run"
    said: list[str] = []
    with RunFolder(folder) as run:
        Trainer(recipe, run, say=said.append).run()
    return folder, recipe, said


def initial(weights: Path, *more: str) -> str:
    return f"initial={{weights: '{weights},as=dinov2,heads=2'{''.join(', ' + one for one in more)}}}"


def part(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys() and one
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_encoder_stands_still_while_the_heads_warm_up(warmed, weights):
    folder, recipe, _ = warmed
    assert [stage.name for stage in recipe.stages] == [WARM_UP, "whole"] and recipe.clock(40).total_steps == 4
    loaded = load_encoder(f"{weights},as=dinov2,heads=2").encoder
    own = dict(loaded.state_dict())
    own["positions.table"] = loaded.positions.at((4, 4))["table"]
    heads = []
    for step in range(4):
        for branch in ("student", "teacher"):
            assert same(part(tensors(folder, step, branch), "encoder."), own)
        heads.append(part(tensors(folder, step, "student"), "heads."))
    assert not any(same(one, other) for one, other in pairwise(heads))
    after = part(tensors(folder, 4, "student"), "encoder.")
    assert [name for name in own if torch.equal(own[name], after[name])] in ([], ["mask_token"])
    assert not same(part(tensors(folder, 7, "teacher"), "encoder."), own)
    kept = tensors(folder, 3, "optimizer")
    assert kept and all(".heads." in f".{name}" for name in kept)


def test_the_recipe_of_such_a_run_is_one_of_stages(warmed):
    """So that runs, exports and other machines read it as they read any."""
    folder, recipe, _ = warmed
    text = (folder / "recipe.yaml").read_text()
    again = config.load(Recipe, text)
    assert again == recipe.lasting and again.initial is not None and again.initial.warm_up_heads is None
    assert again.stage(0).initial is not None and again.stage(1).initial is None
    rates = again.stage(0).optimizer
    assert rates.learning_rate.shape == "constant" and rates.freeze_last_layer.amount == 0
    assert load_encoder(folder).step == 7


@pytest.mark.parametrize("stop", [2, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 5))])
def test_stopped_inside_and_behind_it_goes_on_bit_for_bit(warmed, weights, train, tiny_recipe, tmp_path, stop):
    settings = (*LIKE, initial(weights, "warm_up_heads: 3 steps"))
    train(tiny_recipe(*settings, f"train.stop_after={stop} steps"), tmp_path / "cut")
    torch.manual_seed(99)
    train(tiny_recipe(*settings), tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(warmed[0])


@pytest.mark.slow
@pytest.mark.fault(1, "kill -9 at 6 random steps of a run that warms its heads up first")
def test_killed_while_heads_warm_up(weights, tiny_recipe_file, metrics, tmp_path, happened):
    from tests.run.test_stages import _killed

    settings = [*LIKE[:4], initial(weights, "warm_up_heads: 10 steps"), "train.length=8 steps"]
    _killed(tiny_recipe_file, tmp_path / "whole", 0, *settings)
    attempts = _killed(tiny_recipe_file, tmp_path / "killed", 6, *settings)
    assert sum(attempt["exit"] == -9 for attempt in attempts) == 6
    one, other = (metrics(tmp_path / name) for name in ("whole", "killed"))
    assert [line["loss"] for line in one] == [line["loss"] for line in other]
    assert digests(tmp_path / "whole") == digests(tmp_path / "killed")
    happened("losses and the SHA-256 of every tensor file as in the run that was never killed")


def test_what_is_said_of_the_first_weights(warmed, weights, tiny_recipe_file, capsys):
    _, _, said = warmed
    lines = [line.removeprefix("  weights     ") for line in "\n".join(said).splitlines() if "weights  " in line]
    assert any(line.startswith("the encoder begins with v2 of DINOv2") for line in lines)
    assert "positions of a grid of 6 x 6 tokens are resized to 4 x 4" in lines
    assert "1 head (cls) begins at random" in lines
    arguments = ["pretrain", str(tiny_recipe_file), "--dry-run", *LIKE, "encoder.registers=2"]
    assert main([*arguments, initial(weights)]) == 0
    shown = capsys.readouterr().out
    assert "first weights: register_tokens start at random" in shown
    assert "initial.warm_up_heads trains them alone first" in shown
    assert main([*arguments, initial(weights, "warm_up_heads: 3 steps")]) == 0
    shown = capsys.readouterr().out
    assert f"first weights: stage {WARM_UP}: 1 head (cls) begins at random" in shown
    assert "trains them alone" not in shown and "parameters, trained of them" in shown


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("encoder.heads=4", "encoder.heads is 4, and initial.weights .* trained with 2"),
        (
            "encoder.layer_scale=null",
            r"do not fit.*attention_scale.*They are of this one: encoder: \{name: vit",
        ),
        ("encoder.tokenizer.patch_size=8", "do not fit the encoder; different are tokenizer.projection.weight"),
        ("encoder.depth=3", "do not fit the encoder; different are trunk.blocks.2"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_encoder_that_would(changed, words, weights, tiny_recipe):
    recipe = tiny_recipe(*LIKE, initial(weights), changed)
    for device in ("meta", "cpu"):
        with torch.device(device), pytest.raises(RecipeError, match=words):
            build.learner(recipe, Clock(8, 8.0))


def test_settings_that_no_shape_tells_are_named(weights, tiny_recipe):
    recipe = tiny_recipe(*LIKE, initial(weights), "encoder.norm_eps=1e-5", "encoder.position.offset=0.0")
    learner = build.learner(recipe, Clock(8, 8.0))
    said = learner.named_branches["student"].begins
    assert "encoder.norm_eps is 1e-05, and the weights were trained with 1e-06" in said
    assert "encoder.position.offset is 0.0, and the weights were trained with 0.1" in said


def test_a_warm_up_in_front_of_stages_and_without_heads(weights, tiny_recipe):
    stages = (
        "stages=[{name: a, length: 2 steps}, {name: b, length: 2 steps, masking: null, objectives: [{name: dino}]}]"
    )
    recipe = tiny_recipe(*LIKE, initial(weights, "warm_up_heads: 1 steps"), stages)
    assert [stage.name for stage in recipe.stages] == [f"a-{WARM_UP}", "a", "b"]
    assert recipe.stage(0).train.only == ("!student.encoder",) and recipe.stage(1).train.only is None
    assert config.load(Recipe, config.dump(recipe)) == recipe
    bare = tiny_recipe(
        *LIKE, initial(weights, "warm_up_heads: 1 steps"), "heads={}", "masking=null", "objectives=[{name: koleo}]"
    )
    from foundation.run.stage import check, parts

    with pytest.raises(RecipeError, match=r"nothing is trained: !student\.encoder leaves no parameter"):
        check(bare, parts(bare), build.placement(bare))


def test_heads_of_an_export_go_on(warmed, tiny_recipe, tmp_path):
    folder, _, _ = warmed
    card = json.loads((folder / "export" / "student.json").read_text())
    assert card["heads"]["file"] == "student.heads.safetensors" and card["heads"]["names"] == ["cls"]
    first = LIKE[:4]
    for source in (folder, folder / "export" / "teacher.safetensors", folder / "checkpoints" / "step-00000007"):
        recipe = tiny_recipe(*first, f"initial={{weights: '{source}', heads: true}}")
        student = build.learner(recipe, Clock(8, 8.0)).branch("student")
        assert same(student.state_dict(), tensors(folder, 7, "teacher"))
        assert student.begins[-1] == "1 head (cls) begins with the weights that were trained with the encoder"
    without = build.learner(tiny_recipe(*first, f"initial.weights={folder}"), Clock(8, 8.0)).branch("student")
    assert not same(without.heads.state_dict(), part(tensors(folder, 7, "teacher"), "heads."))
    export_checkpoint(folder / "checkpoints" / "step-00000007", tmp_path)
    for branch in ("student", "teacher"):
        for ending in (".safetensors", ".heads.safetensors"):
            one, other = ((place / f"{branch}{ending}").read_bytes() for place in (tmp_path, folder / "export"))
            assert one == other


def test_heads_that_are_missing_or_of_other_shapes(warmed, weights, tiny_recipe, tmp_path):
    folder, _, _ = warmed
    export_checkpoint(folder / "checkpoints" / "step-00000007", tmp_path)
    own, first = f"initial={{weights: '{tmp_path / 'teacher.safetensors'}', heads: true}}", LIKE[:4]

    def student(*settings: str):
        return build.learner(tiny_recipe(*first, *settings), Clock(8, 8.0)).branch("student")

    with pytest.raises(RecipeError, match=r"do not fit those of the recipe; different are cls\."):
        student(own, "heads.cls.prototypes=48")
    more = "objectives=[{name: dino}, {name: ibot, target: sinkhorn, head: other}]"
    head = "{prototypes: 32, hidden: 32, bottleneck: 16}"
    assert "1 head (other) begins at random" in student(own, f"heads={{cls: {head}, other: {head}}}", more).begins
    with pytest.raises(RecipeError, match="has no heads"):
        student(initial(weights, "heads: true"))
    heads = tmp_path / "teacher.heads.safetensors"
    whole = heads.read_bytes()
    heads.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RecipeError, match="checksum mismatch"):
        student(own)
    heads.unlink()
    with pytest.raises(RecipeError, match="which are not beside it: copy both"):
        student(own)
    card = json.loads((tmp_path / "teacher.json").read_text())
    del card["heads"]  # of an older version
    (tmp_path / "teacher.json").write_text(json.dumps(card))
    assert student(f"initial.weights={tmp_path / 'teacher.safetensors'}").begins[-1] == "1 head (cls) begins at random"
    with pytest.raises(RecipeError, match="has no heads"):
        student(own)


def test_a_resized_table_gives_the_positions_that_the_old_one_would(tiny_recipe):
    torch.manual_seed(0)
    from foundation.encoders.positions import PositionConfig

    for grid, new, settings in (
        ((4, 4), (6, 5), {}),
        ((2, 4, 4), (4, 3, 4), {"factorised": True}),
        ((1, 9), (1, 5), {"fit": "cut"}),
    ):
        old = LearnedPositions(8, grid, PositionConfig(**settings))
        with torch.no_grad():
            for parameter in old.parameters():
                parameter.normal_()
            made = LearnedPositions(8, new, PositionConfig(**settings))
            made.load_state_dict(old.at(new))
            for one, other in zip(made(new), old(new), strict=True):
                torch.testing.assert_close(one, other)


def test_a_mistyped_key_is_named(tiny_recipe):
    with pytest.raises(UserError, match="warm_up_head"):
        tiny_recipe("initial={weights: x, warm_up_head: 3 steps}")
