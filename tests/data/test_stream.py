"""The loader: same batches whatever the workers, the ranks and the place where it starts."""

from __future__ import annotations

import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation import stacks
from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import open_shards
from foundation.data.stream import LoaderError, build_eval_loader, build_loader, iterate_samples
from foundation.errors import DataBudgetError, UserError
from foundation.types import Batch

Decode = Callable[[dict[str, Any]], dict[str, Any]]
MakeShards = Callable[..., Path]
MakePipeline = Callable[..., TrainingPipeline]


@pytest.fixture
def load(make_shards: MakeShards, decode: Decode, pipeline: MakePipeline) -> Iterator[Callable[..., list[Batch]]]:
    """``load(workers=2, ...)``: all batches of a loader over 30 samples in shards of 7, micro-batches of 4."""
    shards = open_shards(make_shards(30, per_shard=7))

    def run(**settings: Any) -> list[Batch]:
        settings = {"batch_size": 4, "seed": 5, "window": 10, "samples": 80, "timeout": 30.0} | settings
        settings.setdefault(
            "global_batch", settings["batch_size"] * settings.get("accumulate", 1) * settings.get("world_size", 1)
        )
        with build_loader(shards, pipeline(decode), **settings) as loader:
            return list(loader)

    yield run
    shards.close()


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert (a.keys, a.position, a.size, a.skipped) == (b.keys, b.position, b.size, b.skipped)
        assert torch.equal(a.views["global"].data, b.views["global"].data)
        assert torch.equal(a.masks["global", "masking"].masked, b.masks["global", "masking"].masked)
        assert torch.equal(a.labels, b.labels)


def rows(batches: list[Batch]) -> dict[int, tuple[str, list[float], list[int]]]:
    """Every sample of the stream by position: key, its views, its mask."""
    result = {}
    for batch in batches:
        views = batch.views["global"].data.reshape(2, len(batch.keys), -1)
        for row, key in enumerate(batch.keys):
            mask = batch.masks["global", "masking"].masked[row].tolist()
            result[batch.position + row] = (key, views[:, row].flatten().tolist(), mask)
    return result


def test_epochs_are_permutations_across_batches(load: Callable[..., list[Batch]]) -> None:
    keys = [key for batch in load(samples=60, batch_size=4) for key in batch.keys]
    assert len(keys) == 60
    assert len(set(keys[:30])) == len(set(keys[30:])) == 30 and keys[:30] != keys[30:]


@pytest.mark.fault(13, "another number of workers: 0, then 1, 2 and 6 over 5 shards")
@pytest.mark.filterwarnings("ignore:.*suggested max number of worker")
@pytest.mark.parametrize("workers", [1, 2, 6])
def test_workers_do_not_matter(load: Callable[..., list[Batch]], workers: int, happened: Callable[[str], None]) -> None:
    assert_same(load(workers=0), load(workers=workers))  # 6 are more than there are shards
    happened("the same samples, views and masks, byte for byte")


@pytest.mark.parametrize("consumed", [4, 28, 32, 64])
def test_resuming_anywhere_continues(load: Callable[..., list[Batch]], consumed: int) -> None:
    whole = load(samples=80)
    assert_same(whole[consumed // 4 :], load(start=consumed, samples=80 - consumed, workers=1))


def test_two_ranks_make_one_stream(load: Callable[..., list[Batch]]) -> None:
    one = load(batch_size=8)
    two = [load(batch_size=4, world_size=2, rank=rank) for rank in range(2)]
    assert rows(one) == rows(two[0]) | rows(two[1])
    accumulated = [load(batch_size=2, world_size=2, accumulate=2, rank=rank) for rank in range(2)]
    assert rows(one) == rows(accumulated[0]) | rows(accumulated[1])
    assert len(accumulated[0]) == 2 * len(one)


def test_masks_know_place_group_and_step(load: Callable[..., list[Batch]]) -> None:
    batches = load(batch_size=4, world_size=2, rank=1, start=16, samples=16)
    assert batches[1].masks["global", "masking"].masked[:4].tolist() == [[4 + row, 8, 3, 16] for row in range(4)]
    assert batches[0].position == 20


def test_the_global_generator_is_untouched(load: Callable[..., list[Batch]]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(workers=2)
    load(workers=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_sample_takes_the_place_of_a_bad_one(
    make_shards: MakeShards, decode: Decode, pipeline: MakePipeline
) -> None:
    good = open_shards(make_shards(30, name="good"))
    folder = make_shards(30, name="bad")
    break_samples(folder / "train-000001.tar", {"s00008", "s00011"})
    bad = open_shards(str(folder / "train-*.tar"))
    settings = {"batch_size": 6, "global_batch": 6, "seed": 0, "window": 10, "samples": 30}
    expected = rows(list(build_loader(good, pipeline(decode), **settings)))  # type: ignore[arg-type]
    batches = list(build_loader(bad, pipeline(decode), workers=2, **settings))  # type: ignore[arg-type]
    assert_same(batches, list(build_loader(bad, pipeline(decode), **settings)))  # type: ignore[arg-type]
    assert sum(batch.skipped.get("decode", 0) for batch in batches) == 3  # one was drawn in the other's place, too
    assert all(batch.size == len(batch.keys) == 6 for batch in batches)
    messages = [message for batch in batches for message in batch.messages]
    assert {message.split(": ")[1] for message in messages} == {"s00008", "s00011"}
    assert all("train-000001.tar" in message for message in messages)
    seen = {position: row for batch in batches for position, row in rows([batch]).items()}
    places = [position for position, (key, _, _) in expected.items() if key in ("s00008", "s00011")]
    assert len(places) == 2
    for position, row in expected.items():
        if position not in places:
            assert seen[position] == row
            continue
        key, views, mask = seen[position]
        assert key not in ("s00008", "s00011") and mask == row[2]
        assert views not in [other[1] for place, other in seen.items() if place != position]


def break_samples(path: Path, keys: set[str]) -> None:
    """Overwrite the pictures of some samples with zeros, in place."""
    with tarfile.open(path) as archive:
        places = [(m.offset_data, m.size) for m in archive if m.name.removesuffix(".png") in keys]
    assert len(places) == len(keys)
    with path.open("r+b") as file:
        for offset, size in places:
            file.seek(offset)
            file.write(bytes(size))


@pytest.mark.fault(26, "every sample of every shard is damaged")
def test_data_without_a_good_sample_end_the_run(
    make_shards: MakeShards, decode: Decode, pipeline: MakePipeline, happened: Callable[[str], None]
) -> None:
    folder = make_shards(4)
    break_samples(folder / "train-000000.tar", {f"s{n:05d}" for n in range(4)})
    shards = open_shards(folder)
    settings = {"batch_size": 4, "global_batch": 4, "seed": 0, "window": 4, "samples": None, "workers": 1}
    loader = build_loader(shards, pipeline(decode), **settings)  # type: ignore[arg-type]
    with loader, pytest.raises(DataBudgetError, match=r"train-000000.tar: sample 's0000\d': decode") as caught:
        list(loader)
    assert caught.value.exit_code == 3 and "16 samples drawn in its place are bad too" in str(caught.value)
    happened("17 samples tried for the first place, then exit 3, naming shard and key; the loop ended")
    (evaluation,) = build_eval_loader(shards, lambda samples: torch.zeros(len(samples)), decode, 8)
    assert (evaluation.keys, evaluation.skipped, len(evaluation.labels)) == ((), {"decode": 4}, 0)


def test_a_device_may_finish_the_views(make_shards: MakeShards, decode: Decode, pipeline: MakePipeline) -> None:
    shards = open_shards(make_shards(4))
    settings = {"batch_size": 4, "global_batch": 4, "seed": 0, "window": 4, "samples": 4}
    (batch,) = build_loader(shards, pipeline(decode, finish_in_worker=False), **settings)  # type: ignore[arg-type]
    (whole,) = build_loader(shards, pipeline(decode), **settings)  # type: ignore[arg-type]
    assert not batch.views and torch.equal(
        pipeline(decode).views.finish(batch.pending)["global"].data, whole.views["global"].data
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_sample_once_in_order(make_shards: MakeShards, decode: Decode, workers: int) -> None:
    shards = open_shards(make_shards(30))

    def prepare(samples: list[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([sample["image"] for sample in samples])

    with build_eval_loader(shards, prepare, decode, 8, workers=workers) as loader:
        for _ in range(2):  # a probe reads the same shards again and again
            batches = list(loader)
            assert [len(batch.keys) for batch in batches] == [8, 8, 8, 6]
            assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(30))
            assert torch.cat([batch.labels for batch in batches]).tolist() == [n % 10 for n in range(30)]
            assert torch.cat([batch.data for batch in batches])[:, 0, 0, 0].tolist() == list(range(30))
    with build_eval_loader(shards, prepare, decode, 8, limit=11) as loader:
        assert [len(batch.keys) for batch in loader] == [8, 3]
    assert [sample["__id__"] for sample in iterate_samples(shards, decode)] == list(range(30))


def test_an_endless_loader_can_be_left(make_shards: MakeShards, decode: Decode, pipeline: MakePipeline) -> None:
    shards = open_shards(make_shards(30))
    loader = build_loader(
        shards, pipeline(decode), batch_size=4, global_batch=4, seed=0, window=9, samples=None, workers=2
    )
    keys = [batch.keys for batch, _ in zip(loader, range(40), strict=False)]
    loader.close()
    assert len(keys) == 40


def test_workers_ignore_the_signals_that_end_a_run(
    make_shards: MakeShards, decode: Decode, pipeline: MakePipeline
) -> None:
    shards = open_shards(make_shards(30))
    with build_loader(
        shards, pipeline(decode), batch_size=4, global_batch=4, seed=0, window=9, samples=120, workers=2, timeout=30
    ) as loader:
        batches = iter(loader)
        next(batches)
        next(batches)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            for process in loader.worker_pids():
                os.kill(process, number)
        assert len(list(batches)) == 28


@pytest.mark.fault(27, "SIGKILL to a loader worker")
def test_a_killed_worker_names_the_shards(
    make_shards: MakeShards, decode: Decode, pipeline: MakePipeline, happened: Callable[[str], None]
) -> None:
    shards = open_shards(make_shards(30))
    loader = build_loader(
        shards, pipeline(decode), batch_size=4, global_batch=4, seed=0, window=9, samples=None, workers=1, timeout=30
    )
    shared = Path("/dev/shm")
    with pytest.raises(LoaderError, match=r"train-00000\d\.tar") as caught:
        for number, _ in enumerate(loader):
            if number == 2:
                (worker,) = loader.worker_pids()
                if shared.is_dir():
                    (shared / f"torch_{worker}_1_0").touch()  # as of a tensor that it was about to hand over
                os.kill(worker, signal.SIGKILL)
    assert not list(shared.glob(f"torch_{worker}_*"))
    assert "data.workers" in str(caught.value)
    assert "goes on from the last checkpoint" in str(caught.value)
    happened(str(caught.value).replace(str(shards.shards[0]).rpartition("/")[0] + "/", ""))


def test_a_killed_worker_holds_no_lock_that_the_loader_needs(
    make_shards: MakeShards, decode: Decode, pipeline: MakePipeline
) -> None:
    """torch's own event has a lock, and a worker that is killed while looking at it would never give it back."""
    shards = open_shards(make_shards(30))
    with build_loader(
        shards, pipeline(decode), batch_size=4, global_batch=4, seed=0, window=9, samples=40, workers=1
    ) as loader:
        next(iter(loader))
        assert not hasattr(loader._iterator._workers_done_event, "_cond")
        workers = loader._iterator._workers
    assert [worker.exitcode for worker in workers] == [0]  # they saw the event


@pytest.mark.fault(28, "a worker that hangs while it reads a sample")
def test_a_hanging_worker_ends_the_run(
    make_shards: MakeShards, decode: Decode, pipeline: MakePipeline, happened: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv(stacks.PREFIX_VARIABLE, str(tmp_path / "rank0"))

    def hangs(raw: dict[str, Any]) -> dict[str, Any]:
        time.sleep(600)
        return decode(raw)

    shards = open_shards(make_shards(30))
    loader = build_loader(
        shards, pipeline(hangs), batch_size=4, global_batch=4, seed=0, window=9, samples=8, workers=1, timeout=1
    )
    begin = time.monotonic()
    with pytest.raises(LoaderError, match=r"no batch for \d seconds.*train-00000\d\.tar.*timeout_seconds") as caught:
        next(iter(loader))
    assert time.monotonic() - begin < 15
    (written,) = tmp_path.glob("rank0-worker-*.txt")
    assert str(written) in str(caught.value) and "in hangs" in written.read_text()
    said = str(caught.value).replace(str(shards.shards[0]).rpartition("/")[0] + "/", "")
    happened(said.replace(str(written), "rank0-worker-PID.txt"))


def test_errors_of_workers_keep_their_type(make_shards: MakeShards, pipeline: MakePipeline) -> None:
    def refuses(raw: dict[str, Any]) -> dict[str, Any]:
        raise UserError("decoder: pip install something")

    shards = open_shards(make_shards(30))
    loader = build_loader(
        shards, pipeline(refuses), batch_size=4, global_batch=4, seed=0, window=9, samples=8, workers=1
    )
    with pytest.raises(UserError, match=r"^decoder: pip install something"):
        next(iter(loader))


def test_sizes_that_do_not_fit_are_refused(load: Callable[..., list[Batch]]) -> None:
    with pytest.raises(UserError, match="12 samples is not 4 samples x 1 micro-batches x 2 processes"):
        load(global_batch=12, world_size=2)
