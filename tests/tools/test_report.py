"""``foundation report`` as a user meets it."""

from __future__ import annotations

from foundation.cli import main


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


def test_mistakes_end_with_code_2(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--samples", "-1"]) == 2
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--device", "foo"]) == 2
    assert "--device foo: not here; on this machine there is cpu" in capsys.readouterr().err
