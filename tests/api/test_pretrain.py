"""``foundation.pretrain``: a folder of files is enough; the same call resumes; errors are raised."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import foundation
from foundation.api.command import settings
from foundation.api.folder_shards import modality_of, own_files, shards_of_folder
from foundation.data.shards import open_shards
from foundation.errors import UserError
from tests.api.conftest import draw

SMALL = {
    "train.batch_size": 8, "train.precision": "float32", "train.device": "cpu", "train.log_every": 1, "data.workers": 0,
    "encoder.width": 32, "encoder.depth": 1, "encoder.heads": 2, "encoder.size": [32, 32],
    "views.global_views.size": 32,
    "views.local_views.size": 16, "heads.cls.hidden": 32, "heads.patch.hidden": 32, "heads.cls.prototypes": 16,
    "heads.patch.prototypes": 16, "checkpoints.every": "2 steps",
}  # fmt: skip


def test_a_folder_of_files_is_enough_and_the_same_call_goes_on(photographs, tmp_path):
    def call(**more):
        return foundation.pretrain(data=photographs, out=tmp_path / "run", set=SMALL, train__length="4 steps", **more)

    run = call(train__stop_after="2 steps")
    assert (run.state, run.step, run.total) == ("stopped", 2, 4)
    run = call()
    assert (run.state, run.step) == ("done", 4) and [line["step"] for line in run.metrics if "loss" in str(line)]
    model = run.load()
    assert model.modality == "image" and model(np.zeros((20, 20, 3), np.uint8)).shape == (1, 32)
    with pytest.raises(UserError, match="batch_size"):
        call(train__batch_size=4)
    with pytest.raises(UserError, match="learning_rat"):
        call(optimizer__learning_rat=1.0)
    assert foundation.pretrain(out=tmp_path / "run").state == "done"


def test_shards_of_a_folder_are_built_once_and_again_when_a_file_changes(photographs, capfd):
    first = shards_of_folder(photographs)
    assert first.modality == "image" and open_shards(first.train).num_samples == 24
    before = {path: path.stat().st_mtime_ns for path in first.folder.glob("*.tar")}
    assert shards_of_folder(photographs) == first
    assert {path: path.stat().st_mtime_ns for path in first.folder.glob("*.tar")} == before
    draw(photographs / "red" / "new.png", 0, 99)
    more = shards_of_folder(photographs)
    assert more.folder != first.folder and open_shards(more.train).num_samples == 25
    assert first.folder.is_dir()  # a run may be reading them
    os.utime(first.folder / "used", (0, 0))
    shards_of_folder(photographs)
    assert not first.folder.exists() and more.folder.is_dir()
    shutil.rmtree(more.folder)
    (photographs / "red" / "new.png").write_bytes(b"no picture")
    assert open_shards(shards_of_folder(photographs).train).num_samples == 24


def test_what_files_are_is_said_by_their_endings(tmp_path):
    assert {kind: own.recipes["cpu"] for kind, own in own_files().items()}.keys() >= {"image", "audio", "video", "imu"}
    assert modality_of(["a/1.JPG", "a/2.png", "notes.txt"], tmp_path) == "image"
    assert modality_of(["1.wav", "2.flac", "labels.csv"], tmp_path) == "audio"
    with pytest.raises(UserError, match="several kinds"):
        modality_of(["1.wav", "2.png"], tmp_path)
    with pytest.raises(UserError, match=r"can be of .* or .*: say which by modality"):
        modality_of(["1.npy", "2.npy"], tmp_path)
    with pytest.raises(UserError, match="no files that can be trained on"):
        modality_of(["a.xyzzy"], tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        shards_of_folder(tmp_path / "nothing")


def test_recipes_of_own_files_are_shipped_ones():
    from foundation import config, paths
    from foundation.run.recipe import Recipe

    for kind, own in own_files().items():
        for name in own.recipes.values():
            assert config.load(Recipe, paths.recipe(name).read_text(encoding="utf-8")).views.modality == kind


def test_changes_are_written_as_the_command_line_takes_them():
    assert settings({"a.b": 1e-6}, {"train__length": "3 steps", "data__shards": [Path("x")], "c": np.float32(2)}) == [
        "a.b=1e-06", 'train.length="3 steps"', 'data.shards=["x"]', "c=2.0"
    ]  # fmt: skip
    assert torch.get_num_threads() >= 1


@pytest.mark.slow  # help() looks at everything, torch too
def test_help_shows_every_call():
    code = (
        "import sys, foundation; names = dir(foundation); help(foundation)\n"
        "assert {'load', 'pretrain', 'finetune', 'predictor', 'FeatureExtractor'} <= set(names)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("load(", "pretrain(", "finetune(", "predictor(", "class FeatureExtractor"):
        assert name in done.stdout, name
