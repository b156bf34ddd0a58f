"""Planted artefacts are found where they are, and warned of where the limit misses them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.data.write import write_shards
from foundation.errors import UserError
from foundation.probes import artefacts
from foundation.probes.least_squares import accuracy, explained, fit
from foundation.zoo.load import load_encoder
from tests.conftest import image_bytes

MODEL = "timm:test_vit,random"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    """Twelve pictures; the class of a cell is whether it lies in the upper half."""
    folder = tmp_path_factory.mktemp("artefacts")
    cells = np.repeat([0, 1], 50).astype(np.uint8)

    def samples():
        from io import BytesIO

        for number in range(12):
            stream = BytesIO()
            np.save(stream, cells)
            yield {"__key__": f"{number:03}", "png": image_bytes(number, 160), "cells.npy": stream.getvalue()}

    write_shards(samples(), folder, "all")
    return f"{folder}/all-*.tar"


@pytest.fixture(scope="module")
def planted():
    """A model whose third and fifth token have ten times the norm behind the last block, whatever they see."""
    loaded = load_encoder(MODEL)
    with torch.no_grad():
        direction = torch.nn.functional.normalize(torch.randn(1, 1, 64), dim=-1)
        loaded.encoder.model.pos_embed[:, [1 + 2, 1 + 4]] += 60.0 * direction
    return loaded


def test_outliers_are_counted_where_they_were_planted(planted, shards):
    seen = artefacts.look(planted, [shards])
    figures = artefacts.summary(seen, 6.0, 150.0)
    places = np.array(figures["places"]).flatten()
    assert (
        seen.grid == (10, 10) and seen.norms.shape == (12, 100) and seen.layer == f"block.{planted.encoder.depth - 1}"
    )
    assert set(np.flatnonzero(places)) == {2, 4} and figures["outliers"] == pytest.approx(0.02)
    clean = artefacts.look(load_encoder(MODEL), [shards])
    rule = artefacts.Limit.of(seen.norms, 6.0)
    assert artefacts.summary(clean, 6.0, 150.0, rule)["above_first"] == 0.0


def test_the_rule_is_median_and_robust_deviation():
    norms = torch.tensor([[1.0, 2.0, 3.0, 4.0, 100.0, torch.nan]])
    rule = artefacts.Limit.of(norms, 5.0)
    assert (rule.median, rule.deviation) == (3.0, pytest.approx(1.4826)) and 10 < rule.norm < 11
    looked = artefacts.Look(norms, "features", norms.T, norms.T, norms.T, None, None, (), (), None, ())
    figures = artefacts.summary(looked, 5.0, 50.0)
    assert figures["outliers"] == figures["above_cut"] == pytest.approx(0.2) and figures["tokens"] == 5


def test_a_second_hump_and_high_places_below_the_limit_are_warned_of_and_a_long_tail_is_not():
    torch.manual_seed(0)
    wide, count = 5.0 + 2.7 * torch.randn(200, 64), 12_800
    anywhere = wide.flatten().clone()
    anywhere[torch.randperm(count)[:640]] = 17.0 + torch.randn(640)
    anywhere = anywhere.view(200, 64)
    placed = wide.clone()
    placed[:, [9, 30, 52]] = 14.0 + 2.0 * torch.randn(200, 3)

    def said(norms: torch.Tensor) -> tuple[dict, str]:
        nothing = torch.zeros(0)
        look = artefacts.Look(norms, "features", *3 * [nothing], None, None, (), (), None, (8, 8))
        figures = artefacts.summary(look, 6.0, 150.0)
        return figures, " ".join(artefacts.warnings(figures))

    figures, text = said(anywhere)
    assert figures["outliers"] < 0.005 and figures["second_hump"]["share"] == pytest.approx(0.05, abs=0.01)
    assert "a second hump" in text and "places of the grid" not in text
    figures, text = said(placed)
    assert figures["outliers"] < 0.01 and figures["high_places"] == [[1, 1], [3, 6], [6, 4]]
    assert "3 places of the grid ((1, 1), (3, 6), (6, 4), counted from 0)" in text
    for seed in range(5):
        torch.manual_seed(seed)
        for norms in (torch.randn(20, 64) + 5, torch.randn(200, 64).exp(), torch.rand(200, 64).log().neg()):
            assert said(norms)[1] == ""
    far = wide.clone()
    far[:, 9] = 80.0
    assert said(far)[0]["outliers"] >= 1 / 64 and said(far)[1] == ""  # seen by the limit: nothing to warn of


def test_tokens_that_say_nothing_of_their_cell_are_seen_apart():
    torch.manual_seed(0)
    cells = torch.randn(4000, 3)
    tokens = cells @ torch.randn(3, 16) + 0.01 * torch.randn(4000, 16)
    norms = torch.ones(4000)
    tokens[::8], norms[::8] = torch.randn(500, 16), 50.0
    labels = (cells[:, 0] > 0).long()
    rows = torch.arange(4000) // 5
    looked = artefacts.Look(norms.view(800, 5), "features", tokens, rows, norms, cells, labels, (), (), None, (5,))
    found = artefacts.readout(looked, looked, artefacts.Limit(1.0, 0.1, 6.0))
    assert found["reconstruction_r2"]["others"] > 0.6 and found["reconstruction_r2"]["outliers"] < 0.2
    assert found["labels"]["others"]["accuracy"] > 0.9 and found["labels"]["outliers"]["accuracy"] < 0.65
    assert found["tokens"]["all"] == 2000 and found["tokens"]["outliers"] + found["tokens"]["others"] == 2000


def test_least_squares_finds_a_linear_map_and_scores_are_as_defined():
    torch.manual_seed(0)
    x, weight = torch.randn(200, 8), torch.randn(8, 2)
    predict = fit(x, x @ weight + 3.0)
    torch.testing.assert_close(predict(x), (x @ weight + 3.0).double(), rtol=1e-3, atol=1e-3)
    assert explained(torch.zeros(2, 1), torch.ones(2, 1), torch.zeros(1)) == 0.0
    found = accuracy(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    assert found == {"accuracy": 0.75, "mean_iou": pytest.approx((1 / 2 + 2 / 3) / 2)}


def test_labels_must_be_one_for_each_token(planted, shards):
    with pytest.raises(UserError, match=r"cells\.npy has 100 numbers, and the evaluation view has \d+ patch tokens"):
        from foundation.modalities.parts import evaluation_config

        smaller = evaluation_config("image", planted.evaluation, 80)
        other = type(planted)(**{**planted.__dict__, "evaluation": smaller})
        artefacts.look(other, [shards], labels="cells.npy")


def test_the_command_writes_figures_and_one_page(shards, tmp_path, capsys):
    words = ["artefacts", MODEL, shards, "--after", MODEL, "--labels", "cells.npy", "--out", str(tmp_path)]
    assert main([*words, "--picture", str(tmp_path / "maps.png")]) == 0
    from PIL import Image

    assert Image.open(tmp_path / "maps.png").size == (3 * 102, 6 * 102 + 16)
    found = json.loads((tmp_path / "artefacts.json").read_text())
    assert [model["role"] for model in found["models"]] == ["before", "after"]
    assert found["models"][0]["norms"]["tokens"] == 1200 and "above_first" in found["models"][1]["norms"]
    assert 0 <= found["models"][0]["readout"]["labels"]["all"]["mean_iou"] <= 1
    page = (tmp_path / "artefacts.html").read_text()
    assert page.count("<img") >= 12 and "http" not in page.replace("http://www.w3.org", "")
    said = capsys.readouterr().out
    assert "outliers" in said and "artefacts.html" in said and "(0.0 MB)" not in said
    assert "tokens above the limit of 'before'" in said and "outliers alone" in said and "too few" in said
    assert main(["artefacts", MODEL, shards, "--train", shards]) == 2
