"""Shards of others: keys with dots, labels that are words or several. Pretraining needs no label."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foundation.data.shards import open_shards
from foundation.data.verify import verify
from foundation.errors import UserError
from foundation.modalities.image.views import EvaluationConfig
from foundation.modalities.inspect import inspect
from foundation.probes.knn import Config as Knn
from foundation.probes.road import features_of_shards
from foundation.probes.simple_encoders import RawEncoder


def foundation(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foundation", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=None)


def flat(text: str) -> str:
    return " ".join(text.replace("│", " ").replace("┃", " ").split())


def test_verify_and_inspect_say_what_became_of_keys_with_dots(field_inputs: Callable[[str], Path]) -> None:
    path = field_inputs("foreign_shards") / "dots_in_keys-000000.tar"
    assert open_shards(path).num_samples == 1
    found = verify([str(path)], workers=1)
    (said,) = [problem for problem in found.problems if problem.reason == "duplicate"]
    assert said.severity == "warning" and said.key == "22"
    assert said.detail.startswith("6 members of kind picture under one key '22' (.00.jpg, .01.jpg, .02.jpg, ...)")
    assert "webdataset cuts keys at the first dot" in said.detail and "22_00.jpg" in said.detail
    result = foundation("data", "inspect", path)
    assert result.returncode == 0, result.stderr
    assert "6 members of kind picture under one key '22'" in flat(result.stdout)


@pytest.mark.slow
def test_pretraining_takes_samples_with_any_label(
    field_inputs: Callable[[str], Path], tiny_recipe_file: Path, tmp_path: Path
) -> None:
    paths = [str(field_inputs("foreign_shards") / f"{case}-000000.tar") for case in ("text_labels", "several_labels")]
    words = ("train.length=4 steps", "data.max_bad_samples=0", f"data.shards={paths}", "--run", tmp_path / "run")
    result = foundation("pretrain", tiny_recipe_file, *words)
    assert result.returncode == 0 and "skipped" not in result.stdout, result.stderr
    for path in paths:
        found = verify([path], decode=True, workers=1)
        assert not found.errors and not found.warnings.keys() - {"index"}


def test_inspect_shows_what_the_labels_are(field_inputs: Callable[[str], Path]) -> None:
    folder = field_inputs("foreign_shards")
    shown = flat(foundation("data", "inspect", folder / "text_labels-000000.tar").stdout)
    assert "labels: names 8 of 8 samples" in shown and "cat 4" in shown and "dog 4" in shown
    assert inspect([str(folder / "several_labels-000000.tar")]).label_kinds == {"several": 8}


def test_probes_number_names_and_refuse_several_labels(field_inputs: Callable[[str], Path]) -> None:
    folder, evaluation = field_inputs("foreign_shards"), EvaluationConfig(size=8)
    names, several = (str(folder / f"{case}-000000.tar") for case in ("text_labels", "several_labels"))
    with torch.inference_mode():
        where = {"modality": "image", "evaluation": evaluation}
        measured = Knn(train=(names,), k=3).measure(RawEncoder(), **where)
        assert 0 <= measured["probe/knn_top1"] <= 1
        features = features_of_shards(RawEncoder(), [names], **where)
        assert set(features.names) == {"cat", "dog"} and len(features.labelled()) == 8
        with pytest.raises(UserError, match="8 of the 8 samples have several labels each"):
            Knn(train=(several,), k=3).measure(RawEncoder(), **where)
