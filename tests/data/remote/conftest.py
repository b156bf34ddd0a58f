"""Real servers on this machine: a web server that misbehaves when told to, and one that speaks S3."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from foundation.data import remote, storages
from foundation.data.download import Expected
from tests.data.remote.s3_server import S3Server


class Handler(BaseHTTPRequestHandler):
    """Serves the files of a folder, with ranges; see :class:`Web` for what it does wrong."""

    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        wanted = self.headers.get("Range", "")
        fault = self.server.next_fault(path)
        self.server.requests.append((path, wanted, fault))
        file = self.server.folder / path
        if fault.startswith("to "):
            self.send_response(302)
            self.send_header("Location", fault.removeprefix("to "))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault.isdigit() or not file.is_file():
            self.send_response(int(fault) if fault.isdigit() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        begin, end = 0, len(data)
        if wanted and fault != "ignores ranges":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1 if last else end, end)
        self._send(file, data, begin, end, bool(wanted) and fault != "ignores ranges", fault)

    def _send(self, file: Path, data: bytes, begin: int, end: int, part: bool, fault: str) -> None:
        shift = 512 if fault == "another range" and part else 0
        body = data[max(0, begin - shift) : max(0, end - shift)]
        if fault == "wrong bytes":
            body = bytes(byte ^ 1 for byte in body)
        if fault == "wrong size":
            body = body[: len(body) // 2]
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {max(0, begin - shift)}-{end - shift - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        if self.server.tags:
            self.send_header("ETag", f'"{file.stat().st_mtime_ns}-{len(data)}"')
        self.end_headers()
        try:
            if fault in ("cut", "stalls"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "stalls":
                    self.server.released.wait(30)
                self.close_connection = True
            elif fault == "slow":
                for index in range(0, len(body), 4096):
                    self.wfile.write(body[index : index + 4096])
                    self.wfile.flush()
                    if self.server.released.wait(0.02):
                        return
            else:
                self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    """A web server over a folder.

    ``faults[path]`` lists what goes wrong with the next requests for a file, one after the other; the last one stays
    when it ends with ``...``; ``to ADDRESS`` points to another place.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.tags = folder, True
        self.requests: list[tuple[str, str, str]] = []
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.released = threading.Event()
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, path: str) -> str:
        with self._lock:
            faults = self.faults[path]
            if not faults:
                return ""
            return faults[0].removesuffix("...") if faults[0].endswith("...") else faults.pop(0)

    def asked(self, path: str) -> list[tuple[str, str]]:
        """Ranges and faults of all requests for a file."""
        return [(wanted, fault) for name, wanted, fault in self.requests if name == path]

    def handle_error(self, *arguments: object) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of attempts, with short pauses; no proxy between here and here."""
    monkeypatch.setattr(remote, "PAUSES", tuple(pause / 100 for pause in remote.PAUSES))
    monkeypatch.setattr(storages, "READ_SECONDS", 0.5)
    monkeypatch.setattr("foundation.data.opened._told", set())
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within, nobody can write into the folder, root included."""
    if subprocess.run(["mount", "--bind", "-o", "ro", str(folder), str(folder)], capture_output=True).returncode:
        pytest.skip("a read-only folder needs the right to mount (chmod does not stop root)")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Folder for copies."""
    return tmp_path / "cache"


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Web]]:
    """``serve(folder)``: a web server over it, in threads of this process."""
    servers: list[Web] = []

    def start(folder: Path) -> Web:
        server = Web(folder)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server that speaks S3."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """``bucket(folder)``: a bucket with its files -> ``s3://bucket``, reached as a user would, by the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs = pytest.importorskip("s3fs")

    def fill(folder: Path) -> str:
        s3fs.S3FileSystem.clear_instance_cache()
        name = f"shards-{os.getpid()}-{time.monotonic_ns()}"
        s3_server.buckets[name] = folder
        return f"s3://{name}"

    return fill


def blob(folder: Path, size: int, name: str = "x.tar") -> Expected:
    """A file of random bytes, and what is to be expected of it."""
    folder.mkdir(exist_ok=True)
    data = np.random.default_rng(size).bytes(size)
    (folder / name).write_bytes(data)
    return Expected(size, hashlib.sha256(data).hexdigest())


def names(cache: Path) -> list[str]:
    """Suffixes of all files of a cache."""
    return sorted(path.suffix for path in cache.iterdir() if path.is_file())


def content(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
