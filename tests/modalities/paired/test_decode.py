"""Several modalities of one sample, read through a recipe's plug-ins from real shards."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundation import config
from foundation.data.shards import open_shards, write_shards
from foundation.data.stream import build_eval_loader, iterate_samples
from foundation.errors import SampleError, UserError
from foundation.modalities.paired.decode import Config as Paired

DEPTH = '''
"""A depth camera: 16-bit PNG in millimetres."""
import io
from dataclasses import dataclass
import numpy as np
import torch
from PIL import Image
from foundation.errors import SampleError

@dataclass(frozen=True, kw_only=True)
class Config:
    member: str = "depth.png"
    entry: str = "depth"
    def build(self):
        return Decoder(self)

class Decoder:
    def __init__(self, config):
        self.config = config
    def __call__(self, raw):
        if self.config.member not in raw:
            raise SampleError(raw["__shard__"], raw["__key__"], "missing", f"no member {self.config.member}")
        millimetres = np.asarray(Image.open(io.BytesIO(raw[self.config.member])))
        label = {"label": int(raw["depth.cls"])} if "depth.cls" in raw else {}
        return {self.config.entry: torch.from_numpy(millimetres / 1000.0)} | label
'''


@pytest.fixture(autouse=True)
def depth_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A modality of somebody else's package."""
    folder = tmp_path / "package" / "sensors" / "depth_camera"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder.parent / "__init__.py").write_text("")
    (folder / "decode.py").write_text(DEPTH)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "sensors"]:
        del sys.modules[name]


def file(array: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def pair(number: int, **changes: bytes | None) -> dict[str, Any]:
    members = {
        "jpg": file(np.full((8, 8, 3), number, np.uint8), "JPEG"),
        "depth.png": file(np.full((8, 8), 1000 * number, np.uint16), "PNG"),
        "cls": str(number).encode(),
    }
    return {"__key__": f"pair{number}", **{k: v for k, v in (members | changes).items() if v is not None}}


@pytest.fixture
def decode() -> Any:
    text = "decoders: [{name: image, member: jpg}, {name: sensors.depth_camera}]"
    return config.load(Paired, text, own=True).build()


def test_all_modalities_of_a_sample_come_together(tmp_path: Path, decode: Any) -> None:
    write_shards([pair(n) for n in range(5)], tmp_path / "shards", "train")
    samples = list(iterate_samples(open_shards(tmp_path / "shards"), decode))
    assert [sample["__key__"] for sample in samples] == [f"pair{n}" for n in range(5)]
    for number, sample in enumerate(samples):
        assert sample["image"].shape == (3, 8, 8) and int(sample["image"].float().mean().round()) == number
        assert torch.equal(sample["depth"], torch.full((8, 8), float(number), dtype=torch.float64))
        assert sample["label"] == number and sample["__id__"] == number


@pytest.mark.fault(23, "samples that lack one of two paired modalities")
def test_a_sample_that_lacks_a_modality_is_bad_as_a_whole(tmp_path: Path, decode: Any, happened: Any) -> None:
    lacking: Mapping[int, dict[str, None]] = {1: {"jpg": None}, 3: {"depth.png": None}}
    write_shards([pair(n, **lacking.get(n, {})) for n in range(6)], tmp_path / "shards", "train")
    shards = open_shards(tmp_path / "shards")
    bad: list[SampleError] = []
    assert [s["__key__"] for s in iterate_samples(shards, decode, bad)] == ["pair0", "pair2", "pair4", "pair5"]
    assert [(error.key, error.reason) for error in bad] == [("pair1", "missing"), ("pair3", "missing")]

    (batch,) = build_eval_loader(shards, lambda samples: torch.stack([s["depth"] for s in samples]), decode, 6)
    assert batch.skipped == {"missing": 2} and batch.labels.tolist() == [0, 2, 4, 5]
    assert "pair3: missing: no member depth.png" in batch.messages[1]
    happened("never half a sample: the pair is left out, counted as missing, and named by shard and key")


def test_what_each_decoder_notes_is_kept_once(tmp_path: Path, decode: Any) -> None:
    write_shards([pair(7, cls=b"-1", **{"depth.cls": b"8"})], tmp_path / "shards", "train")
    sample = decode(open_shards(tmp_path / "shards").read(0, 0))
    (note,) = sample["__notes__"]
    assert note.reason == "label" and "-1 is no class number" in note.detail and sample["label"] == 8


def test_labels_that_disagree_and_entries_given_twice_are_told(tmp_path: Path, decode: Any) -> None:
    write_shards([pair(7, **{"depth.cls": b"8"})], tmp_path / "shards", "train")
    raw = open_shards(tmp_path / "shards").read(0, 0)
    with pytest.raises(SampleError, match=r"pair7.*conflict: one modality says label 7, another 8"):
        decode(raw)
    twice = config.load(
        Paired, "decoders: [{name: image, member: jpg}, {name: sensors.depth_camera, entry: image}]"
    ).build()
    with pytest.raises(UserError, match="two decoders give image"):
        twice({k: v for k, v in raw.items() if k != "depth.cls"})
    with pytest.raises(UserError, match="no decoders given"):
        config.load(Paired, "decoders: []")
