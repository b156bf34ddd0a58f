"""Features of single points, from the command line and by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.parts import part
from foundation.modalities.points import dense
from foundation.modalities.points.evaluation import EvaluationConfig
from foundation.probes.dense import token_features
from foundation.zoo.load import load_encoder


def arrays(folder, split="dense") -> dict[str, dict[str, np.ndarray]]:
    shards = open_shards([str(folder / f"{split}-*.tar")])
    raws = [shards.read(*shards.locate(n)) for n in range(shards.num_samples)]
    return {
        raw["__key__"]: {
            name.removesuffix(".npy"): np.load(io.BytesIO(raw[name]), allow_pickle=False)
            for name in raw
            if name.endswith(".npy")
        }
        for raw in raws
    }


def test_every_point_of_the_file_gets_features(small_run, wires, tmp_path, capsys):
    source = f"{wires}/test-*.tar"
    words = ["dense", str(small_run), str(tmp_path / "out"), "--shards", source, "--limit", "5", "--blocks", "2"]
    assert main([*words, "--batch-size", "2"]) == 0
    assert "written: 5 samples in 1 shard," in capsys.readouterr().out
    found = arrays(tmp_path / "out")
    originals = open_shards([source])
    keys = {originals.read(*originals.locate(n))["__key__"]: n for n in range(originals.num_samples)}
    for key, entry in found.items():
        raw = originals.read(*originals.locate(keys[key]))
        cloud = np.load(io.BytesIO(raw["npy"])).astype(np.float32)
        assert np.array_equal(entry["points"], cloud)
        assert entry["features"].shape == (2048, 2 * 128) and entry["features"].dtype == np.float16
        assert np.isfinite(entry["features"]).all() and entry["features"].astype(np.float32).std(0).mean() > 0.01
        # Neighbours are alike, more than two points anywhere.
        features = entry["features"].astype(np.float32)
        near = ((cloud[:200, None] - cloud[None]) ** 2).sum(-1).argsort(1)[:, 1]
        far = np.random.default_rng(0).integers(0, 2048, 200)
        distance = np.linalg.norm(features[:200] - features[near], axis=1).mean()
        assert distance < 0.5 * np.linalg.norm(features[:200] - features[far], axis=1).mean()
    assert main(words) == 2, "what is there is not replaced unasked"
    assert main([*words, "--overwrite", "--batch-size", "5"]) == 0
    for key, entry in arrays(tmp_path / "out").items():
        np.testing.assert_allclose(entry["features"], found[key]["features"], atol=5e-3)


def test_features_at_a_centre_are_those_of_its_group(small_run):
    loaded = load_encoder(small_run)
    cloud = torch.randn(300, 3) * 5 + 2
    samples = [{"points": cloud}]
    evaluation = EvaluationConfig(size=300)
    view = evaluation.build()(samples)
    places = loaded.config.coordinates_of(view)
    tokens = token_features(loaded.encoder, view)
    assert torch.equal(tokens, loaded.encoder([view])[0].patches)
    (entry,) = dense.spread(tokens, places, samples, evaluation)
    at = torch.cdist(places[0], view[0].T, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    np.testing.assert_allclose(entry["features"][at], tokens[0].half().numpy(), atol=1e-2)


def test_large_clouds_are_worked_through_in_parts(monkeypatch):
    tokens, places = torch.randn(1, 6, 4), torch.randn(1, 6, 3)
    samples = [{"points": torch.randn(100, 3)}]
    whole = dense.spread(tokens, places, samples, EvaluationConfig())[0]["features"]
    monkeypatch.setattr(dense, "CHUNK", 7)
    assert np.array_equal(dense.spread(tokens, places, samples, EvaluationConfig())[0]["features"], whole)


def test_mistakes(small_run, wires, tmp_path, capsys):
    source = f"{wires}/test-*.tar"
    for words, message in (
        (["--blocks", "4"], "between 1 and the encoder's depth 3"),
        (["--limit", "0"], "argument --limit: 0 given; it must be from 1"),
    ):
        assert main(["dense", str(small_run), str(tmp_path / "o"), "--shards", source, *words]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="depth 3"):
        token_features(load_encoder(small_run).encoder, torch.randn(1, 3, 64), 0)
    with pytest.raises(UserError, match=r"modality 'image' has no dense\.py"):
        part("image", "dense")
