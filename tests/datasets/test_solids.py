"""Drawn clouds: surfaces that are even, sets that repeat, splits that never meet."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foundation.data.build import load
from foundation.errors import UserError
from foundation.modalities.points.decode import decode

Read = Callable[..., dict[str, list[dict[str, Any]]]]


def test_sets_of_clouds(read: Read) -> None:
    splits = read("solids", "--train", "26", "--test", "13", "--points", "200")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 26, "test": 13}
    assert splits == read("solids", "--train", "26", "--test", "13", "--points", "200"), "the same each time"
    names = load("solids").module.classes(None)
    assert len(names) == 12
    for rows in splits.values():
        for place, sample in enumerate(rows):
            cloud = decode({"__shard__": "s", "__id__": place, **sample})
            points = cloud["points"].numpy()
            assert cloud["label"] == place % 12 and names[place % 12] in sample["__key__"]
            assert points.shape == (200, 3) and np.abs(points.mean(0)).max() < 1e-5
            assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
    clouds = {sample["npy"] for rows in splits.values() for sample in rows}
    assert len(clouds) == 39, "no cloud is in both splits or in one twice"
    more = read("solids", "--train", "30", "--test", "1", "--points", "200")["train"]
    assert [sample["npy"] for sample in more[:26]] == [sample["npy"] for sample in splits["train"]]
    assert read("solids", "--train", "1", "--test", "1", "--seed", "1")["train"] != more[:1]


@pytest.mark.parametrize("make", ["box", "tube", "cone", "ball", "ring"])
def test_points_lie_evenly_on_their_surfaces(make: str) -> None:
    solids = load("solids").module
    u = np.random.default_rng(0).random((40_000, 4))
    if make == "box":
        part = solids._box(1.0, 2.0, 3.0, (5, 0, 0))
        points = part.place(u) - (5, 0, 0)
        near = np.isclose(np.abs(points), [0.5, 1.0, 1.5])
        assert near.any(axis=1).all() and part.area == pytest.approx(22)
        assert near.mean(0) == pytest.approx([12 / 22, 6 / 22, 4 / 22], abs=0.01)
        assert abs(points.mean(0)).max() < 0.03
    elif make in ("tube", "cone"):
        bottom, top = (1.0, 1.0) if make == "tube" else (1.0, 0.25)
        part = solids._tube(bottom, top, 2.0, along="x")
        points = part.place(u)
        radius = np.hypot(points[:, 1], points[:, 2])
        side = np.isclose(radius, bottom + (top - bottom) * (points[:, 0] + 1) / 2)
        ends = np.isclose(np.abs(points[:, 0]), 1)
        assert (side | ends).all()
        slope = np.pi * (bottom + top) * np.hypot(2.0, bottom - top)
        assert part.area == pytest.approx(slope + np.pi * (bottom**2 + top**2))
        assert (side & ~ends).mean() == pytest.approx(slope / part.area, abs=0.01)
        low = (points[:, 0] < 0)[side & ~ends].mean()
        middle = (bottom + top) / 2
        assert low == pytest.approx((bottom + middle) / (bottom + middle + middle + top), abs=0.01)
    elif make == "ball":
        part = solids._ball(2.0, above=0.0)
        points = part.place(u)
        assert np.allclose(np.linalg.norm(points, axis=1), 2) and points[:, 2].min() >= 0
        assert np.histogram(points[:, 2], 8, (0, 2))[0].std() < 150 and part.area == pytest.approx(8 * np.pi)
    else:
        points = solids._ring(1.0, 0.2, (0, 0, 3), "y").place(u) - (0, 0, 3)
        out = np.hypot(points[:, 0], points[:, 2]) - 1.0
        assert np.allclose(np.hypot(out, points[:, 1]), 0.2)


def test_a_group_holds_several_things_of_one_kind_upright_and_turned(read: Read) -> None:
    solids = load("solids").module

    def numbers(what: str, number: int) -> np.ndarray:
        return np.random.default_rng(sum(map(ord, what))).random(number)

    one, other = (solids._thing("ladder", 400, numbers, number) for number in (0, 1))
    for thing in (one, other):
        assert 0.7 <= np.linalg.norm(thing, axis=1).max() <= 1.3
    (width, height), (other_width, _) = (np.linalg.eigh(np.cov(thing.T))[1][:, 1:].T for thing in (one, other))
    assert abs(height[2]) > 0.98 and abs(width @ other_width) < 0.98  # upright, turned about the vertical
    spots = solids._spots(6, numbers)
    apart = np.linalg.norm(spots[:, None] - spots[None], axis=2)[np.triu_indices(6, 1)]
    assert apart.min() > 0.4
    single, group = (
        read("solids", "--train", "1", "--test", "1", "--points", "200", "--things", things)["train"][0]["npy"]
        for things in ("1", "6")
    )
    assert single != group


def test_how_a_group_reaches_says_nothing_about_its_kind() -> None:
    solids = load("solids").module
    reach = {
        kind: np.array([np.linalg.svd(solids.scan(kind, 200, 0, number, 6))[1] for number in range(24)])
        for kind in ("car", "mug")
    }
    shares = {kind: (values / values[:, :1])[:, 1:].mean(0) for kind, values in reach.items()}
    assert np.abs(shares["car"] - shares["mug"]).max() < 0.1


def test_a_file_of_clouds_can_be_read_by_numpy(read: Read) -> None:
    (sample, *_) = read("solids", "--train", "1", "--test", "1")["train"]
    assert np.load(io.BytesIO(sample["npy"]), allow_pickle=False).shape == (1024, 3)


def test_impossible_numbers_are_refused(read: Read) -> None:
    for words, message in (
        (("--points", "10"), "at least 64"),
        (("--things", "0"), "it must be from 1"),
        (("--things", "65"), "at most 64, 16 points each"),
        (("--test", "0"), "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            read("solids", *words)
