"""Further members of a sample: read without trust, put together, and the same by every road; and its dense number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundation import config
from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import open_shards, write_shards
from foundation.data.sources import Stream, build_stream, open_sources, single
from foundation.data.stream import build_loader
from foundation.errors import DataBudgetError, SampleError, UserError
from foundation.modalities.image import decode, views
from foundation.plugins import resolve
from foundation.run.recipe import Data, Recipe
from foundation.schedules import Clock
from foundation.types import Batch, TokenMask, View, each_tensor


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int) -> dict[str, Any]:
    noise = np.random.default_rng(number)
    height, width = 20 + number % 3, 24
    return {
        "__key__": f"s{number:02d}",
        "jpg": png(noise.integers(0, 256, (height, width, 3), np.uint8)),
        "teacher.npy": npy(noise.normal(size=4).astype(np.float16)),
        "map.png": png(np.full((height, width), number, np.uint8)),
        "big.npy": npy(np.full((height, width), 70_000 + number, np.int64)),
        "txt": f"Bild {number}: Größe".encode(),
        "boxes.json": json.dumps({"boxes": [[number, 0, 1, 2.5]]}).encode(),
    }


EXTRAS = {
    "features": {"kind": "array", "member": "teacher.npy", "shape": [4], "dtype": "float16"},
    "regions": {"kind": "regions", "member": "map.png"},
    "stacked": {"kind": "regions", "member": "big.npy", "size": [5, 6]},
    "caption": {"kind": "text", "member": "txt"},
    "boxes": {"kind": "json", "member": "boxes.json"},
}


def extras(chosen: dict[str, Any]) -> dict[str, Any]:
    data = config.from_plain(Data, {"shards": ["x.tar"], "extras": chosen})
    return {name: part.build(name) for name, part in data.extras.items()}


def batches(folder: Path, chosen: dict[str, Any], number: int = 12, **settings: Any) -> list[Batch]:
    maker = views.Config(global_views=views.ViewConfig(size=16), local_views=views.ViewConfig(size=8, count=0))
    pipeline = TrainingPipeline(decode=decode.Config().build(), views=maker.build(False), extras=extras(chosen))
    with build_loader(
        single(open_shards(folder), seed=0, window=10),
        pipeline,
        batch_size=4,
        global_batch=4,
        samples=number,
        **settings,
    ) as loader:
        return list(loader)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(map(sample, range(12)), tmp_path / "shards", "train", samples_per_shard=5)
    return tmp_path / "shards"


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_recipe_asks_for_comes_with_its_sample(shards: Path, workers: int) -> None:
    for batch in batches(shards, EXTRAS, workers=workers, timeout=60.0):
        batch = batch.to("cpu")
        found = batch.extras
        assert list(found) == list(EXTRAS)
        assert found["features"].dtype == torch.float16 and found["features"].shape == (4, 4)
        assert found["stacked"].dtype == torch.int32 and found["stacked"].shape == (4, 5, 6)
        for row, key in enumerate(batch.keys):
            number = int(key[1:])
            assert int(batch.index[row]) == number
            wanted = np.random.default_rng(number)
            wanted.integers(0, 256, (20 + number % 3, 24, 3), np.uint8)
            assert np.array_equal(found["features"][row].numpy(), wanted.normal(size=4).astype(np.float16))
            assert found["regions"][row].shape == (20 + number % 3, 24)
            assert bool((found["regions"][row] == number).all())
            assert bool((found["stacked"][row] == 70_000 + number).all())
            assert found["caption"][row] == f"Bild {number}: Größe"
            assert found["boxes"][row] == {"boxes": [[number, 0, 1, 2.5]]}


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was opened",)


BAD = {
    "missing": ({"kind": "text", "member": "caption.txt"}, b"", "missing: member caption.txt: not there (members:"),
    "pickle": (EXTRAS["features"], npy(np.array([Trap()], dtype=object)), "unsafe: member .npy: an array of objects"),
    "cut": (EXTRAS["features"], npy(np.zeros(4, np.float16))[:-1], "truncated: member .npy: float16 [4] takes 8 bytes"),
    "noise": (EXTRAS["features"], b"\x93NUMPY\x01\x00\xff\xff{", "decode: member .npy is not what its name says"),
    "nan": (EXTRAS["features"], npy(np.full(4, np.nan, np.float16)), "not_finite: member .npy"),
    "shape": (EXTRAS["features"], npy(np.zeros(5, np.float16)), "shape: member teacher.npy: float16 [5], where"),
    "type": (EXTRAS["features"], npy(np.zeros(4)), "shape: member teacher.npy: float64 [4], where"),
    "words": (EXTRAS["features"], npy(np.array(["a"])), "decode: member teacher.npy: an array of <U1, not of numbers"),
    "large": (EXTRAS["caption"] | {"max_mib": 0.001}, b"x" * 1049, "too_large: member txt: 1,049 bytes are more"),
    "pixels": (
        EXTRAS["regions"] | {"max_mib": 0.5}, png(np.zeros((400, 400), np.uint8)),
        "too_large: member map.png: 400 x 400 pixels are more than max_mib = 0.5",
    ),
    "colour": (EXTRAS["regions"], png(np.zeros((4, 4, 3), np.uint8)), "shape: member map.png: a picture in colour"),
    "fractions": (EXTRAS["stacked"], npy(np.zeros((4, 4))), "shape: member big.npy: float64 [4, 4], where whole"),
    "range": (EXTRAS["stacked"], npy(np.full((4, 4), 2**40)), "range: member big.npy: numbers of regions beyond"),
    "utf": (EXTRAS["caption"], b"\xff\xfe", "decode: member txt: UnicodeDecodeError"),
    "json": (EXTRAS["boxes"], b"{", "decode: member boxes.json: JSONDecodeError"),
    "depth": (EXTRAS["boxes"], b"[" * 100_000, "decode: member boxes.json: RecursionError"),
    "infinity": (EXTRAS["boxes"], b"[Infinity]", "decode: member boxes.json: ValueError: Infinity is no number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_member_is_a_bad_sample_that_is_named(case: str) -> None:
    chosen, payload, said = BAD[case]
    (reader,) = extras({"it": chosen}).values()
    raw = {"__shard__": "x.tar", "__key__": "s1", "__id__": 1, "jpg": b""}
    with pytest.raises(SampleError) as error:
        reader.decode(raw if case == "missing" else raw | {chosen["member"]: payload})
    assert str(error.value).startswith(f"x.tar: sample 's1': {said}")


def test_another_sample_takes_its_place_with_its_own_number(tmp_path: Path) -> None:
    samples = [sample(number) for number in range(12)]
    del samples[3]["teacher.npy"]
    write_shards(samples, tmp_path / "some", "train")
    found = batches(tmp_path / "some", EXTRAS)
    assert sum(batch.skipped.get("missing", 0) for batch in found) == 1
    assert all(
        int(number) == int(key[1:]) for batch in found for number, key in zip(batch.index, batch.keys, strict=True)
    )
    assert all("s03" not in batch.keys for batch in found)
    write_shards([{k: v for k, v in one.items() if k != "txt"} for one in samples], tmp_path / "none", "train")
    with pytest.raises(DataBudgetError, match=r"missing: member txt: not there .*substitute|drawn in its place"):
        batches(tmp_path / "none", {"caption": EXTRAS["caption"]})


def test_numbers_are_dense_over_all_sources_and_the_same_whatever_the_weights(tmp_path: Path) -> None:
    sizes = {"zebra": 5, "ant": 7, "lion": 3}
    for name, size in sizes.items():
        write_shards(
            ({"__key__": f"{name}{n}", "txt": b"x"} for n in range(size)), tmp_path / name, "train", samples_per_shard=2
        )
    for weights in ((1.0, 1.0, 1.0), (3.0, 1.0, 0.5)):
        sources = {
            name: {"shards": [str(tmp_path / name)], "weight": weight}
            for (name, _), weight in zip(sizes.items(), weights, strict=True)
        }
        data = config.from_plain(Data, {"sources": sources, "shuffle_window": 4})
        stream = build_stream(data, open_sources(data), seed=1, global_batch=6, clock=Clock(10, 3.0))
        assert numbers(stream, 120) == {
            f"{name}{n}": before + n
            for name, before in (("ant", 0), ("lion", 7), ("zebra", 10))
            for n in range(sizes[name])
        }


def numbers(stream: Stream, positions: int) -> dict[str, int]:
    located = stream.locate(np.arange(positions))
    places = zip(located.sources.tolist(), located.shards.tolist(), located.indices.tolist(), strict=True)
    return dict(sorted((raw["__key__"], raw["__index__"]) for raw in (stream.read(*place) for place in places)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.extras={x: {kind: pickle, member: a}}", "no extra called 'pickle' (available: array, json, regions"),
        ("data.extras={x: {member: a.npy}}", "missing required key 'data.extras.x.kind': which extra?"),
        ("data.extras={masks: {kind: text, member: txt}}", "every batch has 'masks' already; give this one another"),
        ("data.extras={x: {kind: text, member: txt}, x: {kind: text, member: txt}}", "'data.extras.x' is given twice"),
        ("data.extras={x y: {kind: text, member: txt}}", "'x y' is no plain name"),
        ("data.extras={x: {kind: array, member: a.npy}}", "missing required key 'data.extras.x.shape'"),
        ("data.extras={x: {kind: text, member: .txt}}", "member '.txt' is none"),
    ],
)  # fmt: skip
def test_extras_that_cannot_be_are_refused_with_the_recipe(
    tiny_recipe: Callable[..., Recipe], override: str, said: str
) -> None:
    with pytest.raises(UserError) as error:
        tiny_recipe(override)
    assert said in str(error.value)


def filled(cls: type, seen: list[torch.Tensor]) -> Any:
    """An instance with a tensor wherever its types allow one."""

    def tensor() -> torch.Tensor:
        seen.append(torch.zeros(1))
        return seen[-1]

    values: dict[str, Any] = {}
    for part in fields(cls):
        kind = str(part.type)
        if kind.startswith("Tensor"):
            values[part.name] = tensor()
        elif kind.startswith("Mapping") and "View" in kind:
            values[part.name] = {"global": filled(View, seen)}
        elif kind.startswith("Mapping") and "TokenMask" in kind:
            values[part.name] = {("global", "a"): filled(TokenMask, seen), ("global", "b"): filled(TokenMask, seen)}
        elif kind.startswith("Mapping") and "Tensor" in kind:
            values[part.name] = {"one": tensor(), "several": (tensor(), "text", tensor())}
        elif "None" not in kind and kind != "Any":
            values[part.name] = {"str": "x", "int": 1}.get(kind, ())
    assert is_dataclass(cls)
    return cls(**values)


def test_every_tensor_of_a_batch_moves_whatever_members_it_gets() -> None:
    seen: list[torch.Tensor] = []
    batch = filled(Batch, seen)
    assert len(seen) == 2 + 4 + 2 * 5 + 3  # labels and index, a view, two masks with their sources, extras
    met: list[torch.Tensor] = []
    each_tensor(batch, met.append)
    assert {id(tensor) for tensor in met} == {id(tensor) for tensor in seen} and len(met) == len(seen)
    moved: list[torch.Tensor] = []
    each_tensor(batch.to("meta"), moved.append)
    assert len(moved) == len(seen) and all(tensor.is_meta for tensor in moved)
    assert batch.to("cpu").masks is batch.masks  # nothing is made anew where nothing changes
    assert batch.extras["several"][1] == batch.to("meta").extras["several"][1] == "text"


def test_a_kind_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lengths.py").write_text(
        "from dataclasses import dataclass\n"
        "from foundation.data.extras.member import Member\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config(Member):\n"
        "    def read(self, payload, raw):\n"
        "        return len(payload)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = resolve("foundation.data.extras.{name}", "mine.lengths", own=True)
    reader = module.Config(member="txt").build("lengths")
    assert reader.collate([reader.decode({"txt": b"abc"}), reader.decode({"txt": b""})]) == (3, 0)
