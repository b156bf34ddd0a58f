"""Damaged shards, and what the real reader, the real loader and ``foundation data verify`` make of them."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.data.adopt import index_shards
from foundation.data.shards import open_shards
from foundation.data.stream import build_eval_loader
from foundation.data.verify import Findings, verify
from foundation.modalities.image.decode import decode


def picture(place: int = 0, kind: str = "PNG", size: tuple[int, int] = (20, 20), **options: Any) -> bytes:
    """A picture that differs from place to place."""
    pixels = np.random.default_rng(place).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def good(number: int = 6, begin: int = 0) -> list[tuple[str, bytes]]:
    """Members of good samples: ``s000.png``, ``s000.cls``, ..."""
    return [
        member
        for index in range(begin, begin + number)
        for member in ((f"s{index:03d}.png", picture(index)), (f"s{index:03d}.cls", str(index % 4).encode()))
    ]


def write_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """A tar of members; a TarInfo stands for a member with an odd header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if isinstance(name, str) else info.size
            archive.addfile(info, io.BytesIO(data))
    return path


@dataclass
class Read:
    """What an evaluation loader made of some shards."""

    keys: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)


def read_all(*patterns: str | Path, workers: int = 0) -> Read:
    """Every sample through the real loader and the real decoder."""
    result = Read()
    shards = open_shards([str(pattern) for pattern in patterns])
    with build_eval_loader(shards, lambda samples: torch.zeros(len(samples)), decode, 4, workers=workers) as loader:
        for batch in loader:
            result.keys += batch.keys
            result.skipped.update(batch.skipped)
            result.messages += batch.messages
    shards.close()
    return result


def found_by(findings: Findings, reason: str) -> list[tuple[str, str, str, str]]:
    """(shard's name, key, member, detail) of the problems with a reason."""
    return [(Path(p.shard).name, p.key, p.member, p.detail) for p in findings.problems if p.reason == reason]


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    """``shard(members)`` -> a tar; ``indexed=True`` writes an index beside it, before anything is damaged."""

    def make(members: Iterable[tuple[Any, bytes]] | None = None, name: str = "train-000000", indexed: bool = False):
        path = write_tar(tmp_path / "shards" / f"{name}.tar", good() if members is None else members)
        if indexed:
            index_shards([str(path.parent)])
        return path

    return make


@pytest.fixture
def verified() -> Callable[..., Findings]:
    """``verified(path, ...)``: what ``foundation data verify`` finds, in this process."""
    return lambda *patterns, **options: verify([str(p) for p in patterns], **({"workers": 1} | options))


@pytest.fixture
def foundation() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``foundation("data", "verify", ...)``: the command in a process of its own."""

    def run(*words: str | Path, prefix: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        program = f"{prefix}\nimport sys; from foundation.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)

    return run
