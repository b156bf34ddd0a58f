"""The recipes for points, from the command line to a scored model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation import config, paths
from foundation.checkpoints import checkpoint
from foundation.cli import main
from foundation.data.shards import write_shards
from foundation.run.recipe import Recipe
from tests.modalities.points.conftest import SMALL

TINY = (
    "views.global_views.size=128",
    "views.local_views.size=64",
    "views.local_views.count=2",
    "encoder.size=[128]",
    "encoder.preset=null",
    "encoder.width=32",
    "encoder.depth=2",
    "encoder.heads=2",
    "data.samples_per_epoch=null",
)
HEAD = "{prototypes: 64, hidden: 64, bottleneck: 32}"
RECIPES = {
    "shapes16-dcglr-nano": ("objectives.1.queue=24",),
    "quickstart-points": (),
    "point-dino-ibot": (*TINY, f"heads={{cls: {HEAD}, patch: {HEAD}}}"),
    "dcglr": (*TINY, "heads.cls.hidden=64", "heads.contrast.hidden=64", "objectives.1.queue=24"),
    "point-mae": (*TINY, "views.local_views.count=0", "heads.decoder.width=32", "heads.decoder.heads=2"),
}


def shards(wires: Path) -> str:
    return f"data.shards=['{wires}/train-*.tar']"


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains(name, wires, tmp_path, metrics):
    settings = (shards(wires), *SMALL, *RECIPES[name])
    assert main(["pretrain", name, *settings, "--run", str(tmp_path / "run")]) == 0
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    values = [value for line in lines for key, value in line.items() if key.startswith("loss")]
    assert len(values) >= 4 and all(0 < abs(value) < 100 for value in values)
    branch = "student" if name == "point-mae" else "teacher"
    card = json.loads((tmp_path / "run" / "export" / f"{branch}.json").read_text())
    assert card["modality"] == "points" and card["evaluation"]["size"] == card["encoder"]["size"][0]


def test_the_small_recipe_trains_and_hides_groups(small_run, metrics):
    lines = metrics(small_run)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < abs(line[f"loss/{name}"]) < 100 for line in lines for name in ("dino", "ibot", "koleo"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["point-dino-ibot", "dcglr", "point-mae"])
def test_reference_recipes_can_be_planned_without_data(name, capsys):
    assert main(["pretrain", name, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "parameters, encoder" in shown and "not here" in shown


def test_published_numbers_stand_in_the_recipes():
    dcglr = config.load(Recipe, paths.recipe("dcglr"))
    from foundation.modalities.points.views import published

    wanted, found = published("pos-bert"), dcglr.views
    assert (found.global_views, found.local_views) == (wanted.global_views, wanted.local_views)
    assert (found.jitter, found.jitter_clip, found.shift, found.anisotropic) == (0.01, 0.05, 0.2, True)
    assert found.scale == pytest.approx(wanted.scale, abs=1e-3)
    assert dcglr.encoder.tokenizer.groups((1024,)) == 32 and dcglr.heads["cls"].prototypes == 512
    tokens = config.load(Recipe, paths.recipe("point-dino-ibot")).encoder.tokenizer
    assert (tokens.groups((1024,)), tokens.group_size, tokens.widths) == (64, 32, (128, 256, 512))


def test_the_decoder_settings_of_a_recipe_reach_training_and_probes(wires, tmp_path, capsys):
    run = tmp_path / "run"
    settings = (shards(wires), *SMALL, "encoder.depth=1", "views.decode.max_points=2047")
    assert main(["pretrain", "shapes16-dino-ibot-nano", *settings, "--run", str(run)]) == 3
    assert "2048 points are more than max_points = 2047" in capsys.readouterr().err
    settings = (*settings[:-1], "views.decode.max_points=3000")
    assert main(["pretrain", "shapes16-dino-ibot-nano", *settings, "--run", str(run), "--fresh", "--overwrite"]) == 0
    card = json.loads((run / "export" / "teacher.json").read_text())
    assert card["evaluation"]["decode"]["max_points"] == 3000
    card["evaluation"]["decode"]["max_points"] = 2000
    (run / "export" / "teacher.json").write_text(json.dumps(card))
    words = ["knn", str(run / "export" / "teacher.safetensors"), "--train", f"{wires}/test-*.tar"]
    assert main([*words, "--workers", "0"]) == 2
    assert "2048 points are more than max_points = 2000" in capsys.readouterr().err


def test_bad_clouds_are_counted_and_replaced(tmp_path, metrics, capsys):
    """Each kind of damage among good clouds: training goes on until the budget is spent."""
    random = np.random.default_rng(0)

    def member(number: int) -> dict[str, bytes]:
        cloud = random.normal(size=(200, 6)).astype(np.float32)
        if number % 6:
            return {"npy": _npy(cloud)}
        broken = {0: _npy(cloud)[:-40], 6: _npy(cloud[:, :4]), 12: _npy(cloud[:30]), 18: _npy(cloud * np.nan)}
        return {"npy": broken[number]} if number in broken else {"ply": b"no cloud"}

    samples = ({"__key__": f"s{number:03d}", **member(number)} for number in range(30))
    write_shards(samples, tmp_path / "shards", "train")
    settings = [f"data.shards=['{tmp_path}/shards/train-*.tar']", "views.channels=6", "views.normals=true", *SMALL[1:]]
    settings += ["train.length=2 epochs", "encoder.tokenizer.channels=6", *TINY[:-1]]
    words = ["pretrain", "shapes16-dino-ibot-nano", *settings, "--run", str(tmp_path / "run")]
    assert main([*words, "data.max_bad_samples=30"]) == 0
    last = metrics(tmp_path / "run")[-1]
    reasons = {key.rpartition("/")[2] for key in last if key.startswith("data/skipped/")}
    assert reasons == {"truncated", "shape", "too_short", "not_finite", "decode"} and last["data/skipped"] >= 8
    assert main([*words, "data.max_bad_samples=2", "--fresh", "--overwrite"]) == 3
    assert "train-000000.tar" in (said := capsys.readouterr().err) and "s0" in said


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_a_resumed_run_keeps_its_queue_bit_for_bit(wires, tmp_path, metrics):
    settings = (shards(wires), "train.length=4 steps", "train.batch_size=8", "data.workers=0", "train.log_every=1")
    settings += ("objectives.1.queue=36", "train.precision=float32", "checkpoints.every=2 steps", *TINY)

    def train(run: str, *more: str) -> dict[str, str]:
        assert main(["pretrain", "shapes16-dcglr-nano", *settings, *more, "--run", str(tmp_path / run)]) == 0
        newest, _ = checkpoint.newest(tmp_path / run / "checkpoints")
        assert newest is not None
        return {path.name: checkpoint.sha256(path) for path in newest.glob("*.safetensors")}

    whole = train("whole")
    train("cut", "train.stop_after=2 steps")
    torch.manual_seed(99)
    assert train("cut") == whole
    assert [line["loss"] for line in metrics(tmp_path / "cut")] == [
        line["loss"] for line in metrics(tmp_path / "whole")
    ]
    tensors, _ = checkpoint.read(checkpoint.newest(tmp_path / "whole" / "checkpoints")[0], ("objectives",))
    ids = tensors["objectives"]["contrast.queue_ids"]
    assert ids.shape == (36,) and (ids >= 0).all(), "64 teacher views went through 36 places"


def test_knn_scores_the_export_of_a_run(shared_data, small_run, tmp_path):
    shapes, out = shared_data("shapes16_points"), tmp_path / "knn.json"
    data = ["--train", f"{shapes}/train-*.tar", "--test", f"{shapes}/test-*.tar", "--limit", "160", "--workers", "0"]
    exported = str(small_run / "export" / "teacher.safetensors")
    assert main(["knn", exported, *data, "--k", "5", "--size", "256", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]  # one for each treatment
    assert max(row["top1"] for row in rows) > 0.15, "even two steps leave far more than chance (6 %)"
