"""The recipes for video, from the command line to a scored model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foundation.cli import main
from foundation.schedules import Clock
from foundation.types import Batch
from tests.modalities.video.conftest import draws, encode
from tests.objectives.contexts import context

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
    "heads.decoder.depth=1",
    "heads.decoder.width=24",
    "data.samples_per_epoch=null",
)
RECIPES = {
    "utd-depth-dino-ibot-nano": ("encoder.depth=1",),
    "video-dino-ibot": TINY,
    "utd-depth-discovr-nano": (),
    "discovr": TINY_DISCOVR,
}


def square(number: int, frame: int, label: int) -> np.ndarray:
    """A bright square on its way across a dark frame: to the right, to the left, or down."""
    pixels = np.full((56, 56, 3), 20, np.uint8)
    place, aside = 2 + 2 * frame, 10 + 5 * (number % 5)
    top, left = [(aside, place), (aside, 42 - place), (place, aside)][label]
    pixels[max(top, 0) : top + 10, max(left, 0) : left + 10] = 150 + 8 * (number % 10)
    return pixels


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Shards of short videos of three kinds of motion: 16 to train on, 8 to test."""
    from foundation.data.shards import write_shards

    folder = tmp_path_factory.mktemp("clips")
    for split, first, count in (("train", 0, 16), ("test", 50, 8)):
        numbers = range(first, first + count)
        samples = [
            {
                "__key__": f"{split}{number}",
                "mp4": encode(np.arange(20) / 10, size=(56, 56), draw=partial(_frame, number)),
                "cls": str(number % 3).encode(),
            }
            for number in numbers
        ]
        write_shards(samples, folder, split)
    return folder


def _frame(number: int, frame: int) -> np.ndarray:
    return square(number, frame, number % 3)


def train(name: str, clips: Path, run: Path, *settings: str) -> Path:
    shards = f"data.shards=['{clips}/train-*.tar']"
    assert main(["pretrain", name, shards, *SMALL, *settings, "--run", str(run)]) == 0
    return run / "export" / "teacher.safetensors"


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains(name, clips, tmp_path, metrics):
    train(name, clips, tmp_path / "run", *RECIPES[name])
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    values = [value for line in lines for key, value in line.items() if key.startswith("loss")]
    assert len(values) >= 6 and all(0 < abs(value) < 100 for value in values)
    card = json.loads((tmp_path / "run" / "export" / "teacher.json").read_text())
    encoder = card["encoder"]["towers"]["video"] if "discovr" in name else card["encoder"]
    frames, size, _ = encoder["size"]
    assert card["modality"] == "video" and (card["evaluation"]["frames"], card["evaluation"]["size"]) == (frames, size)
    assert card["evaluation"]["decode"]["short_side"] == (256 if "nano" in name else 40)


def test_a_mask_hides_a_place_at_all_times():
    from foundation import config, paths
    from foundation.run.recipe import Recipe

    recipe = config.load(Recipe, paths.recipe("video-dino-ibot"))
    coordinates = recipe.encoder.coordinates((16, 224, 224))
    mask = recipe.masking.build()(coordinates, 2, draws(*range(4)), np.arange(4), 4, 0)
    tubes = mask.masked.view(8, 8, 14, 14)
    assert (tubes == tubes[:, :1]).all() and 0 < tubes.float().mean() < 1
    assert (tubes.flatten(1).any(1).sum() == 4) and len(mask.weights) == tubes.sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["video-dino-ibot", "discovr"])
def test_reference_recipes_can_be_planned_without_data(name, capsys):
    assert main(["pretrain", name, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "parameters, encoder" in shown and "not here" in shown


@pytest.mark.parametrize("name, size", [("utd-depth-dino-ibot-nano", "36"), ("utd-depth-discovr-nano", "32")])
def test_knn_scores_the_export_of_a_run(name, size, clips, tmp_path):
    exported = train(name, clips, tmp_path / "run")
    data = ["--train", f"{clips}/train-*.tar", "--test", f"{clips}/test-*.tar", "--workers", "0"]
    out = tmp_path / "knn.json"
    assert main(["knn", str(exported), *data, "--k", "5", "--size", size, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]
    assert {row["treatment"] for row in rows} == {"as is", "standardised", "whitened"}
    assert max(row["top1"] for row in rows) >= 0.5, "even two steps leave far more than chance"


def test_tubelets_meet_the_patches_of_their_own_frames(clips):
    """With one encoder for both (a tubelet of one frame, image weights inflated), the paired tokens are equal."""
    from foundation import config, paths
    from foundation.data.shards import open_shards
    from foundation.modalities.video.inflate import inflate
    from foundation.run.recipe import Recipe

    text = "size: [4, 32, 32], position: {factorised: true}, tokenizer: {name: video, tubelet: 1, patch_size: 8}"
    settings = [*TINY_DISCOVR, f"encoder.towers.video={{name: vit, {_TOWER}, {text}}}", "views.frames_every=1"]
    recipe = config.load(Recipe, paths.recipe("discovr"), [*settings, "objectives.0.over=all"])
    towers = recipe.encoder.build().eval()
    inflate(towers.towers["video"], towers.towers["image"])
    shards = open_shards([f"{clips}/train-*.tar"])
    samples = [recipe.views.decode.build()(shards.read(*shards.locate(number))) for number in range(3)]
    maker = recipe.views.build()
    views = maker.finish(maker.prepare(samples, draws(*(sample["__id__"] for sample in samples))))
    clips, _, _ = towers.towers["video"].embed(views["global"].data)
    frames, _, _ = towers.towers["image"].embed(views["frame"].data)
    objective = recipe.objectives[0].build(context(Clock(10, 1.0), recipe.heads, 32))
    batch = Batch(views, {}, (), torch.zeros(3), 0, 3)
    torch.testing.assert_close(objective.aligned(frames[:, 1:], clips[:, 1:], batch), clips[:, 1:])


def test_a_run_starts_from_an_image_model(clips, tmp_path, tiny_shards):
    from tests.conftest import RECIPE

    image = tmp_path / "image.yaml"
    image.write_text(RECIPE.format(shards=tiny_shards))
    wide = ("encoder.size=[32, 32]", "encoder.tokenizer.patch_size=16", "views.global_views.size=32", "masking=null")
    wide += ("views.local_views.size=16", "objectives=[{name: dino}]", "train.stop_after=2 steps")
    assert main(["pretrain", str(image), *wide, "--run", str(tmp_path / "image")]) == 0
    settings = (*TINY, "encoder.layer_scale=null", f"initial.weights={tmp_path / 'image'}", "train.length=100 steps")
    settings += ("optimizer.learning_rate={start: 1e-9, end: 1e-9}", "train.stop_after=1 steps")
    exported = train("video-dino-ibot", clips, tmp_path / "video", *settings)
    first, source = load_file(exported), load_file(tmp_path / "image" / "export" / "teacher.safetensors")
    for name in (name for name in source if name.startswith("trunk.")):
        torch.testing.assert_close(first[name], source[name])
    projection = first["tokenizer.projection.weight"]
    torch.testing.assert_close(projection.sum(2), source["tokenizer.projection.weight"])
    torch.testing.assert_close(first["positions.table"], source["positions.table"])


def test_weights_that_do_not_fit_are_refused(clips, tmp_path, capsys):
    small = train("utd-depth-dino-ibot-nano", clips, tmp_path / "run", "encoder.depth=1")
    shards = f"data.shards=['{clips}/train-*.tar']"
    arguments = ["pretrain", "utd-depth-dino-ibot-nano", shards, *SMALL, f"initial.weights={small}"]
    assert main([*arguments, "--run", str(tmp_path / "again")]) == 2
    assert "do not fit the encoder; different are trunk.blocks.1." in capsys.readouterr().err
    assert main([*arguments, "initial.weights=nowhere", "--run", str(tmp_path / "third")]) == 2
    assert "'nowhere' does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_bad_videos_are_counted_named_and_replaced(tmp_path, metrics):
    from foundation.data.shards import write_shards

    good = encode(np.arange(10) / 10, size=(32, 32))
    bad = {"cut": good[: len(good) // 2], "text": b"no video" * 50, "empty": b"", "one": encode([0.0], size=(32, 32))}
    samples = [{"__key__": f"good{number}", "mp4": good} for number in range(8)]
    samples += [{"__key__": name, "mp4": data} for name, data in bad.items()]
    write_shards(samples, tmp_path / "shards", "train")
    run = tmp_path / "run"
    arguments = ["pretrain", "video-dino-ibot", f"data.shards=['{tmp_path}/shards/train-*.tar']", *SMALL, *TINY]
    assert main([*arguments, "train.stop_after=2 steps", "train.batch_size=12", "--run", str(run)]) == 0
    counted = {key: value for key, value in metrics(run)[-1].items() if key.startswith("data/skipped")}
    assert set(counted) >= {f"data/skipped/{reason}" for reason in ("truncated", "decode", "empty", "too_short")}
    assert main([*arguments, "data.max_bad_samples=1", "--run", str(tmp_path / "strict")]) == 3


@pytest.mark.slow
def test_real_videos_train_and_are_scored(shared_data, tmp_path, metrics):
    folder = shared_data("utd_mhad_depth_imu")
    exported = train("utd-depth-dino-ibot-nano", folder, tmp_path / "run")
    assert metrics(tmp_path / "run")[-1]["step"] == 2
    data = ["--train", f"{folder}/train-*.tar", "--test", f"{folder}/test-*.tar", "--limit", "60", "--workers", "0"]
    out = tmp_path / "knn.json"
    assert main(["knn", str(exported), *data, "--k", "5", "--baselines", "--json", str(out)]) == 0
    rows = {row["name"]: row["top1"] for row in json.loads(out.read_text())["results"]}
    assert rows["raw"] > 0.1, "whole clips of pixels alone tell more than chance (4 %)"
