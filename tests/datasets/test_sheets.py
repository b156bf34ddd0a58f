"""The contact sheet of a data set shows samples as their modality's picture room draws them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from foundation import paths
from foundation.cli import main
from foundation.data.build import build, load
from foundation.data.shards import write_shards
from foundation.data.verify import verify
from foundation.errors import SampleError, UserError
from foundation.modalities import contact_sheet as sheet
from foundation.modalities.contact_sheet import contact_sheet
from foundation.modalities.inspect import inspect

MODALITIES = sorted(
    path.parent.name
    for path in Path(importlib.import_module("foundation").__file__).parent.glob("modalities/*/picture.py")
)
SETS = {
    "image": ("photo_tiles", []),
    "audio": ("calls", []),
    "points": ("wires", []),
    "video": ("camera_moves", []),
    "imu": ("motions", []),
    "paired": ("synthetic", ["--frames", "npy", "--seconds", "1", "--size", "16"]),
}


def made(modality: str, folder: Path) -> Path:
    import argparse

    name, words = SETS[modality]
    script = load(name)
    parser = argparse.ArgumentParser()
    script.module.add_arguments(parser)
    arguments = parser.parse_args(["--train", "12", "--test", "4", *words])
    build(script, folder, arguments, samples_per_shard=100, max_bytes=1 << 30)
    return folder


@pytest.mark.parametrize("modality", SETS)
def test_every_sample_is_on_the_sheet_as_its_modality_looks(modality, tmp_path):
    from PIL import Image

    facts = inspect([str(made(modality, tmp_path / "shards") / "train-*.tar")])
    assert facts.modality == modality  # as the index says
    assert contact_sheet(facts, tmp_path / "sheet.png") == 12
    width, height = importlib.import_module(f"foundation.modalities.{modality}.picture").CELL
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    columns, lines = (pixels.shape[1] - 4) // (width + 4), (pixels.shape[0] - 4) // (height + 18)
    assert columns * lines >= 12 > columns * (lines - 1)
    for index in range(12):
        left, top = 4 + index % columns * (width + 4), 4 + index // columns * (height + 18)
        cell = pixels[top : top + height, left : left + width]
        assert (cell < 240).any(axis=2).mean() > 0.02, (modality, index)  # more than paper
        assert (pixels[top + height : top + height + 14, left : left + width] < 100).any()  # and named


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_sample_that_cannot_be_read_is_no_picture(modality):
    picture = importlib.import_module(f"foundation.modalities.{modality}.picture")
    raw = {"__key__": "a", "__shard__": "b.tar", "__id__": 0}
    with pytest.raises(SampleError):
        picture.of_raw(raw)
    with pytest.raises(SampleError):
        picture.of_raw(raw | {name: b"nonsense" for name in ("jpg", "wav", "ply", "mp4", "npy")})


def test_another_modality_may_be_asked_for(tmp_path):
    facts = inspect([str(made("paired", tmp_path / "shards") / "test-*.tar")])
    assert contact_sheet(facts, tmp_path / "imu.png", modality="imu") == 4
    with pytest.raises(UserError, match="no sample of these shards has a picture"):
        contact_sheet(facts, tmp_path / "image.png", modality="image")
    with pytest.raises(UserError, match="no modality called 'imuu'"):
        contact_sheet(facts, tmp_path / "other.png", modality="imuu")


def test_short_sounds_and_clouds_without_colour_have_pictures():
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\1\2" * 50)  # 6 milliseconds
    audio = importlib.import_module("foundation.modalities.audio.picture")
    assert audio.of_raw({"__key__": "a", "wav": file.getvalue()}).ndim == 3
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).normal(size=(20_000, 6)).astype(np.float32))
    points = importlib.import_module("foundation.modalities.points.picture")
    assert points.of_raw({"__key__": "a", "npy": file.getvalue()}).shape == (160, 480, 3)


@pytest.mark.parametrize("modality", [name for name in SETS if name != "paired"])
def test_what_is_built_is_verified_with_the_decoder_of_its_modality(modality, tmp_path):
    shards = [str(made(modality, tmp_path / "shards") / "*.tar")]
    found = verify(shards, decode=True, workers=1)
    assert not found.errors and found.decoded and found.samples == 16
    other = "audio" if modality != "audio" else "image"
    assert verify(shards, decode=True, modality=other, workers=1).errors == {"missing": 16}


@pytest.mark.slow
def test_a_recipe_says_how_samples_are_read_where_they_do_not(shared_data, capsys):
    shards = str(shared_data("hapt_imu") / "test-*.tar")
    assert main(["data", "verify", shards, "--decode", "--modality", "imu", "--workers", "1"]) == 3
    shown = capsys.readouterr().out
    assert "rate" in shown and "--recipe RECIPE" in shown, "the shards do not say at which rate they were recorded"
    assert main(["data", "verify", shards, "--recipe", "hapt-dino-ibot-nano", "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1,558 samples" in shown and "add --decode" not in shown
    pairs = str(shared_data("utd_mhad_depth_imu") / "test-000000.tar")
    assert main(["data", "verify", pairs, "--recipe", "utd-paired-dino-nano", "--workers", "1"]) == 0


def test_a_sheet_shows_what_the_recipe_reads_and_labels_of_any_script(tmp_path, capsys, monkeypatch):
    """Two pictures in each sample, one of them named by the recipe; a class name in Chinese and one in Cyrillic."""
    import base64
    import io
    import json
    import tarfile

    from PIL import Image

    from foundation.cli import main

    with tarfile.open(tmp_path / "train-000000.tar", "w") as archive:
        for number in range(2):
            for extension, colour in (("a.png", "red"), ("b.png", "blue"), ("cls", "")):
                stream = io.BytesIO(str(number).encode())
                if colour:
                    stream = io.BytesIO()
                    Image.new("RGB", (60, 60), colour).save(stream, "PNG")
                info = tarfile.TarInfo(f"{number}.{extension}")
                info.size = len(stream.getvalue())
                stream.seek(0)
                archive.addfile(info, stream)
    tar = str(tmp_path / "train-000000.tar")
    assert main(["data", "index", tar]) == 0
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | {"classes": ["<b>桥", "мост"]}))
    recipe = (
        paths.recipe("quickstart")
        .read_text()
        .replace("  name: image\n", "  name: image\n  decode: {member: b.png}\n", 1)
    )
    (tmp_path / "mine.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "inspect", tar, "--sheet", "sheet.html", "--recipe", "mine.yaml"]) == 0
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<figure>") == 2 and "&lt;b&gt;桥" in page and "мост" in page and "<b>" not in page
    first = page.partition('src="data:image/')[2].partition(",")[2].partition('"')[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))).convert("RGB"))
    assert pixels[48, 48, 2] > 200 > 60 > pixels[48, 48, 0]  # the blue one, not the first
    assert main(["data", "inspect", tar, "--sheet"]) == 0
    monkeypatch.setattr(sheet, "_fonts", tuple)  # a machine without fonts
    sheet.font_for.cache_clear()
    capsys.readouterr()
    assert main(["data", "inspect", tar, "--sheet", "--overwrite"]) == 0
    assert "2 labels, such as '<b>桥', have letters that no font of this machine draws" in capsys.readouterr().err
    sheet.font_for.cache_clear()


def odd(modality: str) -> list[dict[str, bytes]]:
    """Samples that can be shown though they are odd, and last one that cannot."""
    import io

    from PIL import Image

    def npy(array):
        stream = io.BytesIO()
        np.save(stream, array)
        return stream.getvalue()

    def png(array):
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "PNG")
        return stream.getvalue()

    random = np.random.default_rng(0)
    label = "x" * 900
    if modality == "image":
        wide, deep = np.zeros((1, 3000), np.uint8), (random.random((9, 9)) * 65535).astype(np.uint16)
        return [{"png": png(wide), "cls": label.encode()}, {"png": png(deep)}, {"png": b"no"}]
    if modality == "audio":
        from tests.modalities.audio.conftest import encode

        waves = (np.zeros(8000, np.float32), np.ones(8, np.float32))
        return [*({"wav": encode(wave, 8000, "wav"), "cls": "שלום 12".encode()} for wave in waves), {"wav": b"RIFF"}]
    if modality == "points":
        clouds = (random.random((64, 3)).astype(np.float32) * 1e-3, 1e6 * random.random((80, 6)).astype(np.float32))
        return [*({"npy": npy(cloud)} for cloud in clouds), {"npy": npy(np.full((80, 3), np.nan, np.float32))}]
    if modality == "video":
        films = (np.zeros((2, 1, 500, 3), np.uint8), np.zeros((200, 4, 4, 3), np.uint8))
        return [*({"npy": npy(film), "json": b'{"fps": 900}'} for film in films), {"mp4": b"no"}]
    still = np.tile(np.float32([0, 0, 9.81, 0, 0, 0]), (40, 1))
    return [*({"npy": npy(x), "json": b'{"imu_rate": 50}'} for x in (still, still * 1e3)), {"csv": b"a,b\n"}]


@pytest.mark.parametrize("modality", ["image", "audio", "points", "video", "imu"])
@pytest.mark.parametrize("suffix", ["png", "html"])
def test_odd_samples_are_shown_and_those_that_cannot_be_are_counted(modality, suffix, tmp_path, capsys):
    write_shards(({"__key__": f"k{i}", **members} for i, members in enumerate(odd(modality))), tmp_path, "train")
    words = ["data", "inspect", str(tmp_path), "--sheet", str(tmp_path / f"sheet.{suffix}"), "--modality", modality]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "2 pictures" in said.out
    assert "1 of the 3 samples looked at cannot be shown (the first: " in said.err and "'k2'" in said.err
