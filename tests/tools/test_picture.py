"""foundation picture, as a user types it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from foundation.cli import main
from tests.report.sample_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def held_out(run):
    return str(run.parent / "shards" / "test-*.tar")


@pytest.mark.parametrize(
    ("kind", "options", "ends"),
    [
        ("pca", ["--samples", "3", "--foreground", "--size", "32"], ("png", "html")),
        ("attention", ["--samples", "2", "--heads", "2", "--block", "-1"], ("png", "html")),
        ("map", ["--method", "pca", "--tokens", "patches"], ("html",)),
        ("neighbours", ["--near", "2", "--samples", "2"], ("png", "html")),
    ],
)
def test_every_kind_from_shards(run, held_out, tmp_path, capsys, kind, options, ends):
    outs = [tmp_path / f"out.{end}" for end in ends]
    words = ["picture", kind, str(run), "--data", held_out, "--out", *map(str, outs), "--device", "cpu", *options]
    assert main(words) == 0
    assert capsys.readouterr().out.count("written: ") == len(outs)
    for out in outs:
        if out.suffix == ".png":
            with Image.open(out) as image:
                assert np.asarray(image.convert("RGB")).std() > 10
        else:
            assert out.read_text().endswith("</html>\n")
    assert main(words) == 2  # never over what is there
    assert "exists: choose another name, or add --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_files_and_no_data_at_all(run, tmp_path, capsys):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    out = str(tmp_path / "pca.png")
    assert main(["picture", "pca", str(run), "--data", str(tmp_path), "--out", out]) == 0
    assert main(["picture", "pca", str(run), "--samples", "2", "--out", out, "--overwrite"]) == 0  # of its recipe


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pca", "--out", "x.gif"], "ends in .png or .html"),
        (["attention", "--out", "x.png", "--block", "9"], "this encoder has blocks 0 to 3"),
        (["neighbours", "--out", "x.png", "--back"], "go with --across"),
        (["neighbours", "--out", "x.png", "--across", "--gallery", "y.tar"], "leave OTHER and --gallery out"),
        (["neighbours", "--out", "x.png", "--keys", "who"], "no sample has the key"),
    ],
)
def test_mistakes_are_said(run, held_out, words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["picture", words[0], str(run), "--data", held_out, *words[1:]]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_foreign_encoder_without_attention_is_refused(held_out, tmp_path, capsys, timm_itself):
    words = ["picture", "attention", "timm:resnet18,random", "--data", held_out, "--out", str(tmp_path / "a.png")]
    assert main(words) == 2
    assert "does not tell what its attention sees" in capsys.readouterr().err
    assert main([*words[:3], *words[5:]]) == 2  # nor what it was trained on
    assert "nothing to look at: give --data" in capsys.readouterr().err


def test_from_test_samples_to_training_samples_and_to_another_model(run, held_out, tmp_path, capsys):
    out, train = str(tmp_path / "n.html"), str(run.parent / "shards" / "train-*.tar")
    words = ["picture", "neighbours", str(run), "--data", held_out, "--samples", "2", "--out", out, "--overwrite"]
    assert main([*words, "--gallery", train]) == 0
    assert "nearest of 45" in (tmp_path / "n.html").read_text()
    assert main([*words[:3], str(run), *words[3:]]) == 0  # the model itself as the other one: all find themselves
    text = (tmp_path / "n.html").read_text()
    assert "nearest of 24" in text and "R@1 100.0 %" in text


def test_size_from_a_probe_to_a_page(run, held_out, tmp_path, capsys):
    train, file = str(run.parent / "shards" / "train-*.tar"), tmp_path / "knn.json"
    words = ["--train", train, "--test", held_out, "--k", "5", "--json", str(file), "--no-cache", "--workers", "0"]
    assert main(["knn", str(run), *words]) == 0
    best = max(row["top1"] for row in json.loads(file.read_text())["results"])
    assert main(["picture", "size", f"{run}={file}", "--out", str(tmp_path / "size.html")]) == 0
    assert f"{100 * best:.1f}" in (tmp_path / "size.html").read_text()
    said = capsys.readouterr().err
    assert f"knn {100 * best:.1f} % by {file}" in said and "cannot be compared" not in said
    fewer = tmp_path / "fewer.json"
    assert main(["knn", str(run), *words[:-4], str(fewer), *words[-3:], "--limit", "12"]) == 0
    again = tmp_path / "both.html"
    assert main(["picture", "size", f"{run}={file}", f"{run}={fewer}", "--out", str(again)]) == 0
    assert "warning: these were scored on different data: they cannot be compared" in capsys.readouterr().err
    assert "These were scored on different data" in again.read_text()
