"""Files given as if they were shards: the answer names the data set that makes shards of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from foundation.data import build, kinds
from foundation.data.expand import expand
from foundation.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no archive")


@pytest.mark.parametrize(
    ("names", "built"),
    [
        (("1.jpg", "2.PNG", "3.gif"), "folder"),
        (("cat/1.jpg", "dog/2.jpg", "notes.txt"), "folder"),
        (("a.wav", "b.flac"), "audio-folder"),
        (("a.mp4",), "video-folder"),
        (("a.ply", "b.npy"), "point-folder"),
        (("walk/a.csv",), "point-folder"),
    ],
)
def test_a_folder_of_files_names_its_builder(tmp_path: Path, names: tuple[str, ...], built: str) -> None:
    touch(tmp_path / "my files", *names)
    with pytest.raises(UserError) as error:
        expand(tmp_path / "my files")
    assert f"foundation data build {built} OUT --root '{tmp_path / 'my files'}'" in str(error.value)


@pytest.mark.parametrize("pattern", ["*/*.jpg", "cat/1.jpg", "*.tar", "[0-9].jpg", "train-{000000..000003}.tar"])
def test_a_pattern_over_files_names_their_folder(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "cat/1.jpg", "1.jpg", "2.jpg")
    with pytest.raises(UserError) as error:
        expand(f"{tmp_path}/{pattern}")
    root = tmp_path / "cat" if pattern == "cat/1.jpg" else tmp_path
    assert str(error.value).endswith(f"foundation data build folder OUT --root {root}")


def test_what_several_modalities_read_names_all_builders(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", "b.csv")
    with pytest.raises(UserError, match=r"build point-folder .* \(or imu-folder\)$"):
        expand(tmp_path)


@pytest.mark.parametrize("names", [("a.py", "b.py", "1.jpg"), ("train/train-0.tar", "1.jpg"), ("README.txt",), ()])
def test_other_folders_are_not_taken_for_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(UserError, match="no shards in the folder") as error:
        expand(tmp_path)
    assert "data build" not in str(error.value)


def test_an_archive_of_another_name_stays_a_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.bin", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.cls"), io.BytesIO())
    assert expand(tmp_path / "shard.bin") == [tmp_path / "shard.bin"]


def test_the_builders_that_are_named_exist_and_are_of_the_modality() -> None:
    for modality, builder in kinds._BUILDERS.items():
        assert build.load(builder).card["modality"] == modality


def test_of_names_beside_a_missing_folder_only_near_ones_are_called_nearest(tmp_path: Path) -> None:
    for name in ("cifar100", "esc10", "fsdd", "photos", "hapt"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"no 'cifar10' among 5 names there; nearest: cifar100/$"):
        expand(f"{tmp_path}/cifar10/train-*.tar")
    with pytest.raises(UserError, match=r"no 'tiles' among 5 names there$"):
        expand(f"{tmp_path}/tiles/train-*.tar")
    (tmp_path / "esc10").rmdir()
    with pytest.raises(UserError, match=r"no 'tiles'; there are cifar100/, fsdd/, hapt/, photos/$"):
        expand(f"{tmp_path}/tiles/train-*.tar")
