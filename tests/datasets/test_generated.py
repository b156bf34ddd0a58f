"""Data sets made by a program: the same again for the same seed, and splits that have nothing in common."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from foundation.cli import Parser
from foundation.data.build import load
from foundation.data.generated import Numbers, samples
from foundation.errors import UserError

SETS = ("calls", "drifting_shapes", "motions")


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
        drawn("drifting_shapes", "--size", "4")


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


def test_shapes_differ_in_nothing_but_their_form():
    """The same numbers give shapes of each kind the same places and contrast: light and its spread do not tell them."""
    module = load("drifting_shapes").module
    means, spreads = [], []
    for kind in module.KINDS:
        clips = np.stack([module.clip(kind, Numbers(0, n, "x"), 32, noise=0.0) for n in range(8)]).astype(np.float64)
        means.append(clips.mean(axis=(1, 2, 3)))
        spreads.append(clips.std(axis=(1, 2, 3)).mean())
    assert np.ptp(means, axis=0).mean() < 10  # of 255
    assert max(spreads) < 1.3 * min(spreads)


def test_shapes_live_for_a_few_frames():
    module = load("drifting_shapes").module
    clip = module.clip("disc", Numbers(0, 0, "x"), 32, noise=0.0).astype(np.float64)
    ground = np.median(clip)
    first, last = (np.abs(frame - ground) > 20 for frame in (clip[0], clip[-1]))
    assert first.any() and last.any()
    assert (first & last).sum() < 0.6 * min(first.sum(), last.sum())


def test_every_kind_of_shape_has_a_form_of_its_own():
    module = load("drifting_shapes").module
    v, u = np.mgrid[-1.2:1.2:64j, -1.2:1.2:64j]
    forms = {kind: module.shape(kind, u, v) for kind in module.KINDS}
    for kind, form in forms.items():
        assert form.min() == 0.0 and form.max() == 1.0, kind
        for other, form_of_other in forms.items():  # nor turned by quarters
            turns = [np.abs(form - np.rot90(form_of_other, quarter)).mean() for quarter in range(4)]
            assert kind == other or min(turns) > 0.03, (kind, other)
