"""Shards that are elsewhere: the same samples as from a disk, whatever the servers do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundation.data import addresses, storages
from foundation.data.shards import ShardSet, open_shards
from foundation.data.sources import open_sources, single
from foundation.data.stream import build_loader
from foundation.errors import SampleError, UserError
from foundation.run.advice import advice

MakeShards = Callable[..., Path]
Happened = Callable[[str], None]


def everything(shards: ShardSet) -> list[dict[str, Any]]:
    """All samples, without where they came from."""
    samples = [shards.read(s, p) for s, count in enumerate(shards.counts.tolist()) for p in range(count)]
    return [{name: value for name, value in sample.items() if name != "__shard__"} for sample in samples]


def copies(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.tar"))


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text())


@pytest.mark.parametrize("kind", ["http", "ranges", "s3", "s3 ranges", "memory", "file"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_everywhere(
    kind: str, workers: int, make_shards: MakeShards, decode: Any, pipeline: Any, cache: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    folder = make_shards(30)
    if kind in ("http", "ranges"):
        place = request.getfixturevalue("serve")(folder).url
    elif kind.startswith("s3"):
        place = request.getfixturevalue("bucket")(folder)
    elif kind == "memory":
        fsspec = pytest.importorskip("fsspec")
        place = f"memory://shards-{os.getpid()}-{workers}"
        for file in folder.iterdir():
            fsspec.filesystem("memory").pipe_file(f"{place}/{file.name}", file.read_bytes())
    else:
        place = f"file://{folder}"
    there = open_shards(f"{place}/train-*.tar", cache=cache, cache_bytes=0 if "ranges" in kind else 1 << 20)
    here = open_shards(folder)
    assert there.fingerprint == here.fingerprint and there.counts.tolist() == here.counts.tolist()

    def batches(shards: ShardSet) -> list[Any]:
        stream = single(shards, seed=3, window=10)
        with build_loader(
            stream, pipeline(decode), batch_size=5, global_batch=5, samples=60, workers=workers, timeout=60
        ) as loader:
            return list(loader)

    first, second = batches(here), batches(there)
    assert len(first) == len(second) == 12
    for a, b in zip(first, second, strict=True):
        assert (a.keys, a.position, a.skipped) == (b.keys, b.position, b.skipped) and not a.skipped
        assert torch.equal(a.views["global"].data, b.views["global"].data) and torch.equal(a.labels, b.labels)
    assert len(copies(cache)) == (0 if "ranges" in kind or kind == "file" else 5)


def test_patterns_of_addresses(make_shards: MakeShards, serve: Any, bucket: Any, cache: Path) -> None:
    folder = make_shards(30)
    for place in (serve(folder).url, bucket(folder)):
        for pattern, number in (
            (f"{place}/train-{{000000..000002}}.tar", 3), (f"{place}/train-*4.tar", 1), (f"{place}/", 5),
            (f"{place}/train-000003.tar", 1),
        ):  # fmt: skip
            shards = open_shards(pattern, cache=cache)
            assert len(shards.shards) == number and all(shard.startswith(place) for shard in shards.shards), pattern
        with pytest.raises(UserError, match=r"no shards match .*tarin-\*\.tar.*train-00000"):
            open_shards(f"{place}/tarin-*.tar", cache=cache)
    with pytest.raises(UserError, match="chained"):
        open_shards("simplecache::s3://bucket/x.tar", cache=cache)


def test_without_an_index_the_headers_are_read_from_afar(
    make_shards: MakeShards, serve: Any, bucket: Any, cache: Path
) -> None:
    folder = make_shards(16)
    expected = everything(open_shards(folder))
    (folder / "index.json").unlink()
    web = serve(folder)
    for place in (web.url, bucket(folder)):
        shards = open_shards(f"{place}/train-{{000000..000002}}.tar", cache=cache)
        assert shards.counts.tolist() == [7, 7, 2] and "3 remote shards without index.json" in shards.warnings[0]
        assert copies(cache) == []
        assert everything(shards) == expected
        for copy in copies(cache):
            copy.unlink()
    assert len(open_shards(bucket(folder) + "/train-*.tar", cache=cache).shards) == 3
    with pytest.raises(UserError, match=r"needs the index\.json that 'foundation data index' writes"):
        open_shards(f"{web.url}/train-*.tar", cache=cache)


def test_a_folder_with_several_splits_asks_which(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    folder = make_shards(8)
    index = index_of(folder)
    index["splits"]["test"] = {"shards": [index["splits"]["train"]["shards"].pop()]}
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"several splits.*test-\*\.tar.*train-\*\.tar"):
        open_shards(serve(folder).url + "/", cache=cache)


FAULTS = {
    "cut": "body cut off in the middle",
    "503": "HTTP 503",
    "ignores ranges": "ranges ignored: always the whole file",
    "another range": "another range than asked for",
    "stalls": "stalls in the middle of the body",
    "wrong size": "half of the bytes, with a Content-Length to match",
    "wrong bytes": "right length, wrong bytes",
}


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.fault(38, f"shard: {text}, once")) for name, text in FAULTS.items()]
)
def test_a_server_that_fails_once_does_no_harm(
    fault: str, make_shards: MakeShards, serve: Any, cache: Path, happened: Happened
) -> None:
    folder = make_shards(7)
    web = serve(folder)
    shards = open_shards(f"{web.url}/", cache=cache)
    web.requests.clear()
    # Ranges are asked for only when a download goes on after a break.
    web.faults["train-000000.tar"] = ["cut", fault] if "range" in fault else [fault]
    assert everything(shards) == everything(open_shards(folder))
    asked = web.asked("train-000000.tar")
    assert len(asked) == (2 if fault == "ignores ranges" else 3 if fault == "another range" else 2)
    assert copies(cache)[0].read_bytes() == (folder / "train-000000.tar").read_bytes()
    assert [path.suffix for path in cache.iterdir() if path.is_file()] == [".tar"]
    happened(f"asked {len(asked)} times, then the whole shard with the SHA-256 of its index")


@pytest.mark.parametrize(
    "fault, reason",
    [
        pytest.param(name, reason, marks=pytest.mark.fault(38, f"shard: {FAULTS[name]}, always"))
        for name, reason in (
            ("cut", "unreadable"), ("503", "unreadable"), ("stalls", "unreadable"), ("wrong size", "truncated"),
            ("wrong bytes", "corrupt"), ("404", "missing"), ("403", "unreadable"),
        )
        if name in FAULTS
    ]
    + [("404", "missing"), ("403", "unreadable")],
)  # fmt: skip
def test_a_server_that_always_fails_gives_no_bytes(
    fault: str, reason: str, make_shards: MakeShards, serve: Any, cache: Path, request: pytest.FixtureRequest
) -> None:
    folder = make_shards(14)
    web = serve(folder)
    shards = open_shards(f"{web.url}/", cache=cache)
    web.requests.clear()
    web.faults["train-000001.tar"] = [fault + "..."]
    for index in range(3):
        with pytest.raises(SampleError) as caught:
            shards.read(1, index)
        assert (caught.value.reason, caught.value.shard) == (reason, f"{web.url}/train-000001.tar")
    assert shards.read(0, 0)["__key__"] == "s00000" and len(copies(cache)) == 1
    attempts = len(web.asked("train-000001.tar"))  # bounded, and not anew for each sample
    assert attempts == (1 if fault in ("404", "403") else 2 if reason == "corrupt" else attempts) and attempts <= 12
    if fault in FAULTS:
        request.getfixturevalue("happened")(f"{reason}: {caught.value.detail}; nothing at the final path")


@pytest.mark.parametrize("fault", ["cut", "503", "ignores ranges", "another range", "stalls", "wrong size"])
def test_ranges_survive_the_same_faults(
    fault: str, make_shards: MakeShards, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundation.data.remote.CHUNK", 1024)  # or one answer would hold all of so small a shard
    folder = make_shards(7)
    web = serve(folder)
    shards = open_shards(f"{web.url}/", cache_bytes=0)
    web.faults["train-000000.tar"] = ["", "", fault, "", fault, fault]
    assert everything(shards) == everything(open_shards(folder))
    assert not web.faults["train-000000.tar"]


def test_a_run_goes_on_without_a_shard_that_cannot_be_had(
    make_shards: MakeShards, decode: Any, pipeline: Any, serve: Any, cache: Path
) -> None:
    folder = make_shards(28)
    web = serve(folder)
    shards = open_shards(f"{web.url}/", cache=cache)
    web.faults["train-000002.tar"] = ["503..."]
    stream = single(shards, seed=3, window=28)
    with build_loader(stream, pipeline(decode), batch_size=7, global_batch=7, samples=28, workers=1) as loader:
        batches = list(loader)
    assert sum((Counter(batch.skipped) for batch in batches), Counter()).keys() == {"unreadable"}
    assert all(len(batch.keys) == 7 for batch in batches)
    messages = [message for batch in batches for message in batch.messages]
    assert messages and all(
        "train-000002.tar" in message and "HTTP 503 (attempt 6 of 6)" in message for message in messages
    )


def test_an_answer_without_a_body_leaves_the_connection_usable(make_shards: MakeShards, serve: Any) -> None:
    web = serve(make_shards(7))
    web.faults["train-000000.tar"] = ["503", "404", "503"]
    address = f"{web.url}/train-000000.tar"
    storage, errors = storages.storage_of(address), []
    for _ in range(3):
        with pytest.raises(addresses.RemoteError) as caught:
            storage.stat(address)
        errors.append(caught.value)  # an error that is kept keeps the answer too: nobody else closes it
    assert [error.detail for error in errors] == ["HTTP 503", "HTTP 404: not there", "HTTP 503"]
    assert storage.stat(address).size == (web.folder / "train-000000.tar").stat().st_size


def test_secrets_of_an_address_stay_secret(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    folder = make_shards(7)
    web = serve(folder)
    signed = f"{web.url}/train-000000.tar?signature=hush"
    shards = open_shards(signed, cache=cache)
    assert shards.read(0, 0)["__shard__"] == shards.shards[0] == f"{web.url}/train-000000.tar"
    assert shards.fingerprint == open_shards(folder / "train-000000.tar").fingerprint
    web.faults["train-000000.tar"] = ["403..."]
    with pytest.raises(UserError) as caught:
        open_shards(signed, cache=cache)
    assert "403" in str(caught.value) and "hush" not in str(caught.value)


def test_stale_indices_are_found_before_the_run(make_shards: MakeShards, serve: Any, bucket: Any, cache: Path) -> None:
    folder = make_shards(7)
    index = index_of(folder)
    index["splits"]["train"]["shards"][0]["bytes"] += 512
    (folder / "index.json").write_text(json.dumps(index))
    for place in (serve(folder).url, bucket(folder)):
        with pytest.raises(UserError, match=r"train-000000\.tar has \d+ bytes, the index\.json beside it says"):
            open_shards(f"{place}/", cache=cache)
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"http://.*index\.json is damaged"):
        open_shards(serve(folder).url + "/", cache=cache)


@pytest.mark.fault(38, "S3: object with other bytes than its index says")
def test_an_object_that_was_replaced(make_shards: MakeShards, bucket: Any, cache: Path, happened: Happened) -> None:
    folder = make_shards(7)
    path = folder / "train-000000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    shards = open_shards(bucket(folder) + "/", cache=cache)
    with pytest.raises(SampleError, match="SHA-256") as caught:
        shards.read(0, 0)
    assert caught.value.reason == "corrupt" and copies(cache) == []
    happened(f"corrupt: {caught.value.detail}; nothing at the final path")


def test_missing_objects_and_buckets(make_shards: MakeShards, bucket: Any, cache: Path) -> None:
    place = bucket(make_shards(7))
    with pytest.raises(UserError, match=r"train-000007\.tar: not there"):
        open_shards(f"{place}/train-000007.tar", cache=cache)
    with pytest.raises(UserError, match="no-such-bucket"):
        open_shards("s3://no-such-bucket/train-*.tar", cache=cache)


def test_a_wrong_secret_is_refused_at_once(
    make_shards: MakeShards, bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket(make_shards(7))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(UserError, match=r"index\.json: access is refused"):
        open_shards(f"{place}/train-000000.tar", cache=cache)


@pytest.mark.usefixtures("bucket")
def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for module, address in (("urllib3", "https://x.org/a.tar"), ("s3fs", "s3://b/a.tar"), ("fsspec", "s3://b/a.tar")):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, module, None)
            context.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
            with pytest.raises(UserError, match=rf"{module}: pip install 'foundation-pretrain\[remote\]'"):
                open_shards(address, cache=cache)
    with pytest.raises(UserError, match="no kind of storage is called nonsense://"):
        open_shards("nonsense://b/a.tar", cache=cache)


@pytest.mark.fault(42, "pipe: as a shard, not allowed")
def test_pipes_need_permission(tmp_path: Path, cache: Path, happened: Happened) -> None:
    with pytest.raises(UserError, match=r"data\.allow_pipes: true") as caught:
        open_shards(f"pipe:touch {tmp_path / 'marker'}", cache=cache)
    assert not (tmp_path / "marker").exists()
    happened(f"exit 2: {str(caught.value).partition(';')[2].strip()}; nothing was started")


def test_allowed_pipes_are_shards_and_start_no_shell(make_shards: MakeShards, tmp_path: Path, cache: Path) -> None:
    folder = make_shards(14)
    shards = open_shards(f"pipe:cat {folder}/train-{{000000..000001}}.tar", cache=cache, allow_pipes=True)
    assert everything(shards) == everything(open_shards(folder)) and len(copies(cache)) == 2
    for copy in copies(cache):
        copy.unlink()
    again = pickle.loads(pickle.dumps(shards))  # as a worker would: the program runs again
    assert everything(again) == everything(open_shards(folder))
    with pytest.raises(UserError, match=r"status 1: .*cat"):
        open_shards(f"pipe:cat {folder}/none.tar; touch {tmp_path}/marker", cache=cache, allow_pipes=True)
    assert not (tmp_path / "marker").exists()
    with pytest.raises(UserError, match=r"data\.cache_gib"):
        open_shards(f"pipe:cat {folder}/train-000000.tar", cache_bytes=0, allow_pipes=True)
    (folder / "train-000000.tar").write_bytes((folder / "train-000001.tar").read_bytes())
    for copy in copies(cache):
        copy.unlink()
    with pytest.raises(SampleError, match=r"other bytes|SHA-256"):
        pickle.loads(pickle.dumps(shards)).read(0, 0)


class Payload:
    """Whoever unpickles this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.fault(41, "tar members .pkl, .pickle, .pth, .pt, .pyd and .npy that run code when unpickled")
def test_pickles_in_shards_are_bytes(tmp_path: Path, serve: Any, cache: Path, decode: Any, happened: Happened) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "shards").mkdir()
    poison = pickle.dumps(Payload(marker))
    array = io.BytesIO()
    np.save(array, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    weights = io.BytesIO()
    torch.save(Payload(marker), weights)
    members = {kind: poison for kind in ("pkl", "pickle", "pyd")} | {"npy": array.getvalue()}
    members |= {kind: weights.getvalue() for kind in ("pt", "pth")}
    with tarfile.open(tmp_path / "shards" / "train-000000.tar", "w") as archive:
        for kind, data in members.items():
            info = tarfile.TarInfo(f"k0.{kind}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for shards in (
        open_shards(tmp_path / "shards"),
        open_shards(serve(tmp_path / "shards").url + "/train-000000.tar", cache=cache),
    ):
        raw = shards.read(0, 0)
        assert {kind: raw[kind] for kind in members} == members
        from foundation.modalities.image.decode import decode as decode_image

        with pytest.raises(SampleError):
            decode_image(raw)
    assert not marker.exists()
    pickle.loads(poison)  # the payload does work
    assert marker.exists()
    happened("members stay bytes; a decoder names what is missing; the marker file is absent")


@pytest.mark.fault(29, "shard removed while a run reads it")
def test_a_local_shard_that_vanishes(
    make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch, happened: Happened
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("foundation.data.opened.time.sleep", slept.append)
    folder = make_shards(14)
    shards = open_shards(folder)
    expected = shards.read(0, 3)
    for path in folder.glob("*.tar"):
        path.unlink()
    assert shards.read(0, 3) == expected  # an open file stays readable
    with pytest.raises(SampleError) as caught:
        shards.read(1, 0)
    assert caught.value.reason == "missing" and slept == sorted(slept) and len(slept) == 3
    happened(f"missing, after {len(slept) + 1} attempts over {sum(slept):.1f} s; open files go on")


@pytest.mark.fault(29, "shard replaced or written over while a run reads it")
def test_a_local_shard_that_is_replaced(make_shards: MakeShards, happened: Happened) -> None:
    folder, other = make_shards(14), make_shards(14, name="other")
    first, second = folder / "train-000000.tar", folder / "train-000001.tar"
    shards = open_shards(folder)
    expected = shards.read(1, 0)
    os.utime(first)  # copied anew, same bytes: the index can tell
    assert shards.read(0, 0)["__key__"] == "s00000"
    with first.open("r+b") as file:
        file.write(bytes(512))
    with pytest.raises(SampleError, match="was written to while it was being read") as written:
        shards.read(0, 1)
    (other / "train-000000.tar").rename(second)  # same size, other samples
    assert shards.read(1, 0) == expected  # the open file is the old one
    shards.close()
    with pytest.raises(SampleError, match="was replaced since the run opened it") as caught:
        shards.read(1, 0)
    assert caught.value.reason == written.value.reason == "corrupt" and "train-000001.tar" in str(caught.value)
    happened(f"corrupt: {caught.value.detail}")


def test_the_index_of_a_test_is_true(make_shards: MakeShards) -> None:
    folder = make_shards(7)
    entry = index_of(folder)["splits"]["train"]["shards"][0]
    assert entry["sha256"] == hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()


def test_far_fewer_samples_than_a_recipe_suits_are_told_without_fetching_a_shard(
    make_shards: MakeShards, serve: Any, cache: Path, tiny_recipe: Any
) -> None:
    web = serve(make_shards(30))
    for suited, few in ((120, True), (119, False)):
        recipe = tiny_recipe(f"about.samples={suited}", f"data.cache={cache}", shards=f"{web.url}/")
        told = advice(recipe, recipe.clock(30), open_sources(recipe.data))
        assert any("30 samples are few for a recipe whose settings suit" in line for line in told) == few
    assert not copies(cache) and {wanted for wanted, _ in web.asked("train-000000.tar")} == {
        "bytes=0-0"
    }  # is it there?
