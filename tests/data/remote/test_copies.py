"""Copies of remote shards in the cache: bounded, shared by processes, whatever happens to disk, lock or process."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.data.addresses import RemoteError
from foundation.data.cache import Cache, CacheFullError
from foundation.data.download import Expected
from foundation.data.shards import ShardSet, open_shards
from foundation.data.sources import single
from tests.data.remote.conftest import blob, content, names, read_only

MakeShards = Callable[..., Path]
Happened = Callable[[str], None]

READER = """
import hashlib, os, sys, time
from pathlib import Path
from foundation.data.cache import Cache
from foundation.data.download import Expected
folder, address, size, digest, gate = sys.argv[1:]
while not os.path.exists(gate):
    time.sleep(0.002)
descriptor = Cache(Path(folder), 1 << 30).open(address, Expected(int(size), digest))
with open(descriptor, "rb") as file:
    assert hashlib.sha256(file.read()).hexdigest() == digest
"""


def reader(cache: Path, address: str, expected: Expected, gate: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", READER, str(cache), address, str(expected.size), expected.sha256, str(gate)]
    return subprocess.Popen(words, stderr=subprocess.PIPE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "locks",
    [
        pytest.param("flock", marks=pytest.mark.fault(39, "8 processes want the same shard at once")),
        pytest.param("none", marks=pytest.mark.fault(39, "8 processes want the same shard, flock does nothing")),
    ],
)
def test_eight_processes_want_the_same_shard(
    locks: str, tmp_path: Path, serve: Any, cache: Path, happened: Happened
) -> None:
    expected = blob(tmp_path / "web", 300_000)
    web = serve(tmp_path / "web")
    web.faults["x.tar"] = ["slow..."]
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(8)

    def want() -> None:
        if locks == "none":
            fcntl.flock = lambda *arguments: None
        gate.wait(30)
        descriptor = Cache(cache, 1 << 30).open(f"{web.url}/x.tar", expected)
        os._exit(0 if descriptor and hashlib.sha256(content(descriptor)).hexdigest() == expected.sha256 else 1)

    processes = [context.Process(target=want) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    downloads = len(web.asked("x.tar"))
    assert downloads == 1 if locks == "flock" else 1 <= downloads <= 8
    assert names(cache) == [".tar"]
    happened(f"good bytes for all, {downloads} download(s), one copy, nothing left over")


def test_waiting_processes_share_a_failure(
    tmp_path: Path, serve: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundation.data.storages.READ_SECONDS", 60.0)
    expected = blob(tmp_path / "web", 300_000)
    web = serve(tmp_path / "web")
    web.faults["x.tar"] = ["stalls", "404..."]
    context = multiprocessing.get_context("fork")
    blocked = context.Semaphore(0)
    take = fcntl.flock

    def want() -> None:
        told = False

        def flock(descriptor: int, kind: int) -> None:
            nonlocal told
            try:
                take(descriptor, kind)
            except BlockingIOError:
                if not told:
                    told = True
                    blocked.release()
                raise

        fcntl.flock = flock
        try:
            Cache(cache, 1 << 30).open(f"{web.url}/x.tar", expected)
        except RemoteError as error:
            os._exit(0 if "HTTP 404" in str(error) else 1)
        os._exit(2)

    processes = [context.Process(target=want) for _ in range(3)]
    for process in processes:
        process.start()
    for _ in range(2):
        assert blocked.acquire(timeout=60)
    web.released.set()  # the first breaks off and finds nothing; the others have waited for it
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [fault for _, fault in web.asked("x.tar")] == ["stalls", "404"]


def test_the_cache_is_bounded_and_open_copies_stay(tmp_path: Path, serve: Any, cache: Path) -> None:
    web_folder = tmp_path / "web"
    wanted = {f"{n}.tar": blob(web_folder, 100_000 + n, f"{n}.tar") for n in range(4)}
    web = serve(web_folder)
    store = Cache(cache, 350_000)

    def get(name: str) -> int:
        descriptor = store.open(f"{web.url}/{name}", wanted[name])
        assert descriptor is not None
        return descriptor

    first = get("0.tar")
    for name in ("1.tar", "2.tar"):
        os.close(get(name))
        time.sleep(0.01)
    os.close(get("1.tar"))  # used again: 0 is the one not used for longest, then 2
    os.close(get("3.tar"))
    assert store.find(f"{web.url}/0.tar", wanted["0.tar"]) is None
    assert content(first) == (web_folder / "0.tar").read_bytes()
    os.close(get("0.tar"))
    assert store.find(f"{web.url}/2.tar", wanted["2.tar"]) is None
    for name in ("0.tar", "1.tar", "3.tar"):
        found = store.find(f"{web.url}/{name}", wanted[name])
        assert found is not None
        os.close(found)
    assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= 350_000
    assert len(web.asked("0.tar")) == 2 and len(web.asked("1.tar")) == 1


def test_copies_that_were_evicted_are_closed(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    folder = make_shards(32, per_shard=2)
    size = (folder / "train-000000.tar").stat().st_size
    shards = open_shards(serve(folder).url + "/", cache=cache, cache_bytes=3 * size + 1)
    here = open_shards(folder)
    for shard in range(len(shards.shards)):
        assert shards.read(shard, 1)["png"] == here.read(shard, 1)["png"]
        assert len(list(cache.glob("*.tar"))) <= 3
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    ]
    assert 0 < sum(str(cache) in name and "(deleted)" in name for name in held) <= 8
    shards.close()


@pytest.mark.fault(38, "shard: process killed in the middle of a download")
def test_a_killed_download_is_gone_on_with(tmp_path: Path, serve: Any, cache: Path, happened: Happened) -> None:
    expected = blob(tmp_path / "web", 2_000_000)
    web = serve(tmp_path / "web")
    web.faults["x.tar"] = ["slow"]
    (tmp_path / "gate").touch()
    process = reader(cache, f"{web.url}/x.tar", expected, tmp_path / "gate")
    while not any(path.stat().st_size > 50_000 for path in cache.glob("*.part")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = cache.glob("*.part")
    done = left.stat().st_size
    descriptor = Cache(cache, 1 << 30).open(f"{web.url}/x.tar", expected)
    assert descriptor is not None
    assert hashlib.sha256(content(descriptor)).hexdigest() == expected.sha256
    assert web.asked("x.tar")[1] == (f"bytes={done}-", "") and names(cache) == [".tar"]
    happened(f"the next process asked from byte {done:,} on; whole shard, right SHA-256, nothing left over")


def test_old_leftovers_make_room_first(tmp_path: Path, serve: Any, cache: Path) -> None:
    one, two = blob(tmp_path / "web", 100_000, "1.tar"), blob(tmp_path / "web", 100_001, "2.tar")
    web = serve(tmp_path / "web")
    store = Cache(cache, 250_000)
    cache.mkdir()
    (cache / f"{'0' * 32}.900000.elsewhere~1~2~3.part").write_bytes(bytes(100_000))
    os.utime(cache / f"{'0' * 32}.900000.elsewhere~1~2~3.part", (0, 0))
    for name, expected in (("1.tar", one), ("2.tar", two)):
        descriptor = store.open(f"{web.url}/{name}", expected)
        assert descriptor is not None
        os.close(descriptor)
    assert names(cache) == [".tar", ".tar"]


@pytest.mark.fault(8, "disk full in the cache (1 MiB disk)")
def test_a_full_disk_means_ranges(
    make_shards: MakeShards, serve: Any, small_disk: Path, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    folder = make_shards(14)
    (small_disk / "filler").write_bytes(bytes((1 << 20) - 8192))
    shards, here = open_shards(serve(folder).url + "/", cache=small_disk / "cache"), open_shards(folder)
    for index in range(7):
        assert shards.read(0, index)["png"] == here.read(0, index)["png"]
    (message,) = caplog.messages
    assert str(small_disk) in message and "bytes needed" in message and "free" in message and "ranges" in message
    assert list((small_disk / "cache").glob("*.tar")) == list((small_disk / "cache").glob("*.part")) == []
    happened(f"warned once: {message.replace(str(small_disk), 'DISK')}; same samples")


@pytest.mark.fault(8, "cache file cannot grow in the middle of a download (RLIMIT_FSIZE)")
def test_a_disk_that_fills_during_a_download_means_ranges(
    make_shards: MakeShards, serve: Any, cache: Path, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    folder = make_shards(14)
    shards, here = open_shards(serve(folder).url + "/", cache=cache), open_shards(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        raws = [shards.read(0, index)["png"] for index in range(7)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raws == [here.read(0, index)["png"] for index in range(7)]
    (message,) = caplog.messages
    assert "File too large" in message and "ranges" in message and names(cache) == []
    happened(f"warned once: {message.replace(str(cache), 'CACHE')}; same samples")


@pytest.mark.fault(40, "cache folder that cannot be made")
def test_a_cache_that_cannot_be_used_means_ranges(
    make_shards: MakeShards, serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, happened: Happened,
) -> None:  # fmt: skip
    folder = make_shards(7)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "file" / "cache"))
    assert open_shards(serve(folder).url + "/").read(0, 0)["__key__"] == "s00000"
    (message,) = caplog.messages
    assert str(tmp_path / "file" / "cache") in message and "FOUNDATION_CACHE" in message and "data.cache" in message
    happened(f"warned once: {message.replace(str(tmp_path), 'FOLDER')}; same samples")


@pytest.mark.fault(40, "read-only cache that holds the shards")
def test_a_read_only_cache_is_used(
    make_shards: MakeShards, serve: Any, cache: Path, caplog: pytest.LogCaptureFixture, happened: Happened
) -> None:
    folder = make_shards(7)
    web = serve(folder)
    open_shards(web.url + "/", cache=cache).read(0, 0)
    with read_only(cache):
        with pytest.raises(OSError):
            (cache / "x").touch()
        web.faults["train-000000.tar"] = [""]  # for the look at opening
        shards = open_shards(web.url + "/", cache=cache)
        web.requests.clear()
        assert shards.read(0, 0)["__key__"] == "s00000" and web.requests == [] and caplog.messages == []
        shards.close()
    happened("the copies are used; the server is not asked")


def test_a_shard_larger_than_the_cache_is_read_in_ranges(
    make_shards: MakeShards, serve: Any, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_shards(14)
    shards, here = open_shards(serve(folder).url + "/", cache=cache, cache_bytes=2048), open_shards(folder)
    assert [shards.read(s, 3)["png"] for s in (0, 1)] == [here.read(s, 3)["png"] for s in (0, 1)]
    (message,) = caplog.messages
    assert "larger than the cache (2,048 bytes; data.cache_gib)" in message


def test_room_for_downloads_on_their_way_is_kept(tmp_path: Path, serve: Any, cache: Path) -> None:
    one, two = blob(tmp_path / "web", 200_000, "1.tar"), blob(tmp_path / "web", 200_001, "2.tar")
    web = serve(tmp_path / "web")
    web.faults["1.tar"] = ["slow..."]
    (tmp_path / "gate").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", READER.replace("1 << 30", "300_000"), str(cache), f"{web.url}/1.tar", str(one.size),
         one.sha256, str(tmp_path / "gate")]
    )  # fmt: skip
    while not list(cache.glob("*.part")):
        assert process.poll() is None
        time.sleep(0.005)
    with pytest.raises(CacheFullError, match="taken by shards that are being fetched"):
        Cache(cache, 300_000).open(f"{web.url}/2.tar", two)
    assert process.wait(timeout=30) == 0 and names(cache) == [".tar"]


def test_the_next_shards_are_fetched_ahead(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    folder = make_shards(42)
    web = serve(folder)
    shards = open_shards(web.url + "/", cache=cache, prefetch=2)
    stream = single(shards, seed=1, window=7)
    located = stream.locate(np.arange(42))
    order = list(dict.fromkeys(located.shards.tolist()))
    web.requests.clear()
    stream.prefetch(stream.locate(np.arange(3)), 2)
    wait_for(lambda: cache.exists() and names(cache) == [".tar"] * 3)
    assert [path for path, _, _ in web.requests] == [f"train-{shard:06d}.tar" for shard in order[:3]]
    stream.prefetch(stream.locate(np.arange(3, 7)), 6)  # the same shards: nothing to do
    web.requests.clear()
    for position in range(7):
        shards.read(int(located.shards[position]), int(located.indices[position]))
    assert web.requests == []
    stream.prefetch(stream.locate(np.arange(35, 42)), 41)  # the last window: then the next epoch's first shards
    later = stream.locate(np.arange(42, 56)).shards.tolist()
    wanted = {f"train-{shard:06d}.tar" for shard in {order[5], *later} - set(order[:3])}
    wait_for(lambda: {path for path, _, _ in web.requests} == wanted)
    shards.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_prefetch_in_the_parent_does_not_trouble_the_child(make_shards: MakeShards, serve: Any, cache: Path) -> None:
    folder = make_shards(21)
    web = serve(folder)
    web.faults["train-000001.tar"] = ["slow..."]
    shards: ShardSet = open_shards(web.url + "/", cache=cache)
    shards.prefetch([1, 2])
    while not list(cache.glob("*.part")):
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if shards.read(2, 0)["__key__"] == "s00014" and shards.read(1, 0)["__key__"] == "s00007" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert shards.read(1, 6)["__key__"] == "s00013"
    assert len(web.asked("train-000001.tar")) == 1
    shards.close()
