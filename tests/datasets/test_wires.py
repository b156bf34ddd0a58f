"""Drawn clouds of bent wires: sets that repeat, splits that never meet, ways that only their corners tell apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foundation.data.build import load
from foundation.data.generated import Numbers
from foundation.errors import UserError
from foundation.modalities.points.decode import decode

Read = Callable[..., dict[str, list[dict[str, Any]]]]


def test_sets_of_clouds(read: Read) -> None:
    words = ("--train", "26", "--test", "13", "--points", "200")
    splits = read("wires", *words)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 26, "test": 13}
    assert splits == read("wires", *words), "the same each time"
    names = load("wires").module.classes(None)
    assert len(names) == 12
    for rows in splits.values():
        assert {int(sample["cls"]) for sample in rows} == set(range(12))
        for index, sample in enumerate(rows):
            cloud = decode({"__shard__": "s", "__id__": index, **sample})
            points = cloud["points"].numpy()
            assert names[cloud["label"]].replace(" ", "-") in sample["__key__"]
            assert points.shape == (200, 3) and np.abs(points.mean(0)).max() < 1e-5
            assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5)
    clouds = {sample["npy"] for rows in splits.values() for sample in rows}
    assert len(clouds) == 39, "no cloud is in both splits or in one twice"
    assert read("wires", *words, "--seed", "1")["train"][0]["npy"] not in clouds
    assert read("wires", *words, "--wires", "1")["train"][0]["npy"] not in clouds


def test_ways_differ_by_nothing_but_the_signs_of_their_pieces_and_the_axis_of_the_last() -> None:
    ways = load("wires").module.WAYS
    assert len({way.tobytes() for way in ways.values()}) == 12
    for way in ways.values():
        assert np.array_equal(np.abs(way[:, 2]), [1, 0, 1, 0]), "upright and level pieces alternate"
        assert np.array_equal(np.linalg.norm(way, axis=1), np.ones(4))
        assert not (way[:-1] * way[1:]).sum(1).any(), "all corners are right angles"


def test_points_lie_around_their_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    wires = load("wires").module
    monkeypatch.setattr(wires, "_TURN", 0.0)
    monkeypatch.setattr(wires, "_TILT", 0.0)
    points = wires.wire("up down on", 4000, 0.0, Numbers(0, 0, "test"))
    lengths = np.array([Numbers(0, 0, "test").ratio(*wires._LENGTHS) for _ in range(1)])
    start = points[(points - points.min(0))[:, 0] < 1e-9]  # the first piece stands at the smallest x
    assert np.ptp(start[:, 2]) == pytest.approx(lengths[0], abs=0.01)
    assert np.ptp(points[:, 1]) < 1e-9, "a wire that goes on stays in its plane"
    thick = wires.wire("up down on", 4000, 0.05, Numbers(0, 0, "test"))
    assert thick[:, 1].std() == pytest.approx(0.05, rel=0.05)
    turned = [wires.wire("up up aside", 400, 0.0, Numbers(0, number, "test")) for number in (0, 1)]
    assert not np.allclose(*turned), "each wire has lengths of its own"


def test_wires_lie_apart() -> None:
    wires = load("wires").module
    spots = wires.places(8, Numbers(0, 0, "test"))
    apart = np.linalg.norm(spots[:, None] - spots[None], axis=2)[np.triu_indices(8, 1)]
    assert spots.shape == (8, 3) and apart.min() > 0.8


def test_a_file_of_clouds_can_be_read_by_numpy(read: Read) -> None:
    (sample, *_) = read("wires", "--train", "1", "--test", "1")["train"]
    assert np.load(io.BytesIO(sample["npy"]), allow_pickle=False).shape == (1024, 3)


def test_impossible_numbers_are_refused(read: Read) -> None:
    for words, message in (
        (("--points", "10"), "at least 64"),
        (("--wires", "0"), "it must be from 1"),
        (("--wires", "65"), "at most 64, 16 points each"),
        (("--test", "0"), "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            read("wires", *words)
