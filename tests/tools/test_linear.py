"""``foundation linear`` as a user meets it."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample_run):
    return sample_run.write_run(tmp_path_factory.mktemp("linear"))


def test_it_chooses_a_head_and_keeps_all(run, tmp_path, capsys):
    out = tmp_path / "linear.json"
    assert main(["linear", str(run), "--baselines", "--workers", "0", "--epochs", "20", "--json", str(out)]) == 0
    assert "head chosen on validation" in " ".join(capsys.readouterr().out.split())
    content = json.loads(out.read_text())
    treatments = ["as is", "standardised", "whitened"]
    assert [(row["name"], row["treatment"]) for row in content["results"]] == [
        (name, treatment) for name in ("model", "untrained", "raw", "simple", "simple") for treatment in treatments
    ]
    model = content["results"][0]
    assert len(model["heads"]) == 64
    chosen = next(head for head in model["heads"] if head["name"] == model["head"])
    assert {head["steps"] for head in model["heads"]} == {20}
    assert chosen["validation"] == max(head["validation"] for head in model["heads"])
    assert model["top1"] == chosen["top1"] > 0.6
    assert len(content["results"][6]["heads"]) == 16
    assert content["settings"]["select_on"] == "validation"


def test_heads_that_left_are_told_from_those_that_trained_to_the_end(run, tmp_path, capsys):
    out = tmp_path / "linear.json"
    arguments = ["--blocks", "1", "--learning-rates", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1"]
    arguments += ["--epochs", "1000", "--treatments", "as-is", "--workers", "0", "--json", str(out)]

    def heads(*more):
        assert main(["linear", str(run), *arguments, *more]) == 0
        return json.loads(out.read_text())["results"][0]["heads"]

    left = heads()
    assert sorted(head["steps"] for head in left) == [83] * 3 + [166] * 3 + [250] * 2 + [1000] * 4
    assert [head["top1"] is None for head in left] == [head["steps"] < 1000 for head in left]
    assert "All heads" not in capsys.readouterr().out
    assert {head["steps"] for head in heads("--all")} == {1000}
    assert "All heads" in capsys.readouterr().out


def test_end_to_end_takes_new_views_in_each_epoch(run, tmp_path):
    out = tmp_path / "linear.json"
    arguments = ["--end-to-end", "--epochs", "2", "--learning-rates", "0.1", "--blocks", "1", "--workers", "0"]
    arguments += ["--group", "^(00[0-9])"]
    assert main(["linear", str(run), *arguments, "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["settings"]["end_to_end"] is True
    assert len(content["results"]) == 1 and len(content["results"][0]["heads"]) == 2
    assert content["data"]["groups"] == {"rule": "^(00[0-9])", "count": 5, "test": 3}
    assert any("groups, such as 000, are in both splits" in told for told in content["warnings"])


def test_test_shards_are_needed(run, sample_run, tmp_path, capsys):
    shard = sample_run.write_shard(tmp_path / "a.tar", 6)
    assert main(["linear", str(run), "--train", str(shard), "--workers", "0"]) == 2
    assert "--test" in capsys.readouterr().err
