"""The page shows each modality as a person looks at it: samples, what a mask hides, attention, feature colours."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation import config, paths
from foundation.data.build import build, load
from foundation.probes.artefacts import Limit, look, readout, summary
from foundation.report.artefacts import Shown, render, sheet
from foundation.report.build import write_report
from foundation.report.looked_at import samples
from foundation.report.picture_table import to_png
from foundation.report.pictures import gallery
from foundation.report.token_maps import attention_table, pca_table
from foundation.run.model_recipe import recipe_of
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export
from foundation.zoo.load import load_encoder

SETS = {"audio": "calls", "points": "wires", "video": "camera_moves", "imu": "motions"}


@pytest.fixture(scope="module", params=SETS)
def run(request, tmp_path_factory):
    """A run of the modality's quickstart that has not learned anything, and its shards."""
    modality = request.param
    folder = tmp_path_factory.mktemp(modality)
    script = load(SETS[modality])
    parser = argparse.ArgumentParser()
    script.module.add_arguments(parser)
    build(
        script,
        folder / "shards",
        parser.parse_args(["--train", "16", "--test", "4"]),
        samples_per_shard=100,
        max_bytes=1 << 30,
    )
    text = paths.recipe(f"quickstart-{modality}").read_text()
    recipe = config.load(Recipe, text, name=modality, overrides=[f"data.shards=[{folder}/shards/train-*.tar]"])
    (folder / "run" / "export").mkdir(parents=True)
    (folder / "run" / "recipe.yaml").write_text(config.dump(recipe))
    torch.manual_seed(0)
    weights = recipe.encoder.build().state_dict()
    write_export(folder / "run" / "export" / "teacher.safetensors", weights, recipe, "teacher", 0)
    return modality, folder / "run", str(folder / "shards" / "train-*.tar")


def pixels(uri: str) -> np.ndarray:
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_a_sample_its_mask_its_attention_and_its_features(run):
    _, folder, shards = run
    model = load_encoder(folder)
    masked = (recipe := recipe_of(model)) is not None and recipe.masking is not None
    made = gallery(model, (shards,), samples=3, bank=16, queries=2, near=3)
    assert len(made.looks) == 3 and len(made.neighbours) == 2 and not made.notes
    for seen in made.looks:
        sample = pixels(seen.image)
        assert (seen.hidden is not None) == masked
        if masked:
            hidden = pixels(seen.hidden)
            assert hidden.shape == sample.shape and np.abs(hidden.astype(int) - sample).mean() > 2  # partly covered
        names = [name for name, _ in seen.attention]
        assert names == ["mean of heads", "head 1", "head 2"]
        for _, uri in seen.attention:
            drawn = pixels(uri)
            assert drawn.shape == sample.shape  # over the sample itself
            assert np.abs(drawn.astype(int) - sample).mean() > 1
        assert pixels(seen.components).std() > 5
    assert pixels(made.neighbours[0].query[0]).shape == pixels(made.looks[0].image).shape


def test_maps_of_components_and_of_attention(run):
    _, folder, shards = run
    model = load_encoder(folder)
    seen = samples(model, (shards,), 3)
    components, attention = pca_table(model, seen, across=1), attention_table(model, seen)
    for line in components.lines:
        *sample, colours = (cell.picture for cell in line.cells)
        assert colours.reshape(-1, 3).std(axis=0).max() > 5
        assert all(one.shape == colours.shape for one in sample)  # beside it, as large
    assert len(components.lines) == len(attention.lines) == 3
    for line in attention.lines:
        sample, *maps = (cell.picture for cell in line.cells)
        assert len(maps) == 3 and all(one.shape == sample.shape for one in maps)  # mean and two heads
        assert line.head == "class token"
    assert min(len(to_png(table)) for table in (components, attention)) > 2000


@pytest.mark.slow
def test_the_page_of_each_modality_in_a_browser(run, tmp_path):
    modality, folder, _ = run
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    page = write_report(folder, tmp_path / f"{modality}.html", samples=3)
    picture = tmp_path / "page.png"
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,3000",
    ]  # fmt: skip
    shot = subprocess.run(
        [browser, *options, f"--screenshot={picture}", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert picture.exists(), shot.stderr[-2000:]
    assert "CONSOLE" not in shot.stderr
    from PIL import Image

    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 500
    assert Path(page).stat().st_size < 4_000_000


def test_artefacts_of_any_modality_are_counted_and_drawn(run):
    _, folder, shards = run
    model = load_encoder(folder)
    seen = look(model, [shards], limit=8, shown=2)
    figures = summary(seen, 6.0, 150.0)
    assert len(seen.norms) == 8 and figures["tokens"] == int(seen.norms.isfinite().sum()) > 0
    assert ("places" in figures) == bool(seen.grid)
    shown = Shown("model", model, seen, figures, readout(seen, seen, Limit.of(seen.norms, 6.0)))
    page = render([shown])
    assert page.count("<img") >= 4 and "nan %" not in page
    assert sheet([shown]).shape[2] == 3
