"""What one publishes another pulls, loads, and publishes again: by a folder, a web server, a bucket."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import foundation
from foundation.cli import main
from foundation.zoo import partial
from foundation.zoo.entry import read
from foundation.zoo.load import load_encoder
from foundation.zoo.registry import weights_of
from tests.zoo.test_extract import RECIPE, make_run, view

ABOUT = ["--licence", "MIT", "--data", "noise", "CC0-1.0", "https://example.org"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("publish") / "run")


def features(source, **options):
    with torch.no_grad():
        return load_encoder(source, **options).encoder([view()])[0].cls


def test_published_pulled_and_loaded_by_its_name(run, tmp_path, monkeypatch, serve, capsys):
    zoo = tmp_path / "zoo"
    assert main(["zoo", "publish", str(run), "--name", "tiny", "--to", str(zoo), *ABOUT]) == 0
    assert f"foundation zoo pull tiny --from {zoo}" in capsys.readouterr().out
    monkeypatch.setenv("FOUNDATION_ZOO", serve(zoo).url)
    model = foundation.load("tiny")
    assert "is pulled from http://127.0.0.1" in capsys.readouterr().err
    assert torch.equal(features("tiny"), features(run)) and model.card.licence == "MIT"
    assert torch.equal(model(view()), features(run))
    entry = read(zoo / "tiny.yaml")
    assert entry.architecture.width == 32 and entry.architecture.depth == (4,) and entry.input.shape == (3, 16, 16)
    assert entry.architecture.parameters == sum(p.numel() for p in model.encoder.parameters())
    assert load_encoder("tiny").folder is None, "results about it do not go into the home"

    monkeypatch.chdir(tmp_path)
    assert main(["zoo", "publish", "tiny", "--name", "again", "--to", f"file://{tmp_path}/other"]) == 0
    assert read(tmp_path / "other" / "again.yaml").data == entry.data, "its card says licence and data"
    assert main(["zoo", "publish", "hapt-poa-w64-d2", "--name", "part", "--to", str(tmp_path / "other")]) == 0
    assert read(tmp_path / "other" / "part.yaml").parents[0].of == "hapt-poa-nano"
    (tmp_path / "tiny").mkdir()
    with pytest.raises(foundation.errors.UserError, match="is no run, checkpoint or export"):
        foundation.load("tiny")  # a path wins over a name


def test_what_is_refused(run, tmp_path, capsys):
    words = ["zoo", "publish", str(run), "--to", str(tmp_path / "zoo"), "--name"]
    assert main([*words, "tiny"]) == 2 and "--licence and --data must be given" in capsys.readouterr().err
    assert main([*words, "tiny", "--licence", "MIT", "--data", "noise"]) == 2
    assert "--data takes NAME LICENCE [URL], not 'noise'" in capsys.readouterr().err
    assert main([*words, "../tiny", *ABOUT]) == 2 and "is no name of a model" in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()
    assert main([*words, "tiny", *ABOUT]) == 0
    there = {path: path.read_bytes() for path in (tmp_path / "zoo").rglob("*") if path.is_file()}
    assert main([*words, "tiny", *ABOUT]) == 2
    assert "has a model 'tiny' already" in capsys.readouterr().err
    assert there == {path: path.read_bytes() for path in (tmp_path / "zoo").rglob("*") if path.is_file()}
    (tmp_path / "file").write_text("")
    assert main([*words[:3], "--to", str(tmp_path / "file"), "--name", "tiny", *ABOUT]) == 2
    assert "it is no folder" in capsys.readouterr().err


def test_half_the_bytes_are_loaded_into_single_precision(run, tmp_path):
    words = ["zoo", "publish", str(run), "--to", str(tmp_path / "zoo"), *ABOUT]
    assert main([*words, "--name", "whole"]) == 0 and main([*words, "--name", "half", "--half"]) == 0
    sizes = {name: (tmp_path / "zoo" / name / f"{name}.safetensors").stat().st_size for name in ("whole", "half")}
    assert sizes["half"] < 0.7 * sizes["whole"]
    weights = load_encoder(tmp_path / "zoo" / "half" / "half.safetensors").encoder.state_dict()
    for name, tensor in load_encoder(run).encoder.state_dict().items():
        assert weights[name].dtype == tensor.dtype
        wanted = tensor.half().float() if tensor.dtype == torch.float32 else tensor
        assert torch.equal(weights[name], wanted)


def test_heads_are_published_and_pulled_when_they_are_wanted(run, tmp_path, monkeypatch, serve, capsys):
    zoo, home = tmp_path / "zoo", tmp_path / "home" / "models" / "tiny"
    assert main(["zoo", "publish", str(run), "--name", "bare", "--to", str(zoo), *ABOUT]) == 0
    assert main(["zoo", "publish", str(run), "--name", "tiny", "--to", str(zoo), "--heads", *ABOUT]) == 0
    monkeypatch.setenv("FOUNDATION_ZOO", serve(zoo).url)
    assert main(["zoo", "pull", "bare", "--heads"]) == 2 and "its heads are not published" in capsys.readouterr().err
    assert load_encoder("bare").heads is None
    loaded = load_encoder("tiny")
    assert not (home / "tiny.heads.safetensors").exists(), "who encodes needs none"
    assert main(["zoo", "verify", "tiny"]) == 0
    with pytest.raises(foundation.errors.UserError, match="'foundation zoo pull tiny --heads' gets it"):
        load_encoder("tiny", fetch=False).heads()
    wanted = load_encoder(run).heads()
    found = loaded.heads()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (home / "tiny.heads.safetensors").is_file()
    (home / "tiny.heads.safetensors").write_bytes(b"?")
    assert main(["zoo", "verify", "tiny"]) == 2
    assert main(["zoo", "pull", "tiny"]) == 0 and main(["zoo", "verify", "tiny"]) == 0, "they are brought up to date"

    other = tmp_path / "other"
    assert main(["zoo", "publish", "tiny", "--name", "tiny", "--to", str(other), "--heads", "--half"]) == 0
    assert read(other / "tiny.yaml").heads.size < 0.6 * read(zoo / "tiny.yaml").heads.size
    assert main(["zoo", "publish", "hapt-poa-w64-d2", "--name", "part", "--to", str(other), "--heads"]) == 2
    assert "has no heads beside it" in capsys.readouterr().err


def test_a_publishing_that_was_ended_is_done_again_and_what_others_put_there_stays(run, tmp_path, capsys, monkeypatch):
    zoo = tmp_path / "zoo"
    words = ["zoo", "publish", str(run), "--to", str(zoo), *ABOUT, "--name"]
    if (child := os.fork()) == 0:  # ended between the files and the card
        monkeypatch.setattr("foundation.zoo.publish.dump", lambda entry: os.kill(os.getpid(), 9))
        main([*words, "tiny"])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert (zoo / "tiny" / "tiny.safetensors").is_file() and not (zoo / "tiny.yaml").exists()
    assert main([*words, "tiny"]) == 0 and main(["zoo", "pull", "tiny", "--from", str(zoo)]) == 0
    (zoo / "index.json").unlink()  # as if it had been ended one step later
    assert main([*words, "tiny"]) == 2 and '"tiny"' in (zoo / "index.json").read_text()
    (zoo / "mine").mkdir()
    (zoo / "mine" / "mine.safetensors").write_bytes(b"of somebody else")
    capsys.readouterr()
    assert main([*words, "mine"]) == 2 and "has a model 'mine' already" in capsys.readouterr().err
    assert (zoo / "mine" / "mine.safetensors").read_bytes() == b"of somebody else"


def test_a_run_is_published_as_it_is_loaded_though_its_export_is_older(run, tmp_path):
    run = Path(shutil.copytree(run, tmp_path / "run"))
    card = run / "export" / "teacher.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "step": 3}))  # before it was ended on its way
    words = ["zoo", "publish", str(run), "--to", str(tmp_path / "zoo"), *ABOUT, "--name", "late"]
    assert main(words) == 0
    assert load_encoder(tmp_path / "zoo" / "late" / "late.safetensors").step == load_encoder(run).step == 7


def test_scores_of_probes_stand_on_the_card(run, tmp_path, capsys):
    result = tmp_path / "knn.json"
    rows = [{"name": "pixels", "k": 20, "top1": 0.9}, {"name": "model", "k": 10, "top1": 0.8}]
    rows += [{"name": "model", "k": 20, "treatment": "as is", "top1": 0.71234, "interval": [0.7, 0.75], "n": 100}]
    data = {"train": {"shards": ["train-*.tar"], "samples": 300}, "test": {"shards": ["test-*.tar"], "samples": 100}}
    content = {
        "format": 1,
        "probe": "knn",
        "metric": "top1",
        "model_sha256": load_encoder(run).sha256,
        "results": rows,
        "data": data,
        "settings": {"tokens": "cls"},
    }
    result.write_text(json.dumps(content))
    zoo = str(tmp_path / "zoo")
    words = ["zoo", "publish", str(run), "--name", "tiny", "--to", zoo, *ABOUT]
    assert main([*words, "--metrics", str(result)]) == 0
    (metric,) = read(tmp_path / "zoo" / "tiny.yaml").metrics
    assert (metric.value, metric.interval, metric.n) == (0.7123, (0.7, 0.75), 100)
    assert metric.command == 'foundation knn tiny --train "train-*.tar" --test "test-*.tar" --tokens cls --k 20'
    assert metric.protocol == "300 train samples, 100 test samples, features cls, treatment as is, k 20"
    capsys.readouterr()
    assert main(["zoo", "show", "tiny", "--from", zoo]) == 0
    assert "knn top1 0.712 [0.700, 0.750], n = 100" in capsys.readouterr().out
    result.write_text(json.dumps({**content, "results": rows[:1]}))
    assert main([*words[:3], "--name", "other", *words[5:], "--metrics", str(result)]) == 2
    assert "has no 'top1' of the model" in capsys.readouterr().err
    others = {"model": "another at step 3", "model_sha256": "0" * 64}
    for wrong, said in ((others, "is of other weights (another at step 3)"), ({"results": None}, "foundation knn, ")):
        result.write_text(json.dumps(content | wrong))
        assert main([*words[:3], "--name", "other", *words[5:], "--metrics", str(result)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "zoo" / "other.yaml").exists()
    weights = run / "export" / "teacher.safetensors"
    result.write_text(json.dumps(content | {"model_sha256": load_encoder(weights).sha256}))  # of the export
    assert main([*words[:3], "--name", "other", *words[5:], "--metrics", str(result)]) == 0


@pytest.mark.slow
def test_a_model_is_published_into_a_bucket_and_comes_out_of_it(run, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    (tmp_path / "bucket").mkdir()
    address = bucket(tmp_path / "bucket")
    words = ["zoo", "publish", str(run), "--to", f"{address}/zoo", *ABOUT, "--name"]
    assert main([*words, "tiny"]) == 0 and main([*words, "second"]) == 0 and main([*words, "tiny"]) == 2
    monkeypatch.setenv("FOUNDATION_ZOO", f"{address}/zoo")
    assert torch.equal(features("tiny"), features(run)) and torch.equal(features("second"), features(run))


@pytest.mark.parametrize(
    "size", [*(pytest.param(size, marks=pytest.mark.slow) for size in ((16, 2), (32, 1))), (24, 4)]
)
def test_a_part_is_read_without_the_rest_and_is_what_extracting_gives(run, tmp_path, size):
    width, depth = size
    zoo, out = str(tmp_path / "zoo"), str(tmp_path / "out")
    assert main(["zoo", "publish", str(run), "--name", "tiny", "--to", zoo, *ABOUT]) == 0
    assert main(["zoo", "pull", "tiny", "--from", zoo]) == 0
    assert main(["zoo", "extract", "tiny", "--width", str(width), "--depth", str(depth), "--out", out]) == 0
    cut = load_encoder(f"{out}/tiny-w{width}-d{depth}.safetensors")
    part = load_encoder("tiny", width=width, depth=depth)
    assert torch.equal(foundation.load("tiny", width=width, depth=depth)(view()), cut.encoder([view()])[0].cls)
    weights = part.encoder.state_dict()
    assert weights.keys() == cut.encoder.state_dict().keys() and part.config == cut.config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in cut.encoder.state_dict().items())
    assert part.name == f"tiny-w{width}-d{depth}" and part.sha256 not in (cut.sha256, load_encoder("tiny").sha256)


def asked_of_files() -> int:
    """Bytes that this process has asked for, as the system counts them: pages of a mapped file would be missing, and
    the reader maps none."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the count of the system is Linux's")
def test_the_system_counts_few_bytes_for_a_part_of_a_large_file(tmp_path):
    text = RECIPE.replace("width: 32, depth: 4, heads: 4", "width: 128, depth: 6, heads: 8")
    text = text.replace("[16, 24, 32]", "[32, 128]").replace(", stem: conv", "")
    run = make_run(tmp_path / "large", text)
    assert main(["zoo", "publish", str(run), "--name", "large", "--to", str(tmp_path / "zoo"), *ABOUT]) == 0
    assert main(["zoo", "pull", "large", "--from", str(tmp_path / "zoo")]) == 0
    part = load_encoder("large", width=32, depth=1)  # with all that is imported on the way
    before = asked_of_files()
    load_encoder("large", width=32, depth=1)
    asked = asked_of_files() - before
    path = weights_of("large")
    with partial.opened(path) as reader:
        layout = reader.bytes_read
    needed = partial.read_sub_network(path, load_encoder("large").config, 32, [1])[2]
    own = sum(tensor.nbytes for tensor in part.encoder.state_dict().values())
    assert needed == layout + own, "each number of the part once, and the header"
    assert needed <= asked < path.stat().st_size / 20, "with card, entry, notes and what else is read on the way"
