"""Data sets made by a program: the same again for the same seed, and splits that have nothing in common."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from foundation.cli import Parser
from foundation.data.build import load
from foundation.data.generated import Numbers, samples
from foundation.errors import UserError

SETS = ("calls", "camera_moves", "motions", "part_shapes")


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
    from foundation.modalities.parts import decoder

    modality = load_set(name).card["modality"]
    decode = decoder(modality)
    for row in drawn(name)[2]["test"][:4]:
        sample = decode({"__shard__": "a.tar", "__id__": 0, **row})
        assert sample["label"] == int(row["cls"])
        assert sample[modality].float().std() > 0


def test_a_ball_that_sings_is_as_high_as_its_voice_and_as_bright_as_it_is_loud():
    rows = drawn("singing_balls", "--train", "6", "--test", "6")[2]
    assert rows == drawn("singing_balls", "--train", "6", "--test", "6")[2]
    assert not {content(row) for row in rows["train"]} & {content(row) for row in rows["test"]}
    module, calls = load("singing_balls").module, load("calls").module
    draw = Numbers(0, 1, "test")
    pitch, loud, sound = module.song(calls, "smooth rise", lambda n: Numbers(0, n, "caller"), draw, 0.0)
    frames = module.film(pitch[400::800], loud[400::800], draw, 32).astype(float)
    heard = loud[400::800] > 0.9
    brightest = frames.max(axis=(1, 2))
    assert brightest[heard].min() > brightest[~heard].max() if (~heard).any() else True
    ball = frames[heard] - np.median(frames, axis=0)
    row = np.array([np.unravel_index(frame.argmax(), frame.shape)[0] for frame in ball])
    assert np.corrcoef(row, pitch[400::800][heard])[0, 1] < -0.9  # row 0 is above
    assert np.abs(sound[loud < 0.01]).mean() < 0.05 * np.abs(sound[loud > 0.9]).mean()


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
        drawn("camera_moves", "--size", "4")


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


def test_test_films_show_what_no_training_film_shows():
    """A photograph whose right three eighths are white: training parts show none of it, test parts nothing else."""
    module = load("camera_moves").module
    photo = np.zeros((400, 640, 3), np.uint8)
    photo[:, 400:] = 255
    assert (module.part(photo, "train") == 0).all()
    assert (module.part(photo, "test") == 255).all()


def scene() -> np.ndarray:
    """A picture with one bright disc in its middle, as :func:`part` gives it."""
    y, x = np.mgrid[:360, :360] - 180.0
    return np.where(np.hypot(x, y) < 8, 255, 0).astype(np.uint8)


def test_a_camera_pans_the_way_it_is_called(monkeypatch):
    """What is seen moves the other way."""
    module = load("camera_moves").module
    monkeypatch.setattr(module, "place", lambda picture, draw: np.array([180.0, 180.0]))
    y, x = np.mgrid[:32, :32] - 15.5
    for number in range(6):
        for move, way in (("pan right", (-1, 0)), ("pan left", (1, 0)), ("pan down", (0, -1)), ("pan up", (0, 1))):
            frames = module.shot(scene(), move, Numbers(0, number, "x"), 32, 5).astype(float)
            places = [((frame * x).sum() / frame.sum(), (frame * y).sum() / frame.sum()) for frame in frames[1:4]]
            gone = np.subtract(places[-1], places[0])
            assert np.dot(gone, way) > 2.0 and abs(np.dot(gone, way[::-1])) < np.dot(gone, way), (number, move, gone)


def test_a_camera_closes_in_and_draws_back(monkeypatch):
    module = load("camera_moves").module
    monkeypatch.setattr(module, "place", lambda picture, draw: np.array([180.0, 180.0]))
    for number in range(6):
        for move, larger in (("close in", True), ("draw back", False)):
            frames = module.shot(scene(), move, Numbers(0, number, "x"), 32, 6)
            sizes = (frames > 127).sum(axis=(1, 2))
            assert (sizes[-1] > 1.3 * sizes[0]) if larger else (sizes[0] > 1.3 * sizes[-1]), (number, move)


def test_a_roll_the_other_way_is_the_same_film_backwards(monkeypatch):
    """So no frame by itself tells the way."""
    module = load("camera_moves").module
    monkeypatch.setattr(module, "place", lambda picture, draw: np.array([180.0, 180.0]))
    turns = []
    for move in ("roll right", "roll left"):
        y, x = np.mgrid[:360, :360] - 180.0
        bar = np.where((np.abs(y) < 4) & (x > 0), 255, 0).astype(np.uint8)
        frames = module.shot(bar, move, Numbers(0, 3, "x"), 32, 5).astype(float)
        y, x = np.mgrid[:32, :32] - 15.5
        angles = np.unwrap([np.arctan2((frame * y).sum(), (frame * x).sum()) for frame in frames])
        turns.append(angles[-1] - angles[0])
    assert turns[0] < -0.4 and turns[1] > 0.4  # what is seen turns the other way


def test_shots_of_a_film_have_nothing_in_common_but_the_move():
    module = load("camera_moves").module
    picture = np.arange(360 * 360, dtype=np.int64).reshape(360, 360) * 2654435761 % 251
    frames = module.clip([picture.astype(np.uint8)], "pan up", Numbers(0, 1, "x"), 32, 0.5)
    assert frames.shape == (32, 32, 32) and frames.dtype == np.uint8
    means = frames.mean(axis=(1, 2))
    assert (np.abs(np.diff(means)) > 4.0).sum() >= 2  # cuts
