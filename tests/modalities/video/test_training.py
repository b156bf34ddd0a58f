"""The recipes for video, from the command line to a scored model, on real clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foundation.cli import main
from foundation.schedules import Clock
from foundation.types import Batch
from tests.modalities.video.conftest import draws, encode

pytest.importorskip("av")

SMALL = ("train.stop_after=2 steps", "train.batch_size=4", "train.log_every=1", "data.workers=0")
TINY = (
    "views.global_views.size=32",
    "views.global_views.frames=4",
    "views.local_views.size=16",
    "views.local_views.frames=2",
    "views.local_views.count=2",
    "views.blur_sigma=[0.1, 1.0]",
    "views.decode.short_side=40",
    "encoder.size=[4, 32, 32]",
    "encoder.preset=null",
    "encoder.width=32",
    "encoder.depth=2",
    "encoder.heads=2",
    "masking.min_patches=1",
    "heads.cls.prototypes=64",
    "heads.patch.prototypes=64",
    "data.samples_per_epoch=null",
)
_TOWER = "preset: null, width: 32, depth: 2, heads: 2"
TINY_DISCOVR = (
    "views.global_views.size=32",
    "views.global_views.frames=4",
    "views.decode.short_side=40",
    f"encoder.towers.video={{name: vit, {_TOWER}, size: [4, 32, 32], tokenizer: {{name: video, patch_size: 8}}}}",
    f"encoder.towers.image={{name: vit, {_TOWER}, size: [32, 32], tokenizer: {{name: image, patch_size: 8}}}}",
    "heads.video.prototypes=64",
    "heads.image.prototypes=64",
    "objectives.0.prototypes=20",
    "objectives.0.decoder_depth=1",
    "objectives.0.decoder_width=24",
    "data.samples_per_epoch=null",
)
RECIPES = {
    "utd-depth-dino-ibot-nano": ("encoder.depth=1",),
    "video-dino-ibot": TINY,
    "utd-depth-discovr-nano": (),
    "discovr": TINY_DISCOVR,
}


@pytest.fixture(scope="module")
def depth(shared_data) -> Path:
    return shared_data("utd_mhad_depth_imu")


def train(name: str, depth: Path, run: Path, *settings: str) -> Path:
    shards = f"data.shards=['{depth}/train-*.tar']"
    assert main(["pretrain", name, shards, *SMALL, *settings, "--run", str(run)]) == 0
    return run / "export" / "teacher.safetensors"


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains(name, depth, tmp_path, metrics):
    train(name, depth, tmp_path / "run", *RECIPES[name])
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    values = [value for line in lines for key, value in line.items() if key.startswith("loss")]
    assert len(values) >= 6 and all(0 < abs(value) < 100 for value in values)
    card = json.loads((tmp_path / "run" / "export" / "teacher.json").read_text())
    encoder = card["encoder"]["towers"]["video"] if "discovr" in name else card["encoder"]
    frames, size, _ = encoder["size"]
    assert card["modality"] == "video" and (card["evaluation"]["frames"], card["evaluation"]["size"]) == (frames, size)
    assert card["evaluation"]["decode"]["short_side"] == (256 if "nano" in name else 40)


def test_a_mask_hides_a_place_at_all_times(depth, tmp_path):
    from foundation import config, paths
    from foundation.recipe import Recipe

    recipe = config.load(Recipe, paths.recipe("video-dino-ibot"))
    coordinates = recipe.encoder.coordinates((16, 224, 224))
    mask = recipe.masking.build()(coordinates, 2, draws(*range(4)), np.arange(4), 4, 0)
    tubes = mask.masked.view(8, 8, 14, 14)
    assert (tubes == tubes[:, :1]).all() and 0 < tubes.float().mean() < 1
    assert (tubes.flatten(1).any(1).sum() == 4) and len(mask.weights) == tubes.sum()


@pytest.mark.parametrize("name", ["video-dino-ibot", "discovr"])
def test_reference_recipes_can_be_planned_without_data(name, capsys):
    assert main(["pretrain", name, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "parameters, encoder" in shown and "not here" in shown


@pytest.mark.parametrize("name", ["utd-depth-dino-ibot-nano", "utd-depth-discovr-nano"])
def test_knn_scores_the_export_of_a_run(name, depth, tmp_path):
    exported = train(name, depth, tmp_path / "run")
    data = ["--train", f"{depth}/train-*.tar", "--test", f"{depth}/test-*.tar", "--limit", "40", "--workers", "0"]
    out = tmp_path / "knn.json"
    assert main(["knn", str(exported), *data, "--k", "5", "--size", "32", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["results"]
    assert 0 <= row["top1"] <= 1


def test_tubelets_meet_the_patches_of_their_own_frames(depth):
    """With one encoder for both (a tubelet of one frame, image weights inflated), the paired tokens are equal."""
    from foundation import config, paths
    from foundation.data.shards import open_shards
    from foundation.modalities.video.inflate import inflate
    from foundation.recipe import Recipe

    text = "size: [4, 32, 32], position: {factorised: true}, tokenizer: {name: video, tubelet: 1, patch_size: 8}"
    settings = [*TINY_DISCOVR, f"encoder.towers.video={{name: vit, {_TOWER}, {text}}}", "views.frames_every=1"]
    recipe = config.load(Recipe, paths.recipe("discovr"), [*settings, "objectives.0.over=all"])
    towers = recipe.encoder.build().eval()
    inflate(towers.towers["video"], towers.towers["image"])
    shards = open_shards([f"{depth}/train-*.tar"])
    samples = [recipe.views.decode.build()(shards.read(*shards.locate(number))) for number in range(3)]
    maker = recipe.views.build()
    views = maker.finish(maker.prepare(samples, draws(*(sample["__id__"] for sample in samples))))
    clips, _, _ = towers.towers["video"].embed(views["global"].data)
    frames, _, _ = towers.towers["image"].embed(views["frame"].data)
    objective = recipe.objectives[0].build(clock=Clock(10, 1.0), heads={}, width=32)
    batch = Batch(views, {}, (), torch.zeros(3), 0, 3)
    torch.testing.assert_close(objective.aligned(frames[:, 1:], clips[:, 1:], batch), clips[:, 1:])


def test_a_run_starts_from_an_image_model(depth, tmp_path, tiny_shards):
    from tests.conftest import RECIPE

    image = tmp_path / "image.yaml"
    image.write_text(RECIPE.format(shards=tiny_shards))
    wide = ("encoder.size=[32, 32]", "encoder.tokenizer.patch_size=16", "views.global_views.size=32", "masking=null")
    wide += ("views.local_views.size=16", "objectives=[{name: dino}]", "train.stop_after=2 steps")
    assert main(["pretrain", str(image), *wide, "--run", str(tmp_path / "image")]) == 0
    settings = (*TINY, "encoder.layer_scale=null", f"initial.weights={tmp_path / 'image'}", "train.length=100 steps")
    settings += ("optimizer.learning_rate={start: 1e-9, end: 1e-9}", "train.stop_after=1 steps")
    exported = train("video-dino-ibot", depth, tmp_path / "video", *settings)
    first, source = load_file(exported), load_file(tmp_path / "image" / "export" / "teacher.safetensors")
    for name in (name for name in source if name.startswith("trunk.")):
        torch.testing.assert_close(first[name], source[name])
    projection = first["tokenizer.projection.weight"]
    torch.testing.assert_close(projection.sum(2), source["tokenizer.projection.weight"])
    torch.testing.assert_close(first["positions.table"], source["positions.table"])


def test_weights_that_do_not_fit_are_refused(depth, tmp_path, capsys):
    small = train("utd-depth-dino-ibot-nano", depth, tmp_path / "run", "encoder.depth=1")
    shards = f"data.shards=['{depth}/train-*.tar']"
    arguments = ["pretrain", "utd-depth-dino-ibot-nano", shards, *SMALL, f"initial.weights={small}"]
    assert main([*arguments, "--run", str(tmp_path / "again")]) == 2
    assert "do not fit the encoder; different are trunk.blocks.1." in capsys.readouterr().err
    assert main([*arguments, "initial.weights=nowhere", "--run", str(tmp_path / "third")]) == 2
    assert "'nowhere' does not exist" in capsys.readouterr().err


def test_bad_videos_are_counted_named_and_replaced(tmp_path, metrics):
    from foundation.data.shards import write_shards

    good = encode(np.arange(10) / 10, size=(32, 32))
    bad = {"cut": good[: len(good) // 2], "text": b"no video" * 50, "empty": b"", "one": encode([0.0], size=(32, 32))}
    samples = [{"__key__": f"good{number}", "mp4": good} for number in range(8)]
    samples += [{"__key__": name, "mp4": data} for name, data in bad.items()]
    write_shards(samples, tmp_path / "shards", "train")
    run = tmp_path / "run"
    arguments = ["pretrain", "video-dino-ibot", f"data.shards=['{tmp_path}/shards/train-*.tar']", *SMALL, *TINY]
    assert main([*arguments, "train.stop_after=3 steps", "train.batch_size=12", "--run", str(run)]) == 0
    counted = {key: value for key, value in metrics(run)[-1].items() if key.startswith("data/skipped")}
    assert set(counted) >= {f"data/skipped/{reason}" for reason in ("truncated", "decode", "empty", "too_short")}
    assert main([*arguments, "data.max_bad_samples=1", "--run", str(tmp_path / "strict")]) == 3
