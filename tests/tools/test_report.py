"""``foundation report`` as a user meets it."""

from __future__ import annotations

import json

from foundation.cli import main
from foundation.data.index import Index, ShardEntry, write_index


def test_probe_results_reach_the_page(tmp_path, sample_run, capsys):
    run = sample_run.write_run(tmp_path)
    sample_run.write_metrics(run)
    assert main(["knn", str(run), "--baselines", "--workers", "0", "--k", "3"]) == 0
    capsys.readouterr()
    assert main(["report", str(run), "--samples", "2"]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    text = (run / "report.html").read_text()
    assert "same encoder, untrained" in text
    assert "kNN with k = 3, on the test split of the kNN probe" in text


def test_a_probe_on_labelled_data_has_a_matrix_with_names_though_the_run_had_no_labels(tmp_path, sample_run, capsys):
    run = sample_run.write_run(tmp_path, labels=False)
    for split, count in (("train", 45), ("test", 24)):
        shard = sample_run.write_shard(tmp_path / split / f"{split}-000000.tar", count)
        entry = ShardEntry(shard.name, count, shard.stat().st_size, "")
        write_index(shard.parent, Index({split: (entry,)}, ("red brick", "green leaf", "blue sky"), {}))
    assert main(["report", str(run), "--samples", "2"]) == 0
    assert "there is no confusion matrix" in (run / "report.html").read_text()
    splits = ["--train", str(tmp_path / "train"), "--test", str(tmp_path / "test")]
    assert main(["knn", str(run), *splits, "--workers", "0", "--k", "3"]) == 0
    (path,) = (run / "probes").glob("*.json")
    confusion = json.loads(path.read_text())["confusion"]
    assert confusion["classes"] == ["0", "1", "2"] and confusion["names"] == ["red brick", "green leaf", "blue sky"]
    assert main(["report", str(run), "--samples", "2"]) == 0
    capsys.readouterr()
    page = (run / "report.html").read_text()
    assert "Which classes it confuses" in page and "green leaf" in page
    assert "there is no confusion matrix" not in page and "neighbours have no names" in page


def test_mistakes_end_with_code_2(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--samples", "-1"]) == 2
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--device", "foo"]) == 2
    assert "--device foo: not here; on this machine there is cpu" in capsys.readouterr().err
