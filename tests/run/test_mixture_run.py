"""Runs on a mixture of sources: exact over restarts, and no silent change of what a position means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foundation.checkpoints import checkpoint
from foundation.data.shards import open_shards, write_shards
from foundation.errors import UserError


@pytest.fixture
def two_sources(tiny_recipe: Callable[..., Any], tiny_shards: str, tmp_path: Path) -> Any:
    """``two_sources("data.mix=batch")``: the tiny shards, and ten of their images as a second source that fades out."""
    images = open_shards(tiny_shards)
    content = [{"__key__": f"other{n}", "png": images.read(0, n)["png"]} for n in range(10)]
    write_shards(content, tmp_path / "other", "train")
    weight = "{start: 1, end: 0, shape: linear}"
    sources = (
        f"data.sources={{main: {{shards: ['{tiny_shards}'], weight: 1}}, "
        f"other: {{shards: [{tmp_path / 'other'}], weight: {weight}}}}}"
    )
    return lambda *settings: tiny_recipe("data.shards=[]", sources, *settings)


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["sample", "batch"])
def test_a_mixture_resumes_bit_for_bit(train: Any, metrics: Any, two_sources: Any, tmp_path: Path, mix: str) -> None:
    train(two_sources(f"data.mix={mix}"), tmp_path / "whole")
    train(two_sources(f"data.mix={mix}", "train.stop_after=5 steps", "data.workers=2"), tmp_path / "cut")
    train(two_sources(f"data.mix={mix}"), tmp_path / "cut")
    whole, cut = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    for name in ("loss", "data/epoch/main", "data/epoch/other"):
        assert [line[name] for line in whole] == [line[name] for line in cut], name
    assert [line["data/epoch/other"] for line in whole] == sorted(line["data/epoch/other"] for line in whole)
    assert whole[-1]["data/epoch/other"] > 0 and whole[-1]["data/epoch/main"] > 0
    digests = []
    for run in ("whole", "cut"):
        newest, _ = checkpoint.newest(tmp_path / run / "checkpoints")
        assert newest is not None
        digests.append({p.name: checkpoint.sha256(p) for p in newest.glob("*.safetensors")})
    assert digests[0] == digests[1]


def test_a_changed_mixture_is_refused(train: Any, two_sources: Any, tmp_path: Path) -> None:
    train(two_sources("train.stop_after=3 steps"), tmp_path / "run")
    with pytest.raises(UserError, match=r"data\.mix: sample then, batch now"):
        train(two_sources("data.mix=batch"), tmp_path / "run")
    write_shards([{"__key__": "late", "png": b"x"}], tmp_path / "other", "train", overwrite=True)
    with pytest.raises(UserError, match=r"shards of other: .* then, .* now"):
        train(two_sources(), tmp_path / "run")
