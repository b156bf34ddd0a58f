"""``foundation embed``: files and shards to features on disk, and nothing left out in silence."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import foundation
from foundation.cli import main
from foundation.zoo.export import write_export
from foundation.zoo.preprocess import Preprocess


@pytest.fixture
def model(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    torch.manual_seed(0)
    return str(write_export(tmp_path / "model.safetensors", recipe.encoder.build().state_dict(), recipe, "teacher", 0))


@pytest.fixture
def folder(tmp_path):
    """Four pictures, one of them damaged, and what else lies in folders."""
    for number, name in enumerate(("cats/a.png", "cats/b.jpg", "dogs/a.png", "dogs/broken.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:400])
    (tmp_path / "photos" / "notes.txt").write_text("hello")
    (tmp_path / "photos" / ".DS_Store").write_text("")
    return tmp_path / "photos"


def test_a_folder_of_files(model, folder, tmp_path, capsys):
    out = tmp_path / "new" / "features.npz"
    assert main(["embed", model, str(folder), str(out), "--device", "cpu", "--batch-size", "2"]) == 0
    said = capsys.readouterr()
    assert "3 vectors of 32 numbers" in said.out
    assert "left out: 1 hidden, 1 .txt, 1 truncated" in said.err and "notes.txt" in said.err
    assert f"  {folder}/dogs: broken.png: " in said.err, "the folder stands once"
    with np.load(out) as found:
        keys, features, about = found["keys"].tolist(), found["features"], json.loads(str(found["about"]))
        assert found["labels"].tolist() == [-1, -1, -1] and "names" not in found.files
    assert keys == [str(folder / name) for name in ("cats/a.png", "cats/b.jpg", "dogs/a.png")]
    np.testing.assert_allclose(features, foundation.load(model)(keys).numpy(), rtol=1e-5, atol=1e-5)
    assert about["left_out"] == {"hidden": 1, ".txt": 1, "truncated": 1} and about["tokens"] == "cls"
    before = out.read_bytes()
    assert main(["embed", model, str(folder), str(out)]) == 2
    assert "features.npz exists: choose another name, or add --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["embed", model, str(folder / "cats" / "a.png"), str(out), "--overwrite", "--tokens", "both"]) == 0
    assert np.load(out)["features"].shape == (1, 64)


def test_shards_keep_their_keys_and_labels(model, tiny_shards, tmp_path):
    out = tmp_path / "features.npz"
    assert main(["embed", model, tiny_shards, str(out), "--device", "cpu"]) == 0
    with np.load(out) as found:
        assert found["keys"].tolist() == [f"s{i:03d}" for i in range(40)]
        assert found["labels"].tolist() == [i % 4 for i in range(40)]
        assert found["features"].shape == (40, 32) and np.isfinite(found["features"]).all()


def test_a_place_that_cannot_be_written_is_said_before_the_work(model, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Preprocess, "raw", lambda *_: pytest.fail("a file was read first"))
    file = folder / "cats" / "a.png"
    (tmp_path / "d.npz").mkdir()
    for out, why in ((tmp_path / "d.npz", "is a folder"), (file / "x.npz", "a.png is no folder")):
        assert main(["embed", model, str(file), str(out), "--overwrite", "--device", "cpu"]) == 2
        assert why in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(["embed", model, str(file), str(tmp_path / "x.npz"), "--device", "cpu"]) == 2
    assert "x.npz: No space left on device" in capsys.readouterr().err and not list(tmp_path.glob("*x.npz*"))


def test_a_quoted_pattern_of_files_and_a_device_that_is_not_there(model, folder, tmp_path, capsys):
    assert main(["embed", model, str(folder / "cats" / "*.*"), str(tmp_path / "x.npz"), "--device", "cpu"]) == 0
    assert len(np.load(tmp_path / "x.npz")["keys"]) == 2
    out = str(tmp_path / "y.npz")
    for words in (["embed", model, str(folder), out], ["dense", model, out, "--shards", "x.tar"]):
        assert main([*words, "--device", "phone"]) == 2
        assert "--device phone: not here; on this machine there is cpu" in capsys.readouterr().err


def test_vectors_that_are_no_numbers_are_told(tiny_recipe, folder, tmp_path, capsys):
    recipe = tiny_recipe()
    weights = {name: torch.full_like(part, 1e38) for name, part in recipe.encoder.build().state_dict().items()}
    broken = str(write_export(tmp_path / "broken.safetensors", weights, recipe, "teacher", 0))
    words = [str(folder / "cats"), str(tmp_path / "x.npz"), "--device", "cpu", "--tokens", "both"]
    assert main(["embed", broken, *words]) == 0
    assert "warning: 2 of 2 vectors hold NaN or infinity" in capsys.readouterr().err


def test_mistakes_are_said_before_anything_is_read(model, folder, tiny_shards, tmp_path, capsys):
    def refused(*words):
        assert main(["embed", model, *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "must end with .npz" in refused(folder, folder / "cats")
    assert "did you mean" in refused(tmp_path / "photo", tmp_path / "x.npz")
    assert "files and shards in one command" in refused(folder, tiny_shards, tmp_path / "x.npz")
    assert "no files that this model reads (1 .txt)" in refused(folder / "notes.txt", tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_of_a_long_recording_it_is_said_what_is_seen(tmp_path, capsys):
    np.save(tmp_path / "long.npy", np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32))
    words = [
        "embed",
        "hapt-dino-ibot-nano",
        str(tmp_path / "long.npy"),
        str(tmp_path / "out.npz"),
        "--rate",
        "50",
        "--overwrite",
    ]
    assert main(words) == 0
    found = re.search(
        r"up to (\d+) views long, of which the middle one is seen: --pieces (\d+)", capsys.readouterr().err
    )
    assert int(found[1]) == int(found[2]) > 1
    assert main([*words, "--pieces", found[1]]) == 0
    assert "views long" not in capsys.readouterr().err
