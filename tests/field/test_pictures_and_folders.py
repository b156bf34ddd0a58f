"""A person's folders and pictures as they come: what goes into shards is what was meant, and nothing is left out in
silence. Each input is built, verified and looked into by the program itself, and trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.cli import main
from foundation.data.index import read_index
from foundation.data.kinds import extensions_of
from foundation.data.shards import open_shards
from foundation.data.stream import iterate_samples
from foundation.data.verify import verify
from foundation.modalities.image.decode import Config, decode

Inputs = Callable[[str], Path]
Say = Callable[[str], None]
Build = Callable[[Path], str]


@pytest.fixture
def build(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds a folder into ``out`` beside the test, verifies it, looks into it; gives what was said."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(inputs: Path) -> str:
        out = str(tmp_path / "out")
        assert main(["data", "build", "folder", out, "--root", str(inputs)]) == 0
        assert main(["data", "verify", out, "--decode", "--workers", "1"]) == 0
        assert main(["data", "inspect", out, "--verify"]) == 0
        captured = capsys.readouterr()
        return captured.err + captured.out

    return run


@pytest.mark.fault(19, "a hidden folder among class folders")
def test_hidden_folders_are_no_class(field_inputs: Inputs, tmp_path: Path, build: Build, happened: Say) -> None:
    said = build(field_inputs("hidden_folder"))
    index = read_index(tmp_path / "out")
    assert index is not None and index.classes == ("cat", "dog") and open_shards(tmp_path / "out").num_samples == 8
    assert "left out: 4 files\n  4 hidden\n    .ipynb_checkpoints/: 4 files" in said
    assert index.about["left_out"] == {"hidden": {"files": 4, "first": [".ipynb_checkpoints/: 4 files"]}}
    happened("left out, said with the number of its files; the classes keep their numbers")


@pytest.mark.fault(42, "a link that leads back to its parent")
def test_a_link_to_its_parent_adds_nothing(field_inputs: Inputs, tmp_path: Path, build: Build, happened: Say) -> None:
    said = build(field_inputs("link_to_parent"))
    assert open_shards(tmp_path / "out").num_samples == 3
    assert "1 link seen already\n    a/again/" in said
    happened("every folder is visited once; said")


@pytest.mark.fault(20, "class folders named 20240115 and 20240116")
def test_sparse_class_numbers_are_names(field_inputs: Inputs, tmp_path: Path, build: Build, happened: Say) -> None:
    build(field_inputs("sparse_class_numbers"))
    shards = open_shards(tmp_path / "out")
    assert shards.classes == ("20240115", "20240116")
    assert (tmp_path / "out" / "index.json").stat().st_size < 5_000
    for number in range(shards.num_samples):
        raw = shards.read(0, number)
        assert shards.classes[int(raw["cls"])] == json.loads(raw["json"])["class"]
    happened("classes 0 and 1, their names kept in the index")


@pytest.mark.fault(19, "pictures of 12 bits in 16, of floats and of heights")
def test_deep_pictures_keep_their_contrast(
    field_inputs: Inputs,
    tmp_path: Path,
    build: Build,
    happened: Say,
    tiny_recipe: Callable[..., Any],
    train: Callable[..., Any],
) -> None:
    said = build(field_inputs("deep_pictures"))
    assert "(uint16): numbers from " in said and "(float32): numbers from -99" in said
    shards = open_shards(tmp_path / "out")
    for sample in iterate_samples(shards, decode):
        grey = sample["image"][0].numpy()
        assert len(np.unique(grey)) > 250 and 110 < grey.mean() < 145, sample["__key__"]
        assert "__notes__" not in sample
    lossy = [sample.get("__notes__", ()) for sample in iterate_samples(shards, Config(range="type").build())]
    assert sorted(note.reason for notes in lossy for note in notes) == ["range", "range"]  # all but the floats to 1
    assert not verify([str(tmp_path / "out")], decode=True, workers=1).warnings, "by the default rule nothing is lost"
    found = verify([str(tmp_path / "out")], decoding=Config(range="type"), workers=1)
    assert found.warnings == {"range": 2} and not found.errors

    # The same rule, named in a recipe, is the one that training follows.
    recipe = tiny_recipe(
        "views.decode.range=[-1000, 4095]", "train.length=2 steps", shards=str(tmp_path / "out" / "train-*.tar")
    )
    train(recipe, tmp_path / "run")
    assert recipe.decode.range == (-1000.0, 4095.0)
    happened("their contrast kept by decode.range; inspect shows the range, and what loses most of it is noted")


BUILDERS = {
    "folder": ("hidden_folder/cat/*", ()),
    "audio_folder": ("recordings/good.wav", ()),
    "point_folder": ("projected_clouds/*", ()),
    "video_folder": ("films/*", ()),
    "imu_folder": (
        "sensors/gap_of_3_s.csv",
        ("--columns", "ax,ay,az,gx,gy,gz", "--time", "timestamp", "--time-unit", "ns"),
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_what_a_builder_wrote_is_accepted_by_verify(
    name: str, field_inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole files beside copies of them that were cut off, overwritten in the middle, or are empty."""
    if name == "audio_folder":
        pytest.importorskip("soundfile")
    case, options = BUILDERS[name]
    (tmp_path / "in").mkdir()
    folder, pattern = case.rsplit("/", 1)
    for path in sorted(field_inputs(folder).glob(pattern)):
        data = path.read_bytes()
        if name == "imu_folder":
            data = b"".join(data.splitlines(keepends=True)[:400])  # what comes before the gap
        middle = len(data) // 2
        copies = {"whole": data, "cut": data[: len(data) * 6 // 10], "empty": b""}
        copies["overwritten"] = data[:middle] + bytes(range(256)) * 2 + data[middle + 512 :]
        for copy, content in copies.items():
            (tmp_path / "in" / f"{copy}_{path.name}").write_bytes(content)
    out = str(tmp_path / "out")
    assert main(["data", "build", name, out, "--root", str(tmp_path / "in"), *options]) == 0
    said = capsys.readouterr().err
    assert "empty_" in said and "cut_" in said
    assert main(["data", "verify", out, "--decode", "--workers", "1"]) == 0, capsys.readouterr().out


def test_the_pages_name_every_extension_that_is_read() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "modalities"
    for modality in ("image", "audio", "points", "video", "imu"):
        page = (docs / f"{modality}.md").read_text(encoding="utf-8")
        missing = [e for e in extensions_of(modality) if f"`{e}`" not in page]
        assert not missing, f"{modality}.md does not name {missing}"
