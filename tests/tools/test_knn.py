"""``foundation knn`` as a user meets it."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample_run):
    return sample_run.write_run(tmp_path_factory.mktemp("knn"))


def results(run):
    (path,) = (run / "probes").glob("knn-*.json")
    return json.loads(path.read_text())


def test_it_scores_model_and_baselines_on_the_recipes_own_data(run, capsys):
    assert main(["knn", str(run), "--baselines", "--workers", "0", "--k", "5", "3"]) == 0
    shown = capsys.readouterr().out
    assert "untrained" in shown
    assert "raw image" in shown
    content = results(run)
    assert content["format"] == 1
    assert [(row["name"], row["treatment"], row["k"]) for row in content["results"]] == [
        (name, treatment, k)
        for name in ("model", "untrained", "raw", "simple", "simple")
        for treatment in ("as is", "standardised", "whitened")
        for k in (3, 5)
    ]
    assert all("top5" not in row for row in content["results"]), "there are three classes"
    assert content["data"]["train"]["samples"] == 45
    assert content["data"]["test"]["samples"] == 24
    assert sum(map(sum, content["confusion"]["counts"])) == 24
    row = next(row for row in content["results"] if row["name"] == "raw")
    assert row["top1"] == 1.0  # the colour is the class
    scores = {row["features"]: row["top1"] for row in content["results"] if row["name"] == "simple" and row["k"] == 5}
    assert scores["colours of cells"] == 1.0 and scores["HOG"] < 0.8  # noise has no direction
    assert row["interval"] == [pytest.approx(0.862, abs=1e-3), 1.0] and row["balanced"] == 1.0
    assert len(content["model_sha256"]) == 64
    assert content["versions"]["torch"]


def test_the_same_question_again_replaces_its_answer_and_reads_the_cache(run):
    cached = sorted((run / "probes" / "cache").iterdir())
    stamps = [path.stat().st_mtime_ns for path in cached]
    assert main(["knn", str(run), "--baselines", "--workers", "0", "--k", "5", "3"]) == 0
    assert results(run)
    assert [path.stat().st_mtime_ns for path in sorted((run / "probes" / "cache").iterdir())] == stamps


@pytest.mark.fault(40, "a byte of every cached feature file flipped between two runs of foundation knn")
def test_damaged_features_give_the_same_scores_and_a_word(run, caplog, happened):
    question = ["knn", str(run), "--baselines", "--workers", "0", "--k", "5", "3"]
    assert main(question) == 0
    before = results(run)["results"]
    cached = sorted((run / "probes" / "cache").iterdir())
    for path in cached:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    assert main(question) == 0
    assert results(run)["results"] == before
    assert caplog.text.count("damaged cache entry") == len(cached)
    happened("each damaged entry is named and computed again; the scores are the same")


def test_the_table_has_a_row_for_each_feature_and_fits_80_columns(run, tmp_path, sample_run, capsys):
    few = sample_run.write_shard(tmp_path / "deep" / ("folder" * 20) / "few.tar", 2)  # the first two training images
    train = str(run.parent / "shards" / "train-000000.tar")
    words = ["--train", train, "--test", str(few), "--baselines", "--workers", "0", "--json", str(tmp_path / "a.json")]
    assert main(["knn", str(run), *words]) == 0
    shown, said = capsys.readouterr()
    lines = shown.splitlines()
    assert max(len(line.rstrip()) for line in lines if "written" not in line) <= 80
    assert [sum(line.startswith(name) for line in lines) for name in ("the model", "raw image")] == [1, 1]
    head = next(line for line in lines if line.startswith("features"))
    assert head.split() == ["features", "as", "is", "standardised", "whitened", "95", "%", "balanced"]
    assert "best k of 10, 20" in shown
    assert "warning: 2 of the 2 test samples are in the training split too" in said
    assert "warning: class 2 has no test sample" in said
    assert len(json.loads((tmp_path / "a.json").read_text())["warnings"]) == 2


def test_no_command_leaves_files_in_the_working_directory(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("timm")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train = str(run.parent / "shards" / "train-000000.tar")
    words = ["timm:test_vit,random", "--train", train, "--size", "32", "--workers", "0", "--treatments", "as-is"]
    assert main(["knn", *words]) == 0
    shown = capsys.readouterr().out
    assert "not written: this model has no folder; give --json FILE" in shown and "standardised" not in shown
    assert list((tmp_path / "here").iterdir()) == []
    assert len(list((tmp_path / "cache" / "foundation" / "features").iterdir())) == 1


def test_leaving_one_out_and_another_file(run, tmp_path, sample_run):
    shard = sample_run.write_shard(tmp_path / "only.tar", 30)
    out = tmp_path / "deep" / "out.json"
    assert main(["knn", str(run), "--train", str(shard), "--json", str(out), "--workers", "0"]) == 0
    content = json.loads(out.read_text())
    assert content["data"]["test"] == "leave one out"
    assert content["settings"]["k"] == [10, 20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "46"], "45 samples"),
        (["--k", "0"], "--k: 0 given; it must be from 1"),
        (["--train", "nowhere-*.tar"], "nowhere-*.tar"),
        (["--size", "15"], "multiple of the patch size"),
        (["--device", "abacus"], "--device abacus"),
        (["--batch-size", "0"], "--batch-size"),
        (["--temperature", "0"], "--temperature"),
    ],
)
def test_mistakes_end_with_code_2_and_a_line(run, capsys, arguments, message):
    assert main(["knn", str(run), "--workers", "0", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_model_that_is_none(tmp_path, capsys):
    assert main(["knn", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_option_that_other_commands_have_leads_to_its_own(capsys):
    assert main(["knn", "x", "--out", "a.json"]) == 2
    assert "--out a.json; here it is --json (" in capsys.readouterr().err
