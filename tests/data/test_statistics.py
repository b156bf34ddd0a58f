"""``foundation data statistics``: what a recipe wants to know of samples, in the words that it takes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from foundation import config, paths
from foundation.cli import main
from foundation.data.moments import Moments
from foundation.data.shards import write_shards
from foundation.data.sources import open_sources
from foundation.data.statistics import collector_of, statistics
from foundation.errors import UserError
from foundation.run.advice import advice
from foundation.run.recipe import Recipe
from tests.modalities.audio.conftest import encode, tone

MODALITIES = {
    path.parent.name for path in Path(collector_of.__code__.co_filename).parents[1].glob("modalities/*/views.py")
}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def shards(folder: Path, *samples: dict[str, bytes], modality: str = "image") -> str:
    named = ({"__key__": f"k{index}", **sample} for index, sample in enumerate(samples))
    write_shards(named, folder / "out", "train", about={"card": {"modality": modality}})
    return str(folder / "out")


def test_moments_are_those_of_all_numbers_with_each_sample_counting_alike() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e6 + index, 1 + index, (50, 3)) for index in range(7)]
    moments = Moments()
    for part in parts:
        moments.add(part)
    whole = np.concatenate(parts)
    assert np.allclose(moments.mean, whole.mean(axis=0), rtol=1e-12)
    assert np.allclose(moments.std, whole.std(axis=0), rtol=1e-9)
    assert np.array_equal(moments.low, whole.min(axis=0)) and np.array_equal(moments.high, whole.max(axis=0))
    moments = Moments()
    moments.add(np.zeros((1, 1)))
    moments.add(np.ones((1000, 1)))
    assert (moments.mean[0], moments.std[0]) == (0.5, 0.5)


def test_every_modality_has_statistics() -> None:
    assert "image" in MODALITIES
    for name in MODALITIES - {"paired"}:
        assert collector_of(name).add
    with pytest.raises(UserError, match="give --recipe, or name a single modality"):
        collector_of("paired")


def test_images_say_mean_and_std_as_a_recipe_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 200, (20, 30, 3), dtype=np.uint8), np.full((40, 10, 3), 255, np.uint8)]
    deep = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    out = shards(tmp_path, *({"png": png(picture)} for picture in [*pictures, deep]), {"png": b"damaged"})
    assert main(["data", "statistics", out]) == 0
    said = capsys.readouterr().out
    words = yaml.safe_load(said)["views"]
    as_seen = np.rint(deep / 4095 * 255)[..., None].repeat(3, axis=2)
    each = [picture.reshape(-1, 3) / 255 for picture in [*pictures, as_seen]]
    assert np.allclose(words["mean"], np.mean([part.mean(axis=0) for part in each], axis=0), rtol=1e-3)
    assert "3 of 4 samples" in said and "# left out: 1 decode" in said
    assert "# width: least 8, median 10, most 30" in said
    assert "# largest number (uint16): least 4095, median 4095, most 4095" in said
    recipe = config.load(Recipe, paths.recipe("quickstart"), [f"views.{name}={value}" for name, value in words.items()])
    assert recipe.views.std == tuple(words["std"])


def test_statistics_follow_a_recipes_decoder_and_can_be_read_by_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    out = shards(tmp_path, *({"png": png(deep)} for _ in range(5)))
    found = statistics([out], limit=2)
    assert (found.used, found.samples) == (2, 5)
    recipe = tmp_path / "mine.yaml"
    assert main(["recipes", "copy", "quickstart", str(recipe)]) == 0
    recipe.write_text(recipe.read_text().replace("views:\n", "views:\n  decode: {range: type}\n"))
    capsys.readouterr()
    assert main(["data", "statistics", out, "--recipe", str(recipe), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["views"]["mean"][0] == pytest.approx(found.found.views["mean"][0] / 16, rel=0.05)
    assert said["notes"]["range"]["files"] == 5


def test_the_front_end_of_a_recipe_is_normalised_by_what_statistics_say(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    from dataclasses import replace

    import torch

    from foundation.modalities.audio.front_end import log_mel

    rng, samples, waves = np.random.default_rng(0), [], []
    for index in range(6):
        stream = io.BytesIO()
        waves.append((rng.standard_normal(16000) * 0.02 * (index + 1)).astype(np.float32))
        soundfile.write(stream, waves[-1], 8000, format="WAV", subtype="FLOAT")
        samples.append({"wav": stream.getvalue()})
    samples.append({"wav": samples[0]["wav"].replace(b"WAVE", b"EVAW")})
    out = shards(tmp_path, *samples, modality="audio")
    views = config.load(Recipe, paths.recipe("quickstart-audio")).views
    found = statistics([out], views=views)
    assert found.used == 6 and found.left_out.counts["decode"] == 1
    words = found.found.views["front_end"]
    cells = log_mel(torch.from_numpy(np.stack(waves)), replace(views.front_end, **words))
    assert abs(float(cells.mean())) < 0.02 and abs(float(cells.std()) - 1) < 0.02
    assert found.found.facts["rate (Hz)"] == {"8000": 6} and found.found.facts["seconds"]["most"] == 2
    slow = statistics([out]).found
    assert any("fewer than front_end.rate = 16000 samples per second" in text for text in slow.warnings)


@pytest.mark.parametrize(
    "gravity, doubt",
    [(1.0, "it looks like g"), (0.0, "has_gravity: false"), (981.0, "it looks like mg"), (9.81, "")],
)
def test_units_of_inertial_recordings_are_doubted(tmp_path: Path, gravity: float, doubt: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.02 * max(1.0, gravity), (300, 6)).astype(np.float32)
    values[:, 2] += gravity
    values[:, 3:] = rng.normal(0, 0.5 if doubt else 50, (300, 3))  # the last case: degrees per second
    facts = json.dumps({"imu_rate": 50}).encode()
    out = shards(tmp_path, *({"npy": npy(values), "json": facts} for _ in range(2)), modality="imu")
    whole = statistics([out])
    assert whole.notes.counts == {"units": 2}
    found = whole.found
    assert np.allclose(found.views["mean"], values.mean(axis=0), rtol=1e-3, atol=1e-3)
    assert found.facts["rate (Hz)"]["median"] == 50 and found.facts["seconds"]["median"] == 6
    assert len(found.warnings) == 1 and (doubt or "they look like deg/s") in found.warnings[0]


def test_points_say_extent_radius_and_what_follows_the_coordinates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = np.concatenate([rng.random((100, 3)), rng.normal(5, 2, (100, 2))], axis=1).astype(np.float32)
    large = small[:, :3] * 5000
    out = shards(tmp_path, {"npy": npy(small)}, {"npy": npy(large)}, modality="points")
    found = statistics([out]).found
    assert found.views == {"channels": 3} and found.facts["numbers of a point"] == {"3": 1, "5": 1}
    assert found.facts["extent along x"]["least"] == pytest.approx(np.ptp(small[:, 0]), rel=1e-3)
    assert np.allclose(found.facts["mean of numbers 4 to 5"], small[:, 3:].mean(axis=0), rtol=1e-3)
    assert [text.partition(";")[0] for text in found.warnings] == [
        "clouds differ in how much they say of a point",
        "the largest cloud is over 1,000 times as large as the smallest: is one in millimetres?",
    ]


def test_films_say_colours_rates_and_lengths(tmp_path: Path) -> None:
    frames = np.zeros((10, 8, 12, 3), np.uint8)
    frames[..., 0] = 51
    out = shards(tmp_path, {"npy": npy(frames), "json": b'{"fps": 5}'}, modality="video")
    found = statistics([out]).found
    assert found.views == {"mean": [0.2, 0.0, 0.0], "std": [0.0, 0.0, 0.0]}
    assert found.facts["frames per second"]["median"] == 5 and found.facts["seconds read"]["most"] == 2


def test_paired_samples_say_it_for_each_member(shared_data: Callable[[str], Any]) -> None:
    views = config.load(Recipe, paths.recipe("utd-paired-dino-nano"))
    path = str(shared_data("utd_mhad_depth_imu") / "train-*.tar")
    found = statistics([path], limit=2, views=views.views, decoding=views.decode).found
    assert set(found.views["members"]) == set(views.views.members)
    assert all({"mean", "std"} <= set(words) for words in found.views["members"].values())


def told(recipe: str, path: str, *overrides: str) -> list[str]:
    """What a run of a shipped recipe says of some samples before it begins."""
    read = config.load(Recipe, paths.recipe(recipe), [f"data.shards=[{path}]", *overrides])
    return advice(read, read.clock(), open_sources(read.data))


@pytest.mark.parametrize(
    ("short", "filled"), [("silence", "silence"), ("repeat", "the recording again")], ids=["silence", "repeat"]
)
def test_views_longer_than_the_sounds_are_told_with_the_key(tmp_path: Path, short: str, filled: str) -> None:
    sound = {"flac": encode(tone(0.25, 8000), 8000, "flac")}
    path = shards(tmp_path, sound, modality="audio")
    said = told("fsdd-dino-ibot-nano", path, f"views.short={short}")
    (line,) = (line for line in said if "recordings are 0.25 s (median)" in line)
    assert f"{filled} fills the rest (views.short)" in line
    frames = int(line.partition("Set views.global_views.frames to ")[2].split()[0])
    fitting = told("fsdd-dino-ibot-nano", path, f"views.global_views.frames={frames // 4 * 4}")
    assert not any("a global view is" in line for line in fitting)


def test_clips_longer_than_the_films_are_told_with_the_key(tmp_path: Path) -> None:
    def film(frames: int, rate: int) -> dict[str, bytes]:
        return {"npy": npy(np.zeros((frames, 40, 40, 3), np.uint8)), "json": b'{"fps": %d}' % rate}

    few = told("utd-depth-dino-ibot-nano", shards(tmp_path / "few", film(3, 5), modality="video"))
    assert any("the films have 3 (median): frames are repeated. Set views.global_views.frames to 3" in x for x in few)
    fast = shards(tmp_path / "fast", film(64, 60), modality="video")
    assert any("covers all of a film, at another speed" in x for x in told("video-dino-ibot", fast, *SECONDS))


SECONDS = ("views.global_views={count: 2, size: 32, frames: 16, rates: [5.0]}", "views.local_views.count=0")


def test_nothing_to_say_is_said(tmp_path: Path) -> None:
    out = shards(tmp_path, {"png": b"damaged"})
    with pytest.raises(UserError, match=r"no sample can be read: 1 decode \(k0: "):
        statistics([out])
    with pytest.raises(UserError, match="at least 1 sample"):
        statistics([out], limit=0)
