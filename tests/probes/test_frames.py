"""The frame-level probe: alignment in time, and the command on sounds whose events are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foundation import config, paths
from foundation.cli import main
from foundation.data.shards import open_shards, write_shards
from foundation.errors import SampleError, UserError
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.modalities.audio.front_end import FrontEndConfig
from foundation.probes import frame_features, frames
from foundation.report.page import render
from foundation.report.run import read_run
from foundation.run.recipe import Recipe
from tests.modalities.audio.conftest import encode, tone

RATE = 8000


def recording(number: int) -> dict:
    """Two seconds with two or three events: a low tone (0) or a high one (1), in faint noise."""
    random = np.random.default_rng(number)
    wave = random.normal(0, 0.003, 2 * RATE).astype(np.float32)
    events, now = [], random.uniform(0.05, 0.3)
    while now < 1.5:
        length, label = random.uniform(0.2, 0.4), int(random.integers(2))
        begin = round(now * RATE)
        sound = tone(length, RATE, (400.0, 1500.0)[label], 0.3)
        wave[begin : begin + len(sound)] += sound
        events.append({"label": label, "onset": now, "offset": now + length})
        now += length + random.uniform(0.15, 0.4)
    facts = json.dumps({"events": events}).encode()
    return {"__key__": f"r{number:03d}", "flac": encode(wave, RATE, "flac"), "json": facts}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("tones")
    write_shards([recording(i) for i in range(40)], out, "train")
    broken = {"__key__": "silent", "flac": encode(tone(1, RATE), RATE, "flac"), "cls": b"1"}
    write_shards([*(recording(100 + i) for i in range(12)), broken], out, "test")
    return out


def recipe(shards, *overrides: str) -> Recipe:
    given = [f'data.shards=["{shards}/train-*.tar"]', "data.workers=0", "train.device=cpu", "train.precision=float32"]
    given += ["train.batch_size=8", "train.stop_after=2 steps", "encoder.depth=2", *overrides]
    return config.load(Recipe, paths.recipes()["fsdd-atst-frame-nano"], given)


def test_the_command_finds_the_tones(shards, train, tmp_path, capsys):
    train(recipe(shards), tmp_path / "run")
    out = tmp_path / "frames.json"
    words = ["--train", f"{shards}/train-*.tar", "--test", f"{shards}/test-*.tar", "--workers", "0", "--baselines"]
    words += ["--epochs", "8", "--learning-rates", "0.1", "0.5"]
    assert main(["frames", str(tmp_path / "run"), *words, "--median", "5", "--json", str(out)]) == 0
    said = capsys.readouterr()
    assert "1 sample was left out of" in said.err and "no 'events' in its json" in said.err
    content = json.loads(out.read_text())
    scores = {row["name"]: row for row in content["results"]}
    assert scores["raw"]["frame_f1"] > 0.85 and scores["raw"]["event_f1"] > 0.8  # tones are plain to see
    assert scores["untrained"]["frame_f1"] > 0.6
    low, high = scores["model"]["frame_interval"]
    assert low <= scores["model"]["frame_f1"] <= high and scores["model"]["n"] == 12
    assert content["data"]["test"]["skipped"] == {"missing": 1}
    probes = tmp_path / "run" / "probes"
    probes.mkdir(exist_ok=True)
    out.rename(probes / "frames.json")
    page = render(read_run(tmp_path / "run"), None)
    assert "F1 of frames" in page and f"{100 * scores['model']['frame_f1']:.1f} %" in page and "F1 %" in page


def test_patches_of_one_moment_are_averaged(shards):
    from foundation.encoders import vit
    from foundation.modalities.audio import decode, tokenizer

    encoder = vit.Config(
        preset=None, width=16, depth=2, heads=2, size=(32, 200), tokenizer=tokenizer.Config(patch=(8, 4))
    ).build().eval()  # fmt: skip
    evaluate = EvaluationConfig(
        front_end=FrontEndConfig(rate=RATE, mels=32, window=0.032, high=4000.0), frames=200
    ).build()
    opened, decoder = open_shards([f"{shards}/train-*.tar"]), decode.Config().build()
    found = frame_features.extract(encoder, opened, decoder, evaluate, blocks=2, batch_size=16)
    assert found.features.shape == (40, 50, 32) and found.timelines.shape == (40, 50, 2) and found.classes == 2
    sample = decoder(opened.read(0, 0))
    tokens = encoder([evaluate([sample])])[0].patches[0].unflatten(0, (4, 50)).mean(0)
    torch.testing.assert_close(found.features[0, :, 16:], tokens, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seconds", [0.7, 2.0, 3.0])
def test_timeline_is_that_of_the_file(seconds):
    """A click lies in the column whose span holds it, whether the view is shorter or longer than the file."""
    config = EvaluationConfig(front_end=FrontEndConfig(rate=RATE, mels=32, window=0.016, high=4000.0), frames=100)
    evaluate = config.build().lasting(seconds)
    wave = np.zeros(2 * RATE, np.float32)
    wave[int(1.1 * RATE)] = 1.0
    sample = {"audio": torch.from_numpy(wave), "audio_rate": RATE}
    view = evaluate([sample])
    columns = view.shape[-1] // 2
    timeline = evaluate.timeline(sample, columns)
    assert timeline[-1, 1] - timeline[0, 0] == pytest.approx(seconds, abs=0.011)
    loudest = int(view[0, 0, :, : 2 * columns].amax(0).argmax()) // 2
    assert timeline[loudest, 0] - 0.011 <= 1.1 <= timeline[loudest, 1] + 0.011


def test_while_training(shards, train, metrics, tmp_path):
    probe = f"{{name: frames, every: 2 steps, train: [{shards}/train-*.tar], test: [{shards}/test-*.tar], epochs: 2}}"
    train(recipe(shards, f"probes=[{probe}]"), tmp_path / "run")
    measured = [line for line in metrics(tmp_path / "run") if "probe/frame_f1" in line]
    assert measured and all(0 <= line["probe/frame_f1"] <= 1 and "probe/event_f1" in line for line in measured)


def test_mistakes_are_named():
    raw = {"__key__": "k", "__shard__": "s"}
    with pytest.raises(SampleError, match="frame-level labels are needed"):
        frame_features.read_events(raw)
    for events in (
        [{"label": 1}],
        [{"label": 1, "onset": 2.0, "offset": 1.0}],
        7,
        [{"label": -1, "onset": 0, "offset": 1}],
    ):
        with pytest.raises(SampleError, match="expected"):
            frame_features.read_events({**raw, "json": json.dumps({"events": events}).encode()})
    with pytest.raises(UserError, match="odd"):
        frames.Settings(median=4)
    with pytest.raises(UserError, match=r"frames\.test is empty"):
        frames.Config(train=("a.tar",), test=())
    with pytest.raises(UserError, match="no timeline"):
        frame_features.extract(None, None, None, lambda samples: samples)


def test_size_in_pixels_is_refused(shards, train, tmp_path, capsys):
    train(recipe(shards, "train.stop_after=1 steps"), tmp_path / "run")
    words = ["--train", f"{shards}/train-*.tar", "--test", f"{shards}/test-*.tar"]
    assert main(["frames", str(tmp_path / "run"), *words, "--size", "64"]) == 2
    assert "leave --size out" in capsys.readouterr().err
