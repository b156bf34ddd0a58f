"""The feed: the loader's own batches, complete, on their device, with the time they took."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import open_shards, write_shards
from foundation.data.sources import single
from foundation.data.stream import build_loader
from foundation.engine.feed import Feed, Masked
from foundation.errors import UserError
from foundation.masks import block
from foundation.masks.rule import makers
from foundation.modalities.image import decode, tokenizer, views

CPU = torch.device("cpu")


def picture(number: int) -> bytes:
    import io

    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``loader(in_worker=False)`` -> (loader of 6 batches of 4 photographs, their view maker)."""
    write_shards([{"__key__": f"s{n}", "png": picture(n)} for n in range(24)], tmp_path, "train")
    crop = views.ViewConfig(size=32)
    made: list[Any] = []

    def make(in_worker: bool = True, decoder: Any = None, **settings: Any) -> tuple[Any, Any]:
        maker = views.Config(global_views=crop, local_views=replace(crop, count=0)).build(
            device_is_accelerator=not in_worker
        )
        pipeline = TrainingPipeline(
            decode=decoder or decode.Config().build(),
            views=maker,
            masking=makers({"masking": block.Config()}),
            coordinates=tokenizer.Config(patch_size=8).coordinates,
            finish_in_worker=in_worker,
        )
        stream = single(open_shards(tmp_path), seed=0, window=10)
        made.append(build_loader(stream, pipeline, batch_size=4, global_batch=4, samples=24, **settings))
        return made[-1], maker

    yield make
    for each in made:
        each.close()


def test_on_a_cpu_batches_are_handed_through(loader: Callable[..., Any]) -> None:
    plain, _ = loader()
    expected = list(plain)
    with Feed(loader()[0], CPU) as feed:
        batches = []
        for batch in feed:
            feed.prefetch()
            batches.append(batch)
    assert [b.keys for b in batches] == [b.keys for b in expected] and len(batches) == 6
    assert all(
        torch.equal(a.views["global"].data, b.views["global"].data) for a, b in zip(batches, expected, strict=True)
    )


def test_what_is_masked_in_the_batches_ahead_is_told_without_taking_them(loader: Callable[..., Any]) -> None:
    expected = list(loader()[0])
    rows = [int(batch.masks["global", "masking"].masked.any(dim=1).sum()) for batch in expected]
    tokens = [len(batch.masks["global", "masking"].indices) for batch in expected]
    with Feed(loader()[0], CPU) as feed:
        assert feed.masked(2) == {("global", "masking"): Masked(sum(rows[:2]), sum(tokens[:2]))}
        assert next(feed).keys == expected[0].keys
        assert feed.masked(3) == {("global", "masking"): Masked(sum(rows[1:4]), sum(tokens[1:4]))}
        assert [batch.keys for batch in feed] == [batch.keys for batch in expected[1:]]


def test_workers_that_start_from_nothing_make_the_same_batches(loader: Callable[..., Any]) -> None:
    """As on a GPU, where a forked worker would inherit the driver's state."""
    expected = list(loader()[0])
    batches = list(loader(workers=1, context="spawn")[0])
    assert [b.keys for b in batches] == [b.keys for b in expected] and len(batches) == 6
    assert all(
        torch.equal(a.views["global"].data, b.views["global"].data) for a, b in zip(batches, expected, strict=True)
    )


def test_the_device_half_of_the_views_is_done(loader: Callable[..., Any]) -> None:
    pending, maker = loader(in_worker=False)
    whole = list(pending)
    again, _ = loader(in_worker=False)
    batches = list(Feed(again, CPU, maker.finish))
    assert all(not batch.views and batch.pending is not None for batch in whole)
    for before, batch in zip(whole, batches, strict=True):
        assert batch.pending is None
        assert torch.equal(batch.views["global"].data, maker.finish(before.pending)["global"].data)


def test_waiting_is_measured_and_working_is_not(loader: Callable[..., Any]) -> None:
    def slow(raw: Any) -> Any:
        time.sleep(0.02)
        return decode.decode(raw)

    feed = Feed(loader(decoder=slow)[0], CPU)
    for _ in range(3):
        next(feed)
    figures = feed.summary()
    assert figures["data/wait_fraction"] > 0.9 and figures["time/seconds"] >= 3 * 4 * 0.02
    assert 0 < figures["throughput/samples_per_second"] <= 50
    time.sleep(0.2)
    idle = feed.summary()
    assert idle["data/wait_fraction"] == idle["throughput/samples_per_second"] == 0.0
    assert idle["time/seconds"] > figures["time/seconds"]


def test_closing_ends_the_workers_and_an_error_keeps_its_type(loader: Callable[..., Any]) -> None:
    def refuses(raw: Any) -> Any:
        raise UserError("decoder: pip install something")

    feed = Feed(loader(workers=1, timeout=30.0)[0], CPU)
    next(feed)
    (worker,) = feed.loader.worker_pids()
    os.kill(worker, 0)
    feed.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert list(feed) == []
    with pytest.raises(UserError, match="pip install something"):
        next(Feed(loader(decoder=refuses)[0], CPU))


@pytest.mark.gpu
@pytest.mark.parametrize("ahead", [True, False])
def test_on_a_gpu_batches_come_over_beside_the_step(loader: Callable[..., Any], ahead: bool) -> None:
    device = torch.device("cuda", 0)
    pending, maker = loader(in_worker=False)
    expected = [maker.finish(batch.pending)["global"].data for batch in pending]
    weight = torch.randn(2048, 2048, device=device)
    feed = Feed(loader(in_worker=False, workers=2, pin_memory=True, timeout=60.0)[0], device, maker.finish)
    sums = []
    for batch in feed:
        busy = weight
        for _ in range(20):  # a step that is still running while the next batch comes
            busy = busy @ weight
        view = batch.views["global"].data
        assert view.device == device and batch.masks["global", "masking"].masked.device == device
        sums.append((view.clone(), batch.keys))
        if ahead:
            feed.prefetch()
            feed.prefetch()
    feed.close()
    assert len(sums) == 6
    for (data, _), reference in zip(sums, expected, strict=True):
        assert torch.allclose(data.cpu(), reference, atol=0.05)
    with pytest.raises(StopIteration):
        next(feed)


@pytest.mark.gpu
def test_what_goes_wrong_ahead_is_raised_with_its_own_batch(loader: Callable[..., Any]) -> None:
    def refuses(raw: Any) -> Any:
        if raw["__id__"] >= 0 and len(seen) >= 4:
            raise UserError("no more")
        seen.append(raw["__key__"])
        return decode.decode(raw)

    seen: list[str] = []
    feed = Feed(loader(in_worker=False, decoder=refuses)[0], torch.device("cuda", 0), lambda prepared: {})
    feed.prefetch()
    first = next(feed)
    feed.prefetch()
    assert len(first.keys) == 4
    with pytest.raises(UserError, match="no more"):
        next(feed)
