"""The servers of the shards' tests, for models; and a home of each test's own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundation.zoo.cards import INDEX, index_of
from foundation.zoo.entry import Architecture, Entry, File, Input, dump
from tests.data.remote.conftest import bucket, impatient, s3_server, serve

__all__ = ["bucket", "impatient", "s3_server", "serve"]

SIZE = 300_000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``FOUNDATION_HOME`` of this test; no setting of the user's reaches it."""
    for name in ("FOUNDATION_ZOO", "FOUNDATION_MIRRORS", "FOUNDATION_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FOUNDATION_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def card(name: str, *files: File) -> Entry:
    return Entry(
        name=name,
        summary="random numbers",
        modality="image",
        architecture=Architecture(encoder="vit", parameters=1, width=1, depth=(1,)),
        input=Input(shape=(3, 8, 8)),
        licence="MIT",
        files=files,
    )


def file_of(path: Path, *sources: str) -> File:
    data = path.read_bytes()
    return File(name=path.name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), sources=sources)


def make_zoo(folder: Path, name: str = "some-model", size: int = SIZE, sources: tuple[str, ...] = ()) -> Entry:
    """A zoo with one model of random bytes; ``sources`` of its weights stand before that beside the card."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    weights, other = folder / name / f"{name}.safetensors", folder / name / f"{name}.json"
    weights.write_bytes(np.random.default_rng(size).bytes(size))
    other.write_bytes(b"{}")
    entry = card(
        name,
        file_of(weights, *sources, f"{name}/{weights.name}"),
        file_of(other, f"{name}/{other.name}"),
    )
    write_cards(folder, entry)
    return entry


def write_cards(folder: Path, *entries: Entry) -> None:
    for entry in entries:
        (folder / f"{entry.name}.yaml").write_text(dump(entry))
    (folder / INDEX).write_bytes(index_of(entries))


@pytest.fixture
def command() -> Callable[..., subprocess.Popen]:
    """``command("zoo", "pull", ...)``: the command in a process of its own."""

    def start(*words: str, before: str = "", **environment: str) -> subprocess.Popen:
        code = f"import sys\n{before}\nfrom foundation.cli import main\nsys.exit(main({list(words)!r}))"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    return start
