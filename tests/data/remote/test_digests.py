"""Digests of copies in the cache: no byte that is not the server's reaches a sample."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.data import storages
from foundation.data.cache import Cache, CacheFullError
from foundation.data.download import Expected
from foundation.data.shards import open_shards
from foundation.errors import SampleError
from tests.data.remote.conftest import blob, content, names, read_only

MakeShards = Callable[..., Path]
Happened = Callable[[str], None]


def test_leftovers_of_another_content_are_not_used(tmp_path: Path, serve: Any, cache: Path) -> None:
    """A part with wrong bytes at its beginning, as a disk or a lying server leaves it, costs one more download."""
    expected = blob(tmp_path / "web", 100_000)
    web = serve(tmp_path / "web")
    store = Cache(cache, 1 << 30)
    cache.mkdir()
    key = store.key(f"{web.url}/x.tar", expected)
    (cache / f"{key}.0.free.part").write_bytes(bytes(50_000))
    descriptor = store.open(f"{web.url}/x.tar", expected)
    assert descriptor is not None and hashlib.sha256(content(descriptor)).hexdigest() == expected.sha256
    assert [wanted for wanted, _ in web.asked("x.tar")] == ["bytes=50000-", ""]


def test_other_content_is_another_copy(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    folder, other = make_shards(7), make_shards(7, name="other")
    web = serve(folder)
    first = open_shards(web.url + "/", cache=cache).read(0, 0)
    data = bytearray((folder / "train-000000.tar").read_bytes())
    place = data.index(first["png"])
    data[place : place + 4] = b"none"
    (folder / "train-000000.tar").write_bytes(data)
    index = json.loads((other / "index.json").read_text())
    index["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))
    assert open_shards(web.url + "/", cache=cache).read(0, 0)["png"][:4] == b"none"
    assert len(names(cache)) == 2


def test_a_copy_that_was_cut_is_fetched_again(tmp_path: Path, serve: Any, cache: Path) -> None:
    expected = blob(tmp_path / "web", 100_000)
    web = serve(tmp_path / "web")
    store = Cache(cache, 1 << 30)
    for _ in range(2):
        descriptor = store.open(f"{web.url}/x.tar", expected)
        assert descriptor is not None and len(content(descriptor)) == 100_000
        (copy,) = cache.glob("*.tar")
        os.truncate(copy, 5)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    path.write_bytes(np.random.default_rng(9).bytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.fault(38, "a damaged copy in the cache: a flipped byte, cut, emptied, another shard's bytes, a folder")
@pytest.mark.parametrize("known", ["index", "server"])
@pytest.mark.parametrize(
    "damage", [flip, swap, lambda path: os.truncate(path, 5), lambda path: path.write_bytes(b""), a_folder]
)
def test_a_damaged_copy_is_named_and_fetched_again(
    damage: Callable[[Path], object], known: str, tmp_path: Path, serve: Any, cache: Path,
    caplog: pytest.LogCaptureFixture, happened: Happened,
) -> None:  # fmt: skip
    whole = blob(tmp_path / "web", 100_000)
    web = serve(tmp_path / "web")
    address = f"{web.url}/x.tar"
    expected = whole if known == "index" else Expected(whole.size, tag=storages.storage_of(address).stat(address).tag)
    descriptor = Cache(cache, 1 << 30).open(address, expected)
    assert descriptor is not None
    os.close(descriptor)
    (copy,) = cache.glob("*.tar")
    damage(copy)
    store = Cache(cache, 1 << 30)
    if copy.is_dir():  # which nobody but a person may remove
        with pytest.raises(CacheFullError, match="cannot be used"):
            store.open(address, expected)
    else:
        descriptor = store.open(address, expected)
        assert descriptor is not None and hashlib.sha256(content(descriptor)).hexdigest() == whole.sha256
        assert names(cache) == [".tar"]
    (message,) = caplog.messages
    assert str(copy) in message and address in message
    happened("named with its address, removed, fetched again; a folder in its place: ranges")


def test_a_flipped_byte_in_a_copy_reaches_no_sample(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    """Whoever opens the shard meets it, and who has it open already."""
    folder = make_shards(7)
    web = serve(folder)
    shards, right = open_shards(web.url + "/", cache=cache), open_shards(folder)
    assert shards.read(0, 0)["png"] == right.read(0, 0)["png"]
    (copy,) = cache.glob("*.tar")
    data = bytearray(copy.read_bytes())
    data[data.index(right.read(0, 3)["png"]) + 20] ^= 1
    copy.write_bytes(data)
    assert shards.read(0, 3)["png"] == right.read(0, 3)["png"]
    copy.write_bytes(data)
    assert open_shards(web.url + "/", cache=cache).read(0, 3)["png"] == right.read(0, 3)["png"]


def test_a_copy_is_hashed_once_a_day_and_not_by_every_process(
    tmp_path: Path, serve: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foundation.data import sums as module

    hashed: list[int] = []
    real = module.digest_of
    monkeypatch.setattr(module, "digest_of", lambda descriptor: hashed.append(1) or real(descriptor))
    expected = blob(tmp_path / "web", 100_000)
    address = f"{serve(tmp_path / 'web').url}/x.tar"

    def opened() -> int:
        descriptor = Cache(cache, 1 << 30).open(address, expected)
        assert descriptor is not None and content(descriptor)
        return len(hashed)

    assert [opened(), opened()] == [0, 0], "its bytes were hashed on their way"
    (copy,), (note,) = cache.glob("*.tar"), (cache / "sums").iterdir()
    os.utime(copy, (0, 0))  # touched: other facts, the same bytes
    assert [opened(), opened()] == [1, 1]
    assert copy.stat().st_mtime == 0 and copy.stat().st_atime > 0, "the time of access is that of the last use"
    os.utime(note, (0, 0))
    assert [opened(), opened()] == [2, 2]
    facts = copy.stat()
    flip(copy)
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # what a disk has lost changes no time
    os.utime(note, (0, 0))
    descriptor = Cache(cache, 1 << 30).open(address, expected)
    assert descriptor is not None and hashlib.sha256(content(descriptor)).hexdigest() == expected.sha256


def test_without_a_digest_no_leftover_is_gone_on_with(tmp_path: Path, serve: Any, cache: Path) -> None:
    whole = blob(tmp_path / "web", 100_000)
    address = f"{serve(tmp_path / 'web').url}/x.tar"
    expected = Expected(whole.size, tag=storages.storage_of(address).stat(address).tag)
    store = Cache(cache, 1 << 30)
    cache.mkdir()
    (cache / f"{store.key(address, expected)}.0.free.part").write_bytes(bytes(50_000))
    descriptor = store.open(address, expected)
    assert descriptor is not None and hashlib.sha256(content(descriptor)).hexdigest() == whole.sha256
    assert names(cache) == [".tar"]


@pytest.mark.fault(40, "read-only cache with a damaged copy")
def test_a_damaged_copy_in_a_read_only_cache_is_not_used(
    make_shards: MakeShards, serve: Any, cache: Path, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    folder = make_shards(7)
    web = serve(folder)
    open_shards(web.url + "/", cache=cache).read(0, 0)
    (copy,) = cache.glob("*.tar")
    flip(copy)
    with read_only(cache):
        shards, right = open_shards(web.url + "/", cache=cache), open_shards(folder)
        assert [shards.read(0, index)["png"] for index in range(7)] == [right.read(0, p)["png"] for p in range(7)]
        shards.close()
    assert any(str(copy) in text and "cannot be removed" in text for text in caplog.messages)
    happened("named, not used; the shard is read in ranges")


def test_without_an_index_the_server_tells_when_a_file_changes(
    make_shards: MakeShards, serve: Any, cache: Path
) -> None:
    folder = make_shards(14)
    (folder / "index.json").unlink()
    web = serve(folder)
    shards = open_shards(f"{web.url}/train-{{000000..000001}}.tar", cache=cache)
    path = folder / "train-000001.tar"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SampleError, match="replaced meanwhile"):
        shards.read(1, 0)
    assert shards.read(0, 0)["__key__"] == "s00000"
