"""``foundation sizes`` as a user meets it: a family scored in one pass, the same numbers as each size by itself."""

from __future__ import annotations

import json
import re

import pytest
import torch

from foundation.cli import main
from foundation.encoders.elastic import Sliced, SubNetwork, stand_alone
from foundation.probes import sizes
from foundation.probes.road import features_of_shards
from foundation.report.sizes import charts
from foundation.zoo.load import load_encoder

SIZES = ("w16-d2", "w24-d4")


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample_run):
    return sample_run.write_run(tmp_path_factory.mktemp("sizes"))


@pytest.fixture(scope="module")
def result(run):
    shards = [str(run.parent / "shards" / f"{split}-*.tar") for split in ("train", "test")]
    words = ["--train", shards[0], "--test", shards[1], "--sizes", *SIZES, "--k", "3", "--epochs", "2"]
    assert main(["sizes", str(run), *words, "--workers", "0", "--baselines"]) == 0
    (path,) = (run / "probes").glob("sizes-*.json")
    return json.loads(path.read_text())


def test_all_sizes_are_read_in_one_pass_as_each_is_by_itself(run, monkeypatch):
    from foundation.data import stream

    opened = []
    real = stream.build_eval_loader
    monkeypatch.setattr("foundation.probes.road.build_eval_loader", lambda *a, **k: opened.append(a) or real(*a, **k))
    loaded, shards = load_encoder(run), [str(run.parent / "shards" / "test-*.tar")]
    wanted = [SubNetwork(8, (1,)), SubNetwork(16, (2,)), SubNetwork(24, (4,))]
    subjects = [sizes.Subject.part(Sliced(loaded.encoder, size)) for size in wanted]
    where = {"modality": loaded.modality, "evaluation": loaded.evaluation}
    found = sizes.read_shards([subject.read for subject in subjects], shards, **where)
    assert len(opened) == 1
    for size, subject, features in zip(wanted, subjects, found, strict=True):
        alone = features_of_shards(stand_alone(loaded.encoder, size), shards, blocks=subject.blocks, **where)
        assert subject.blocks == size.depths[0] and len(features.cls) == subject.blocks
        for here, there in zip((*features.cls, features.patches), (*alone.cls, alone.patches), strict=True):
            assert torch.equal(here, there)
        assert torch.equal(features.labels, alone.labels) and features.keys == alone.keys


def test_the_file_has_kNN_linear_parameters_and_time_of_each_size(run, result):
    assert result["format"] == 1 and result["probe"] == "sizes"
    rows = {(row["features"], row["probe"]): row for row in result["results"]}
    assert set(rows) == {(name, probe) for name in (*SIZES, "untrained", "raw") for probe in ("knn", "linear")}
    encoder = load_encoder(run).encoder
    for name in SIZES:
        row = rows[name, "knn"]
        alone = stand_alone(encoder, SubNetwork(row["width"], tuple(row["depths"])))
        assert row["parameters"] == sum(parameter.numel() for parameter in alone.parameters())
        assert row["seconds"] > 0 and row["spread"] >= 0 and row["runs"] == 31 and not row["trained"]
        assert 0 <= row["top1"] <= 1 and row["n"] == 24
    assert rows["raw", "knn"]["top1"] == 1.0, "the colour is the class"
    assert result["latency"]["shape"] == [3, 16, 16] and not result["settings"]["trained"]


def test_the_picture_is_in_the_report_and_beside_the_file(run, result, capsys):
    (picture,) = (run / "probes").glob("sizes-*.svg")
    text = picture.read_text()
    assert text.startswith("<svg xmlns") and text.count("<svg ") == 5
    assert re.findall(r">(width \d+)<", text) == ["width 16", "width 24"] and "untrained, whole" in text
    assert main(["report", str(run), "--samples", "0"]) == 0
    page = (run / "report.html").read_text()
    assert "No probe has been run yet" not in page and "(there is: sizes)" in page
    assert "One run, many sizes" in page and "latency of one sample (ms)" in page and "w16-d2" in page
    damaged = dict(result, results=[row | {"seconds": "soon", "width": None} for row in result["results"]])
    assert charts(damaged) == []


def test_what_cannot_be_scored_is_refused_before_any_data_is_read(run, capsys):
    for words, said in (
        (["--sizes", "w20-d2"], "widths 8, 16, 24"),
        (["--sizes", "small"], "is no size of an encoder"),
        (["--latency-device", "nowhere"], "on this machine there is cpu"),
    ):
        assert main(["sizes", str(run), *words, "--workers", "0"]) == 2
        assert said in capsys.readouterr().err
