"""Data sets made by a program: the same again for the same seed, and splits that have nothing in common."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from foundation.cli import Parser
from foundation.data.build import load
from foundation.data.generated import Numbers, samples
from foundation.errors import UserError

SETS = ("calls", "photo_pans", "motions")


def drawn(name: str, *words: str):
    module = load(name).module
    parser = Parser()
    module.add_arguments(parser)
    arguments = parser.parse_args(["--train", "24", "--test", "24", *words])
    return module, arguments, {split: list(rows) for split, rows in module.samples(arguments).items()}


def content(sample) -> bytes:
    return b"".join(value for key, value in sorted(sample.items()) if not key.startswith("__") and key != "cls")


@pytest.mark.parametrize("name", SETS)
def test_the_seed_says_everything_and_splits_share_nothing(name):
    module, arguments, rows = drawn(name)
    again = drawn(name)[2]
    assert rows == again
    other = drawn(name, "--seed", "1")[2]
    assert not {content(row) for row in rows["train"]} & {content(row) for row in other["train"]}
    assert not {content(row) for row in rows["train"]} & {content(row) for row in rows["test"]}
    classes = module.classes(arguments)
    for split in rows.values():
        labels = [int(row["cls"]) for row in split]
        assert set(labels) == set(range(len(classes)))
        assert max(map(labels.count, labels)) - min(map(labels.count, labels)) <= 1  # as many of each
        assert labels != sorted(labels)
        assert len({row["__key__"] for row in split}) == len(split)


@pytest.mark.parametrize("name", SETS)
def test_decoders_read_what_was_made(name):
    from foundation.data.build import load as load_set
    from foundation.probes.road import decoder

    modality = load_set(name).card["modality"]
    decode = decoder(modality)
    for row in drawn(name)[2]["test"][:4]:
        sample = decode({"__shard__": "a.tar", "__id__": 0, **row})
        assert sample["label"] == int(row["cls"])
        assert sample[modality].float().std() > 0


def test_numbers_are_one_stream_for_each_thing():
    a, b = Numbers(0, 5, "thing"), Numbers(0, 5, "thing")
    assert [a.between(0, 1) for _ in range(100)] == [b.between(0, 1) for _ in range(100)]
    assert Numbers(0, 6, "thing").between(0, 1) != Numbers(0, 5, "thing").between(0, 1)
    assert Numbers(0, 5, "other").between(0, 1) != Numbers(0, 5, "thing").between(0, 1)
    many = Numbers(1, 0, "many")
    values = np.array([many.ratio(0.5, 2.0) for _ in range(4000)])
    assert values.min() >= 0.5 and values.max() < 2.0 and abs(np.median(values) - 1.0) < 0.05
    normal = many.normal(20_000)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert {many.whole(3) for _ in range(50)} == {0, 1, 2} and {many.sign() for _ in range(50)} == {-1.0, 1.0}


def test_empty_splits_are_refused():
    with pytest.raises(UserError, match="--test must be at least 1"):
        samples("x", argparse.Namespace(train=1, test=0, seed=0), ["a"], lambda *_: {})


def test_impossible_options_are_refused():
    with pytest.raises(UserError, match="--noise"):
        drawn("calls", "--noise", "-1")
    with pytest.raises(UserError, match="--size"):
        drawn("photo_pans", "--size", "4")


def test_test_callers_are_heard_nowhere_else():
    """A caller's own numbers come from the split's stream: the same number is another voice in the other split."""
    train = [Numbers(0, n, "calls.train.caller").ratio(260.0, 900.0) for n in range(80)]
    test = [Numbers(0, n, "calls.test.caller").ratio(260.0, 900.0) for n in range(20)]
    assert not set(train) & set(test)


def test_every_call_upside_down_is_another_call():
    """How loud a call is says nothing about its way, and its pitch only by where it goes."""
    module = load("calls").module
    phase = np.linspace(0.0, 1.0, 2001)[:-1]
    for style in module.STYLES:
        pitch, loud = module.course(f"{style} rise", phase, Numbers(0, 1, "a"))
        other, same = module.course(f"{style} fall", phase, Numbers(0, 1, "a"))
        assert np.array_equal(pitch, -other) and np.array_equal(loud, same) and np.ptp(pitch) > 0.5, style


def test_one_caller_after_another_is_heard_in_a_recording():
    module, heard = load("calls").module, []

    def caller(number: int) -> Numbers:
        heard.append(number % 80)
        return Numbers(0, number % 80, "caller")

    sound = module.recording("smooth rise", caller, Numbers(0, 0, "x"), noise=0.0)
    assert len(sound) == module.SECONDS * module.RATE and 0 < np.abs(sound).max() < 1
    assert 6 <= len(heard) <= 15 and len(set(heard)) > len(heard) / 2


def test_a_pan_stays_inside_its_band():
    """A photograph whose middle quarter is white: training clips show none of it, test clips nothing else."""
    module, tiles = load("photo_pans").module, load("photo_tiles").module
    tile = np.zeros((160, 120, 3), np.uint8)
    tile[60:100] = 255
    unlit = lambda pixels, random: pixels.round().clip(0, 255).astype(np.uint8)  # noqa: E731
    for number in range(12):
        for split, shade in (("train", 0), ("test", 255)):
            band = tiles.band(tile, split, number / 12)
            clip = module.pan(band, Numbers(0, number, split), 16, unlit)
            assert clip.shape == (10, 16, 16, 3)
            assert (clip == shade).all(), (number, split)


def test_a_pan_moves():
    module = load("photo_pans").module
    band = np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (40, 1, 3))  # brighter to the right
    unlit = lambda pixels, random: pixels.round().clip(0, 255).astype(np.uint8)  # noqa: E731
    steps = []
    for number in range(8):
        means = module.pan(band, Numbers(0, number, "x"), 16, unlit).mean(axis=(1, 2, 3))
        assert np.abs(np.diff(means, n=2)).max() < 1.6  # in a straight line, at one speed
        steps.append(float(np.diff(means).mean()))
    assert np.ptp(steps) > 1.0
