"""Data that a probe cannot use is refused before the first forward pass."""

from __future__ import annotations

import json
import threading

import pytest

from foundation.cli import main
from foundation.data.shards import ShardSet, write_shards
from foundation.data.sources import open_sources
from foundation.deadline import OutOfTimeError, within
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.probes.beforehand import check_labels
from foundation.run.advice import advice
from tests.conftest import image_bytes


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample_run):
    return sample_run.write_run(tmp_path_factory.mktemp("beforehand"))


@pytest.fixture
def no_forward_pass(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("features were computed first")

    monkeypatch.setattr("foundation.probes.road.extract", refuse)
    monkeypatch.setattr("foundation.probes.frame_features.extract", refuse)


def shards(folder, labels, name: str = "train") -> str:
    """Images whose labels are text of a ``cls`` member, JSON, or None."""
    samples = []
    for number, label in enumerate(labels):
        sample = {"__key__": f"s{number:03d}", "png": image_bytes(number)}
        if isinstance(label, str):
            sample["cls"] = label.encode()
        elif label is not None:
            sample["json"] = json.dumps(label).encode()
        samples.append(sample)
    write_shards(samples, folder, name)
    return str(folder / f"{name}-*.tar")


@pytest.mark.parametrize("verb", ["knn", "linear", "svm"])
@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([None] * 100, ["0", "1"], "the training split: none of the 100 samples has a label"),
        (["0", "1"] * 4, [None] * 3, "the test split: none of the 3 samples has a label"),
        ([{"label": [1, 2]}] * 5, ["0", "1"], "5 of the 5 samples have several labels each"),
        (["0", "1"] * 4, None, "no shards match"),
    ],
)
def test_splits_without_labels_and_missing_ones_are_refused(
    run, tmp_path, verb, train, test, said, no_forward_pass, capsys
):
    words = ["--train", shards(tmp_path, train), "--test"]
    words += [str(tmp_path / "nothing-*.tar") if test is None else shards(tmp_path, test, "test")]
    assert main([verb, str(run), *words, "--workers", "0"]) == 2
    assert said in capsys.readouterr().err


def test_one_class_ends_a_machine_and_warns_once_before_the_neighbours(run, tmp_path, capsys, monkeypatch):
    words = ["--train", shards(tmp_path, ["4"] * 70), "--test", shards(tmp_path, ["4", "4"], "test"), "--workers", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("foundation.probes.road.extract", lambda *_, **__: pytest.fail("features were computed first"))
        assert main(["svm", str(run), *words]) == 2
    said = capsys.readouterr().err
    assert "all training samples are of class '4'" in said and "nothing to tell apart" in said
    assert main(["knn", str(run), *words, "--k", "3", "--treatments", "as-is"]) == 0
    assert capsys.readouterr().err.count("all training samples are of class '4'") == 1


def test_labels_that_come_late_or_stand_in_json_or_in_part_count(run, tmp_path, capsys):
    for index, labels in enumerate(
        (
            ["0"] * 69 + ["1"] + ["0"] * 30,
            [{"label": "cat"}, {"label": "dog"}] * 3,
            [None, None, None, "1", None, "0"],
        )
    ):
        train = shards(tmp_path / str(index), labels)
        words = ["--train", train, "--test", train, "--workers", "0", "--treatments", "as-is"]
        assert main(["knn", str(run), *words, "--k", "1"]) == 0
        assert "says nothing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "more", "said"),
    [
        ("knn", ["--k", "9"], "8 samples of the bank"),
        ("knn", ["--group", "^(x"], "no regular expression"),
        ("knn", ["--group", "json:subject"], "has no such field"),
        ("linear", ["--group", "^(x)"], "finds nothing in the key"),
        ("svm", ["--json", f"{__file__}/result.json"], "test_beforehand.py is no folder; choose another place"),
        ("frames", [], "none of the 8 samples has 'events' in its json"),
    ],
)
def test_other_mistakes_that_need_no_features(run, tmp_path, verb, more, said, no_forward_pass, capsys):
    train = shards(tmp_path, ["0", "1"] * 4)
    assert main([verb, str(run), "--train", train, "--test", train, "--workers", "0", *more]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("probe", "labels", "said"),
    [
        ("knn", [None] * 3, "the knn: training split: none of the 3 samples has a label"),
        ("svm", ["1"] * 3, "nothing to tell apart"),
        ("frames", ["1"] * 3, "none of the 3 samples has 'events'"),
    ],
)
def test_a_run_does_not_begin_with_a_probe_that_cannot_be_measured(
    tiny_recipe_file, tmp_path, probe, labels, said, capsys
):
    own = shards(tmp_path, labels)
    words = [f"probes=[{{name: {probe}, train: '{own}', test: '{own}'}}]", "--run", str(tmp_path / "run")]
    assert main(["pretrain", str(tiny_recipe_file), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("run/checkpoints/*"))
    assert main(["pretrain", str(tiny_recipe_file), *words, "--dry-run"]) == 2


def test_a_run_whose_probe_says_little_is_told_so(tiny_recipe, tmp_path):
    recipe = tiny_recipe(f"probes=[{{name: knn, train: '{shards(tmp_path, ['1'] * 3)}'}}]")
    sources = open_sources(recipe.data)
    assert "probes: all training samples are of class '1'" in advice(recipe, recipe.clock(40), sources)[-1]


def test_looking_for_labels_ends_when_nobody_waits_any_longer(tmp_path, monkeypatch):
    """Left behind, it would read all of a large split beside the training that began without it."""
    split, read, slow, ended = shards(tmp_path, ["1"] * 30), [], threading.Event(), threading.Event()

    def read_slowly(self, *place, only=None, _read=ShardSet.read):
        read.append(place)
        slow.wait(10.0)
        return _read(self, *place, only=only)

    monkeypatch.setattr(ShardSet, "read", read_slowly)

    def look():
        try:
            return check_labels([("training", [split])], modality="image", evaluation=EvaluationConfig())
        finally:
            ended.set()

    with pytest.raises(OutOfTimeError):
        within(0.2, look)
    slow.set()
    assert ended.wait(10.0) and len(read) == 1
