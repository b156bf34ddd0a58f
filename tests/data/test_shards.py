"""Writing, indexing and reading shards."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foundation.data.shards import ShardSet, open_shards, write_shards, write_splits
from foundation.errors import SampleError, UserError


def everything(shards: ShardSet) -> list[dict[str, object]]:
    return [shards.read(s, p) for s, count in enumerate(shards.counts.tolist()) for p in range(count)]


def members(raw: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in raw.items() if not name.startswith("__") or name == "__key__"}


def tar(path: Path, entries: list[tuple[str, bytes]], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_round_trip_keeps_bytes_order_and_numbers(
    samples: Callable[..., Any], make_shards: Callable[..., Path]
) -> None:
    shards = open_shards(make_shards(30, per_shard=7))
    assert shards.counts.tolist() == [7, 7, 7, 7, 2]
    read = everything(shards)
    assert [members(raw) for raw in read] == samples(30)
    assert [raw["__id__"] for raw in read] == list(range(30))
    assert [shards.locate(raw["__id__"]) for raw in read][:9] == [*((0, p) for p in range(7)), (1, 0), (1, 1)]
    assert read[8]["__shard__"] == shards.shards[1]


def test_webdataset_reads_the_same(samples: Callable[..., Any], make_shards: Callable[..., Path]) -> None:
    import webdataset

    folder = make_shards(20, per_shard=8)
    theirs = webdataset.WebDataset(str(folder / "train-{000000..000002}.tar"), shardshuffle=False)
    got = [{k: v for k, v in sample.items() if k in ("__key__", "png", "cls")} for sample in theirs]
    assert got == samples(20)


def test_equal_samples_give_equal_files_and_the_index_is_true(samples: Callable[..., Any], tmp_path: Path) -> None:
    import hashlib

    first = write_shards(samples(9), tmp_path / "a", "train", samples_per_shard=4)
    again = write_shards(samples(9), tmp_path / "b", "train", samples_per_shard=4)
    assert first == again
    assert [entry.samples for entry in first] == [4, 4, 1]
    for entry in first:
        data = (tmp_path / "a" / entry.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)


def test_a_shard_ends_before_it_is_too_large(tmp_path: Path) -> None:
    big = [{"__key__": f"k{n}", "bin": bytes(60_000)} for n in range(5)]
    entries = write_shards(big, tmp_path / "s", "train", max_bytes=150_000)
    assert [entry.samples for entry in entries] == [2, 2, 1]
    assert all(entry.bytes <= 150_000 for entry in entries)


def test_real_shards_equal_what_tarfile_reads(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("cifar10") / "test-000000.tar"
    shards = open_shards(str(path))
    with tarfile.open(path) as archive:
        expected = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    got = {
        f"{raw['__key__']}.{name}": value
        for raw in everything(shards)
        for name, value in raw.items()
        if not name.startswith("__")
    }
    assert got == expected


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, style: int) -> None:
    folder = "a" * 90
    names = [f"{folder}/{'b' * 60}.jpg", f"{folder}/kätzchen.JPG"]
    if style != tarfile.USTAR_FORMAT:
        names.append("d" * 300 + ".seg.png")
    tar(tmp_path / "x.tar", [(name, name.encode()) for name in names], format=style)
    read = everything(open_shards(tmp_path / "x.tar"))
    assert [raw["__key__"] for raw in read] == [name.partition(".")[0] for name in names]
    assert [next(n for n in raw if not n.startswith("__")) for raw in read] == ["jpg", "jpg", "seg.png"][: len(names)]


def test_pickles_stay_bytes(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "harm"),))

    data = pickle.dumps(Harm())
    names = ["pkl", "pyd", "pth", "pickle"]
    tar(tmp_path / "x.tar", [(f"k.{name}", data) for name in names])
    raw = open_shards(tmp_path / "x.tar").read(0, 0)
    assert [raw[name] for name in names] == [data] * 4
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("../x.jpg", "points out"), ("/etc/x.jpg", "points out"), ("a/../../x.jpg", "points out")]
)
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str, words: str) -> None:
    tar(tmp_path / "x.tar", [("good.jpg", b"1"), (name, b"2")])
    with pytest.raises(UserError, match=words) as caught:
        open_shards(tmp_path / "x.tar")
    assert "x.tar" in str(caught.value) and name in str(caught.value)


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("link.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match=r"'link\.jpg' is a symbolic link"):
        open_shards(tmp_path / "x.tar")


def test_compressed_empty_and_foreign_files_are_named(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    plain = (make_shards(3) / "train-000000.tar").read_bytes()
    (tmp_path / "z.tar").write_bytes(gzip.compress(plain))
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "noise.tar").write_bytes(b"no tar at all " * 1000)
    for name, words in (("z", "compressed with gzip"), ("empty", "0 bytes"), ("noise", "not a tar archive")):
        with pytest.raises(UserError, match=words) as caught:
            open_shards(tmp_path / f"{name}.tar")
        assert f"{name}.tar" in str(caught.value)


def test_parts_of_a_sample_that_are_not_neighbours(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"3")])
    with pytest.raises(UserError, match="'a' are not neighbours"):
        open_shards(tmp_path / "x.tar")
    tar(tmp_path / "y.tar", [("a.jpg", b"1"), ("a.jpg", b"2")])
    with pytest.raises(UserError, match=r"'a' has two members \.jpg"):
        open_shards(tmp_path / "y.tar")


def test_a_flipped_bit_in_a_header_is_found(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [(f"k{n}.jpg", b"1") for n in range(5)])
    data = bytearray(path.read_bytes())
    data[1024 + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged header at byte 1024"):
        open_shards(path)


@pytest.mark.parametrize("cut", ["payload", "header", "boundary"])
def test_a_cut_shard_without_index_names_the_sample(tmp_path: Path, cut: str) -> None:
    path = tar(tmp_path / "x.tar", [(f"k{n}.{e}", bytes(700)) for n in range(3) for e in ("jpg", "cls")])
    second = 3 * 1536  # the .cls member of sample 1 begins here: 512 of header, 1024 of padded payload each
    path.write_bytes(path.read_bytes()[: {"payload": second + 600, "header": second + 100, "boundary": second}[cut]])
    shards = open_shards(path)
    assert shards.num_samples == 2
    assert "cut off" in shards.warnings[0] and "x.tar" in shards.warnings[0]
    assert set(shards.read(0, 0)) >= {"jpg", "cls"}
    with pytest.raises(SampleError) as caught:
        shards.read(0, 1)
    assert (caught.value.shard, caught.value.key, caught.value.reason) == (str(path), "k1", "truncated")


def test_a_shard_that_disagrees_with_its_index(make_shards: Callable[..., Path]) -> None:
    folder = make_shards(14)
    path = folder / "train-000001.tar"
    size = path.stat().st_size
    os.truncate(path, 5000)
    with pytest.raises(UserError, match=rf"train-000001\.tar has 5000 bytes, .*says {size}"):
        open_shards(folder)


def test_a_shard_that_breaks_or_vanishes_later_is_a_bad_sample(
    make_shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundation.data.opened._RETRIES", (0.001,))
    folder = make_shards(14)
    shards = open_shards(folder)
    size = (folder / "train-000000.tar").stat().st_size
    (folder / "train-000000.tar").write_bytes(os.urandom(size))
    (folder / "train-000001.tar").unlink()
    for shard, reason in ((0, "corrupt"), (1, "missing")):
        with pytest.raises(SampleError) as caught:
            shards.read(shard, 3)
        assert (caught.value.shard, caught.value.reason) == (shards.shards[shard], reason)


def test_missing_shards_show_pattern_folder_and_neighbours(make_shards: Callable[..., Path]) -> None:
    folder = make_shards(14)
    with pytest.raises(UserError) as caught:
        open_shards(str(folder / "tarin-*.tar"))
    for words in ("tarin-*.tar", str(folder), "train-000000.tar"):
        assert words in str(caught.value)
    with pytest.raises(UserError, match=r"names 4 shards, 2 of them missing: .*train-000002\.tar"):
        open_shards(str(folder / "train-{000000..000003}.tar"))
    with pytest.raises(UserError, match=r"data\.shards is empty"):
        open_shards([])


def test_patterns_are_sorted_and_each_shard_counts_once(make_shards: Callable[..., Path]) -> None:
    folder = make_shards(30)
    braces = str(folder / "train-00000{3,0}.tar")
    shards = open_shards([str(folder / "train-*1.tar"), braces, str(folder / "train-000000.tar")])
    assert [Path(path).name for path in shards.shards] == [f"train-00000{n}.tar" for n in (0, 1, 3)]


def test_a_folder_with_several_splits_asks_which(samples: Callable[..., Any], tmp_path: Path) -> None:
    write_splits({"train": samples(5), "test": samples(3, 5)}, tmp_path / "s", classes=["zero", "one"])
    with pytest.raises(UserError, match=r"several splits.*test-\*\.tar.*train-\*\.tar"):
        open_shards(tmp_path / "s")
    shards = open_shards(str(tmp_path / "s" / "test-*.tar"))
    assert (shards.num_samples, shards.classes) == (3, ("zero", "one"))


def test_splits_are_added_and_replaced_only_when_told(samples: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "s"
    write_shards(samples(20), out, "train", samples_per_shard=5)
    write_shards(samples(3), out, "test")
    with pytest.raises(UserError, match=r"already holds the split 'train' \(4 shards\).*--overwrite"):
        write_shards(samples(2), out, "train")
    write_shards(samples(6), out, "train", samples_per_shard=5, overwrite=True)
    index = json.loads((out / "index.json").read_text())
    assert {name: split["samples"] for name, split in index["splits"].items()} == {"train": 6, "test": 3}
    assert sorted(p.name for p in out.glob("*.tar")) == ["test-000000.tar", "train-000000.tar", "train-000001.tar"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ValueError])
def test_an_interrupted_build_leaves_nothing(
    samples: Callable[..., Any], tmp_path: Path, problem: type[BaseException]
) -> None:
    def interrupted() -> object:
        yield from samples(8)
        raise problem

    with pytest.raises(problem):
        write_shards(interrupted(), tmp_path / "s", "train", samples_per_shard=3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    write_shards(samples(4), tmp_path / "s", "train")
    with pytest.raises(problem):
        write_shards(interrupted(), tmp_path / "s", "train", overwrite=True)  # type: ignore[arg-type]
    assert open_shards(tmp_path / "s").num_samples == 4
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("key", ["a.b", "", "/a", None])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: object) -> None:
    with pytest.raises(UserError, match="key"):
        write_shards([{"__key__": key, "jpg": b"1"}], tmp_path / "s", "train")
    with pytest.raises(UserError, match="'k'"):
        write_shards([{"__key__": "k", "jpg": b"1"}, {"__key__": "k", "jpg": b"2"}], tmp_path / "s", "train")


def test_a_shard_set_travels_to_other_processes(make_shards: Callable[..., Path]) -> None:
    shards = open_shards(make_shards(14))
    expected = shards.read(1, 2)
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.read(1, 2) == expected
    child = os.fork()
    if child == 0:  # the parent's open files must stay usable there and here
        os._exit(0 if shards.read(1, 2) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert shards.read(1, 2) == expected


def test_more_shards_than_open_files(make_shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundation.data.shards._OPEN_SHARDS", 2)
    shards = open_shards(make_shards(12, per_shard=2))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert [raw["__id__"] for raw in everything(shards)] == list(range(12))
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
