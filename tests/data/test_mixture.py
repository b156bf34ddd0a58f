"""Mixtures: counts that follow the weights, a pure function of the position, sources that do not disturb each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation import config
from foundation.data import mixture
from foundation.data.mixture import Mixture, shares
from foundation.data.shards import open_shards
from foundation.data.sources import Stream, build_stream, open_sources
from foundation.data.stream import build_loader
from foundation.errors import UserError
from foundation.run.recipe import Data
from foundation.schedules import Clock, Duration, Schedule

MakeShards = Callable[..., Path]
CLOCK = Clock(50, 10.0)


def constant(weight: float) -> Schedule:
    return Schedule(start=weight, shape="constant")


def sources(**weights: float | Schedule | None) -> dict[str, mixture.Config]:
    def schedule(weight: float | Schedule | None) -> Schedule | None:
        return constant(weight) if isinstance(weight, (int, float)) else weight

    return {name: mixture.Config(shards=("x.tar",), weight=schedule(weight)) for name, weight in weights.items()}


@pytest.mark.parametrize("mix", ["sample", "batch"])
@pytest.mark.parametrize("number", [1, 2, 3, 8, 30])
def test_counts_follow_constant_weights_and_never_fall(mix: Any, number: int) -> None:
    weights = np.random.default_rng(number).dirichlet(np.full(number, 0.5))
    steps = np.arange(3000)
    counts = Mixture(weights, 16, seed=0, mix=mix).counts(steps)
    assert (counts.sum(axis=1) == 16 * steps).all()
    assert (np.diff(counts, axis=0) >= 0).all()
    unit = 16 if mix == "batch" else 1
    bound = unit * (0.5 * sum(1 / k for k in range(1, number + 1)) + 1e-3)
    assert np.abs(counts - 16 * steps[:, None] * weights).max() <= bound


def test_a_rare_source_is_neither_lost_nor_early() -> None:
    counts = Mixture([0.999, 0.001], 4, seed=0).counts(np.arange(10_001))
    assert counts[-1].tolist() == [39_960, 40]
    gaps = np.diff(np.flatnonzero(np.diff(counts[:, 1])))
    assert set(gaps.tolist()) == {250}


def test_far_positions_and_constant_counts_do_not_depend_on_the_batch_size() -> None:
    small, large = Mixture([0.6, 0.3, 0.1], 8, 0), Mixture([0.6, 0.3, 0.1], 64, 0)
    steps = np.array([0, 1, 77, 10**9, 10**12])
    assert (small.counts(steps * 8) == large.counts(steps)).all()
    assert large.counts(steps).sum(axis=1).tolist() == (64 * steps).tolist()


def test_a_schedule_is_followed_step_by_step() -> None:
    ramp = np.linspace(0, 1, 400)
    weights = np.stack([ramp, 1 - ramp, np.where(np.arange(400) < 200, 0.0, 0.5)], axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    mixed = Mixture(weights, 10, seed=0)
    counts = mixed.counts(np.arange(500))
    wanted = np.concatenate([np.zeros((1, 3)), np.cumsum(10 * weights, axis=0)])
    assert np.abs(counts[:401] - wanted).max() < 1.5
    steps = np.diff(counts, axis=0)
    assert (steps >= 0).all() and (steps.sum(axis=1) == 10).all()
    assert counts[200, 2] == 0, "a weight of 0 gives no sample"
    assert np.abs(counts[499] - counts[400] - 990 * weights[-1]).max() <= 1.5, "the last weights hold on"


@pytest.mark.parametrize("mix", ["sample", "batch"])
def test_places_are_each_sources_own_stream_without_gaps(mix: Any) -> None:
    mixed = Mixture([0.5, 0.2, 0.3], 12, seed=3, mix=mix)
    found, places = mixed.locate(np.arange(1200))
    for source in range(3):
        assert (places[found == source] == np.arange((found == source).sum())).all(), "in order, each once"
    batches = found.reshape(100, 12)
    if mix == "batch":
        assert (batches == batches[:, :1]).all()
    else:
        assert all(set(batch) == {0, 1, 2} for batch in batches.tolist())
        assert len({tuple(batch) for batch in batches.tolist()}) > 90, "spread anew over every batch"
    scattered = np.random.default_rng(0).permutation(1200)
    again = Mixture([0.5, 0.2, 0.3], 12, seed=3, mix=mix).locate(scattered)
    assert (again[0] == found[scattered]).all() and (again[1] == places[scattered]).all()


def test_weights_by_samples_tokens_and_temperature() -> None:
    sizes = {"a": 900, "b": 100}
    assert shares(sources(a=None, b=None), sizes, CLOCK).tolist() == [0.9, 0.1]
    assert shares(sources(a=1, b=3), sizes, CLOCK).tolist() == [0.25, 0.75]
    roots = np.sqrt([0.9, 0.1])
    warm = shares(sources(a=None, b=None), sizes, CLOCK, temperature=2.0)
    assert warm == pytest.approx(roots / roots.sum())
    tokens = {"a": 200.0, "b": 50.0}
    by_tokens = shares(sources(a=1, b=1), sizes, CLOCK, weigh_by="tokens", tokens=tokens)
    assert by_tokens == pytest.approx([0.2, 0.8]), "200 x 0.2 tokens are as many as 50 x 0.8"
    by_size = shares(sources(a=None, b=None), sizes, CLOCK, weigh_by="tokens", tokens=tokens)
    assert by_size.tolist() == pytest.approx([0.9, 0.1]), "by size, all samples of all sources count alike"


def test_weights_may_follow_a_schedule() -> None:
    fade = Schedule(start=1.0, end=0.0, shape="linear")
    late = Schedule(start=1.0, shape="constant", frozen=Duration(20))
    table = shares(sources(a=fade, b=late, c=0.5), {"a": 1, "b": 1, "c": 1}, CLOCK)
    assert table.shape == (50, 3) and table.sum(axis=1) == pytest.approx(np.ones(50))
    for step in (0, 19, 20, 49):
        weights = np.array([fade.at(step, CLOCK), late.at(step, CLOCK), 0.5])
        assert table[step] == pytest.approx(weights / weights.sum())


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("frozen", [0, 3])
def test_values_of_a_schedule_are_those_of_its_steps(shape: Any, warmup: int, frozen: int) -> None:
    schedule = Schedule(
        start=2.0, end=0.5, shape=shape, warmup=Duration(warmup), warmup_from=0.1, frozen=Duration(frozen)
    )
    assert schedule.values(60, CLOCK) == pytest.approx([schedule.at(step, CLOCK) for step in range(60)], abs=1e-15)
    short = Schedule(start=1.0, end=0.0, length=Duration(20, "%"))
    assert short.values(50, CLOCK) == pytest.approx([short.at(step, CLOCK) for step in range(50)], abs=1e-15)


def data(make_shards: MakeShards, tmp_path: Path, **settings: Any) -> Data:
    """A (21 samples), b (10 samples) and what the settings say, read as a recipe would be."""
    for name, number in (("a", 21), ("b", 10)):
        if not (tmp_path / name).exists():
            make_shards(number, per_shard=4, name=name)
    plain = {name: {"shards": [str(tmp_path / name)]} | settings.pop(name, {}) for name in ("a", "b")}
    return config.from_plain(Data, {"sources": plain, "shuffle_window": 6} | settings)


def stream_of(described: Data, batch: int = 8, seed: int = 1) -> Stream:
    return build_stream(described, open_sources(described), seed=seed, global_batch=batch, clock=CLOCK)


def test_every_source_has_its_own_epochs_and_order(make_shards: MakeShards, tmp_path: Path) -> None:
    stream = stream_of(data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 3}))
    assert stream.names == ("a", "b") and stream.num_samples == 31
    located = stream.locate(np.arange(320))
    assert stream.consumed(320) == {"a": 80, "b": 240}
    assert stream.metrics(320) == {"data/epoch/a": 80 / 21, "data/epoch/b": 24.0}
    for source, size in ((0, 21), (1, 10)):
        rows = located.sources == source
        ids = located.ids[rows][: rows.sum() // size * size].reshape(-1, size)
        assert all(len(set(epoch)) == size for epoch in ids.tolist()), "each sample once per epoch of its source"
        assert (located.epochs[rows] == np.arange(rows.sum()) // size).all()
    assert not set(located.ids[located.sources == 0]) & set(located.ids[located.sources == 1])


def test_a_further_source_does_not_reshuffle_the_others(make_shards: MakeShards, tmp_path: Path) -> None:
    two = stream_of(data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 1}))
    make_shards(9, name="0-first-by-name")
    described = data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 1})
    further = mixture.Config(shards=(str(tmp_path / "0-first-by-name"),), weight=constant(1))
    three = stream_of(config.from_plain(Data, config.to_plain(described)))
    assert three.fingerprint == two.fingerprint
    three = stream_of(Data(sources={**described.sources, "0-first-by-name": further}, shuffle_window=6))
    before, after = two.locate(np.arange(160)), three.locate(np.arange(240))
    for source, name in enumerate(two.names):
        old, new = before.sources == source, after.sources == three.names.index(name)
        number = min(old.sum(), new.sum())
        assert number >= 70
        for field in ("epochs", "ids", "shards", "indices"):
            assert (getattr(before, field)[old][:number] == getattr(after, field)[new][:number]).all()
    changes = three.changes(two.fingerprint)
    assert any(line.startswith("shards of 0-first-by-name: not there then") for line in changes)
    assert any(line.startswith("share of a: 0.5 then, 0.333333 now") for line in changes)


def test_equal_samples_of_two_sources_get_different_draws(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(10, name="a"), make_shards(10, name="b")
    stream = stream_of(data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 1}))
    located = stream.locate(np.arange(20))
    draws = stream.draws(located).uniform("crop", 2)
    assert len(np.unique(draws, axis=0)) == 20


@pytest.mark.parametrize("mix", ["sample", "batch"])
def test_a_mixture_is_as_exact_as_one_source(
    make_shards: MakeShards, tmp_path: Path, decode: Any, pipeline: Any, mix: str
) -> None:
    described = data(make_shards, tmp_path, a={"weight": {"start": 1.0, "end": 0.2}}, b={"weight": 0.4}, mix=mix)

    def batches(begin: int, end: int, world: int, workers: int) -> list[list[tuple[Any, ...]]]:
        """Per step, what all ranks got: rows in the order of the whole batch."""
        ranks = []
        for rank in range(world):
            loader = build_loader(
                stream_of(described), pipeline(decode), batch_size=8 // world, global_batch=8, start=8 * begin,
                samples=8 * (end - begin), rank=rank, world_size=world, workers=workers, timeout=30.0,
            )  # fmt: skip
            with loader:
                ranks.append([_rows(batch) for batch in loader])
        return [[row for part in parts for row in part] for parts in zip(*ranks, strict=True)]

    whole = batches(0, 12, world=1, workers=0)
    assert len(whole) == 12 and all(len(step) == 8 for step in whole)
    pieces = batches(0, 4, 2, 1) + batches(4, 7, 1, 2) + batches(7, 12, 4, 0)
    assert pieces == whole


def _rows(batch: Any) -> list[tuple[Any, ...]]:
    views = batch.views["global"].data.reshape(2, len(batch.keys), -1)
    return [
        (key, int(label), views[:, row].flatten().tolist(), batch.masks["global", "masking"].masked[row].tolist())
        for row, (key, label) in enumerate(zip(batch.keys, batch.labels, strict=True))
    ]


def test_sources_may_have_pipelines_of_their_own(
    make_shards: MakeShards, tmp_path: Path, decode: Any, pipeline: Any
) -> None:
    def marked(raw: dict[str, Any]) -> dict[str, Any]:
        return decode(raw) | {"label": 77}

    described = data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 1}, mix="batch")
    pipelines = {"a": pipeline(decode), "b": pipeline(marked)}
    settings = {"batch_size": 8, "global_batch": 8, "samples": 64}
    batches = list(build_loader(stream_of(described), pipelines, **settings))
    kinds = [set(batch.labels.tolist()) for batch in batches]
    assert sorted(kind == {77} for kind in kinds) == [False] * 4 + [True] * 4
    assert all(kind == {77} or 77 not in kind for kind in kinds)
    with pytest.raises(UserError, match=r"need data\.mix: batch"):
        build_loader(stream_of(data(make_shards, tmp_path)), pipelines, **settings)
    with pytest.raises(UserError, match="need views for b"):
        build_loader(stream_of(described), {"a": pipeline(decode)}, **settings)


def test_a_bad_sample_is_replaced_from_its_own_source(
    make_shards: MakeShards, tmp_path: Path, decode: Any, pipeline: Any
) -> None:
    described = data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 1})
    stream = stream_of(described)
    for source, name in enumerate(stream.names):
        drawn = [stream.substitute(position, source, attempt) for position in range(40) for attempt in range(4)]
        keys = {(int(found.epochs[0]), int(found.ids[0])) for found in drawn}
        raws = [stream.read(source, int(found.shards[0]), int(found.indices[0])) for found in drawn]
        assert all(Path(raw["__shard__"]).parent.name == name for raw in raws)
        assert [raw["__id__"] for raw in raws] == [int(found.ids[0]) for found in drawn]
        assert {raw["__key__"] for raw in raws} == {f"s{n:05d}" for n in range(21 if name == "a" else 10)}
        assert all(epoch < 0 for epoch, _ in keys), "views of a substitute are its own"


def test_what_cannot_work_is_refused(make_shards: MakeShards, tmp_path: Path, decode: Any, pipeline: Any) -> None:
    with pytest.raises(UserError, match=r"data\.shards or data\.sources, not both"):
        Data(shards=("x.tar",), sources=sources(a=1))
    with pytest.raises(UserError, match="no plain name"):
        Data(sources=sources(**{"a/b": 1}))
    with pytest.raises(UserError, match=r"data\.temperature is 0; it must be from 0\.001"):
        Data(temperature=0.0)
    with pytest.raises(UserError, match=r"weight is -1; it must be from 0"):
        sources(a=-1)
    with pytest.raises(UserError, match="has no shards"):
        mixture.Config(shards=())
    with pytest.raises(UserError, match=r"step 0.*no source.*above 0"):
        shares(sources(a=0, b=0), {"a": 1, "b": 1}, CLOCK)
    with pytest.raises(UserError, match=r"give data\.sources\.a\.tokens_per_sample"):
        shares(sources(a=1), {"a": 1}, CLOCK, weigh_by="tokens")
    described = data(make_shards, tmp_path)
    with pytest.raises(UserError, match=r"whole global batch: 12 samples are no multiple of 8"):
        build_loader(stream_of(described), pipeline(decode), batch_size=8, global_batch=8, start=12)
    broken = Data(sources={**described.sources, "c": mixture.Config(shards=(str(tmp_path / "nowhere-*.tar"),))})
    with pytest.raises(UserError, match=r"data\.sources\.c: .*nowhere"):
        open_sources(broken)


def test_the_fingerprint_names_what_has_changed(make_shards: MakeShards, tmp_path: Path) -> None:
    kept = stream_of(data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 1})).fingerprint
    assert stream_of(data(make_shards, tmp_path, a={"weight": 2}, b={"weight": 2}), batch=16).changes(kept) == []
    other = stream_of(data(make_shards, tmp_path, a={"weight": 1}, b={"weight": 3}, shuffle_window=7), seed=2)
    named = {line.split(": ")[0] for line in other.changes(kept)}
    assert named == {"share of a", "share of b", "data.shuffle_window", "seed"}
    assert open_shards(tmp_path / "a").fingerprint == kept["shards of a"]
    for settings in ({"mix": "batch"}, {"a": {"weight": {"start": 1, "end": 0}}}):
        scheduled = data(make_shards, tmp_path, **settings)
        changes = stream_of(scheduled, batch=16).changes(stream_of(scheduled).fingerprint)
        assert changes == ["train.batch_size: 8 then, 16 now"], "here the batch size decides what was read"
