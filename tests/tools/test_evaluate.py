"""``foundation evaluate`` and ``foundation compare`` as a user meets them."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest

import foundation
from foundation.cli import main
from foundation.data.shards import write_shards
from foundation.errors import UserError
from tests.data.remote.conftest import cache, serve

__all__ = ["cache", "serve"]

QUICK = ["--tasks", "knn", "logistic", "retrieval", "rank", "logistic.strengths=[0.01,1]", "rank.views=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample_run):
    return sample_run.write_run(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def two(run, tmp_path_factory, sample_run):
    """Results of two models on the same shards."""
    other = sample_run.write_run(tmp_path_factory.mktemp("other"))
    shards = [word for split in ("train", "test") for word in (f"--{split}", str(run.parent / f"shards/{split}-*.tar"))]
    out = tmp_path_factory.mktemp("out")
    for name, model in (("a", run), ("b", other)):
        assert main(["evaluate", str(model), *QUICK, *shards, "--workers", "0", "--out", str(out / name)]) == 0
    return out


def test_a_run_is_evaluated_on_its_own_shards_beside_itself(run, capsys):
    assert main(["evaluate", str(run), *QUICK, "--workers", "0", "--baselines"]) == 0
    shown = capsys.readouterr().out
    for word in ("knn", "top1", "mAP", "RankMe", "untrained", "raw image"):
        assert word in shown
    (path,) = (run / "evaluations").glob("image-*/result.json")
    content = json.loads(path.read_text())
    assert [task["name"] for task in content["tasks"]] == ["knn", "logistic", "retrieval", "rank"]
    assert content["data"]["test"]["samples"] == 24 and content["settings"]["tokens"] == "cls"
    assert content["tasks"][3]["settings"]["views"] == 0
    knn = content["tasks"][0]["scores"][0]
    with np.load(path.parent / "samples.npz", allow_pickle=False) as arrays:
        each, keys = arrays[knn["samples"]], json.loads(arrays[knn["keys"]].tobytes())
    assert each.mean() == pytest.approx(knn["value"]) and keys[0] == "0000" and len(keys) == 24
    page = (path.parent / "index.html").read_text()
    assert "<script" not in page and not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "sample &lt;run&gt; &amp; co" in page and "<h2>retrieval</h2>" in page
    assert page.count("<svg") >= 3  # choice, confusions, spectrum
    assert main(["evaluate", str(run), *QUICK, "--workers", "0"]) == 0
    assert len(list((run / "evaluations").iterdir())) == 1, "the same question again replaces its answer"


def test_what_lies_in_a_folder_of_the_user_is_not_replaced_unasked(two, run, tmp_path, capsys):
    shards = [word for split in ("train", "test") for word in (f"--{split}", str(run.parent / f"shards/{split}-*.tar"))]
    out = tmp_path / "out"
    words = ["evaluate", str(run), "--tasks", "knn", "--workers", "0", *shards, "--group", "^(...)", "--out", str(out)]
    assert main(words) == 0
    assert "intervals count the samples of each of 3 groups (^(...)) together" in capsys.readouterr().out
    assert "Intervals count the samples of each of 3 groups" in (out / "index.html").read_text()
    before = (out / "result.json").read_bytes()
    assert main(words) == 2
    assert "result.json exists: choose another place by --out FOLDER, or add --overwrite" in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    both = ["compare", str(two / "a"), str(two / "b"), "--resamples", "100", "--out", str(out)]
    assert [main(both), main(both), main([*both, "--overwrite"])] == [0, 2, 0]
    with pytest.raises(UserError, match=r"result\.json exists: choose another folder, or add overwrite=True"):
        foundation.evaluate(run, train=shards[1], test=shards[3], tasks="knn", out=out)


def test_files_are_compared_without_model_and_shards(two, tmp_path, capsys):
    out = tmp_path / "side by side"
    words = [str(two / "a"), str(two / "b" / "result.json"), "--out", str(out), "--resamples", "500"]
    assert main(["compare", *words]) == 0
    shown = capsys.readouterr().out
    assert "knn, top1: no difference between" in shown and "paired bootstrap of test samples, 500" in shown
    content = json.loads((out / "compare.json").read_text())
    assert [figure["metric"] for figure in content["figures"]][:2] == ["top1", "balanced"]
    first = content["figures"][0]
    assert first["values"][0] == first["values"][1] and first["differences"][0]["none"]
    assert content["models"] == [str(two / "a"), str(two / "b")], "results of one name are called as they were named"
    page = (out / "compare.html").read_text()
    assert "no difference between" in page and "<script" not in page


def test_models_are_evaluated_where_there_are_no_files(run, two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards = [word for split in ("train", "test") for word in (f"--{split}", str(run.parent / f"shards/{split}-*.tar"))]
    assert (
        main(["compare", str(run), str(two / "b"), *shards, "--tasks", "knn", "--workers", "0", "--group", "^(...)"])
        == 0
    )
    told = capsys.readouterr()
    shown = told.out
    assert "knn" in shown and "groups of test samples" in shown and "only 3 groups" in shown
    assert told.err.startswith(f"{run}:\n"), "what follows is of this model"
    assert list(tmp_path.iterdir()) == []


def test_shards_that_are_elsewhere(run, tmp_path, serve, cache, capsys):
    from PIL import Image

    def samples(count, seed):
        generator = np.random.default_rng(seed)
        for index in range(count):
            pixels = generator.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[..., index % 3] += 120
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            yield {"__key__": f"{seed}-{index}", "png": stream.getvalue(), "cls": str(index % 3).encode()}

    write_shards(samples(30, 0), tmp_path / "far" / "train", "train")
    write_shards(samples(12, 1), tmp_path / "far" / "test", "test")
    url = serve(tmp_path / "far").url
    words = ["--train", f"{url}/train/train-000000.tar", "--test", f"{url}/test/test-000000.tar"]
    words += ["--ood", f"{url}/train/train-000000.tar", "--tasks", "knn", "outliers"]
    assert main(["evaluate", str(run), *words, "--workers", "0", "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert content["tasks"][0]["scores"][0]["value"] == 1.0 and content["data"]["outside"]["samples"] == 30


def test_the_list_of_suites_needs_no_model(capsys):
    assert main(["evaluate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][:7] == ["suites:", "image", "audio", "points", "video", "imu", "tasks:"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "name a model"),
        (["evaluate", "RUN", "--suite", "pictures"], "no suite 'pictures'"),
        (["evaluate", "RUN", "--tasks", "kmn"], "did you mean 'knn'"),
        (["evaluate", "RUN", "knn.k=[0]"], "k"),
        (["evaluate", "RUN", "--ood", "nowhere-*.tar"], "nowhere-*.tar"),
        (["evaluate", "timm:test_vit,random", "--train", "TRAIN"], "--out FOLDER"),
        (["compare", "RUN"], "two models"),
        (["compare", "nothing.json", "nothing.json"], "nothing.json"),
    ],
)
def test_mistakes_end_with_code_2_and_a_line(words, message, run, capsys):
    there = {"RUN": str(run), "TRAIN": str(run.parent / "shards" / "train-000000.tar")}
    assert main([there.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
