"""torch.export and ONNX: one file for any number of views, of every modality, without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import foundation
from foundation.encoders.positions import PositionConfig
from foundation.zoo.load import load_encoder
from foundation.zoo.targets import export
from foundation.zoo.targets.onnx import Config
from foundation.zoo.targets.writing import source_of, write_checked

SMALL = {
    "quickstart": (),
    "quickstart-audio": (),
    "quickstart-points": ("encoder.tokenizer.stride=128", "encoder.tokenizer.group_size=8"),
    "quickstart-video": (),
    "quickstart-imu": (),
}
"""What makes them quick to trace: the search for centres is written out, a step for each group."""
RATE = 50.0
"""Hz, of the windows of inertial sensors, whose files do not say it."""
FRESH = """
import json, sys, torch
for name in sys.argv[1:]:
    card = {"card.json": ""}
    program = torch.export.load(name + ".pt2", extra_files=card).module()
    view = torch.load(name + ".view", weights_only=True)
    torch.save([part.detach() for part in program(view)], name + ".found")
    assert json.loads(card["card.json"])["view"] == list(view.shape[1:])
assert not any(name.partition(".")[0] == "foundation" for name in sys.modules)
"""
FIRST = "quickstart-imu"
RECIPES = [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL if name != FIRST)]


@pytest.mark.parametrize("recipes", [[FIRST], pytest.param([*SMALL], marks=pytest.mark.slow)], ids=["one", "all"])
def test_programs_run_where_this_package_is_not(recipes, exported, real_samples, tmp_path):
    wanted = {}
    for recipe in recipes:
        files, path = real_samples(recipe), exported(recipe, "encoder.depth=1", *SMALL[recipe])
        written = export(path, to="torch-export", out=tmp_path / f"{recipe}.pt2", samples=files, rate=RATE)
        assert written.real and written.deviation <= 1e-5
        model = foundation.load(path)
        view = model.preprocess(files, rate=RATE).repeat(3, *[1] * (len(written.view) - 1))[:5]
        torch.save(view, tmp_path / f"{recipe}.view")
        wanted[recipe] = model.encoder([view])[0]
    command = [sys.executable, "-c", FRESH, *recipes]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    for recipe, ours in wanted.items():
        cls, patches = torch.load(tmp_path / f"{recipe}.found", weights_only=True)
        torch.testing.assert_close(cls, ours.cls, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(patches, ours.patches, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_onnxruntime_has_the_same_features(recipe, exported, real_samples, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    files = real_samples(recipe)
    path = exported(recipe, "encoder.depth=1", *SMALL[recipe])
    written = export(path, to="onnx", out=tmp_path / "encoder.onnx", samples=files, rate=RATE)
    assert written.real and written.deviation <= 1e-4
    model = foundation.load(path)
    session = runtime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    assert [one.shape[0] for one in (*session.get_inputs(), *session.get_outputs())] == ["batch"] * 3
    for rows in (1, 5):
        view = model.preprocess(files, rate=RATE).repeat(3, *[1] * (len(written.view) - 1))[:rows]
        cls, patches = session.run(["cls", "patches"], {"view": view.numpy()})
        wanted = model.encoder([view])[0]
        np.testing.assert_allclose(cls, wanted.cls.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(patches, wanted.patches.numpy(), rtol=1e-4, atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["foundation.card"])["name"] == f"{recipe}-teacher"
    assert json.loads(about["foundation.preprocessing"]) == json.loads(about["foundation.card"])["preprocessing"]


@pytest.mark.slow
def test_registers_rotary_positions_and_weights_in_a_file_of_their_own(image_encoder, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    loaded = image_encoder(registers=2, position=PositionConfig(kind="rotary"), depth=1, ffn="swiglu64")
    target, source = Config(largest=0).build(), source_of(loaded)
    write_checked(target, source, tmp_path / "a.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    session = runtime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == ["cls", "patches", "registers"]
    wanted = loaded.encoder([source.view])[0].registers
    np.testing.assert_allclose(
        session.run(["registers"], {"view": source.view.numpy()})[0], wanted, rtol=1e-4, atol=1e-4
    )
    write_checked(Config().build(), source, tmp_path / "a.onnx", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"], "no weights of the earlier one stay behind"


def test_the_way_of_attention_is_that_of_the_program_and_not_of_the_recipe(image_encoder):
    loaded = image_encoder(attention="explicit", packing="always")
    source = source_of(loaded)
    assert (source.encoder.config.attention, source.encoder.config.packing) == ("sdpa", "never")
    assert (loaded.encoder.config.attention, loaded.encoder.config.packing) == ("explicit", "always")
    view = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(source.outputs(view)["cls"], loaded.encoder([view])[0].cls)
    half = replace(loaded, encoder=image_encoder().encoder.to(torch.bfloat16))
    assert {weight.dtype for weight in source_of(half).encoder.parameters()} == {torch.float32}
    assert {weight.dtype for weight in half.encoder.parameters()} == {torch.bfloat16}


def test_of_several_towers_the_one_that_is_looked_at_is_written(exported):
    loaded = load_encoder(exported("utd-paired-dino-nano"))
    source = source_of(loaded)
    modality, _ = loaded.own
    assert source.modality == modality == source.encoder.modality
    wanted = loaded.encoder([source.view])[0]
    assert torch.allclose(source.outputs(source.view)["cls"], wanted.cls, atol=1e-5)
