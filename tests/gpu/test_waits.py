"""No step of a run waits for the GPU: CUDA itself refuses (``tests/run/test_waits.py`` counts on a CPU)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from foundation.cli import main
from foundation.engine.feed import Feed
from foundation.measure.parity import make_shards
from foundation.run.trainer import Trainer

pytestmark = pytest.mark.gpu
FIRST = 3  # steps that allocate, choose kernels and build what is built once
RUNS = {"quickstart": "letters", "quickstart-points": "wires", "quickstart-imu": "motions", "quickstart-audio": "calls"}


@contextmanager
def waits_are(mode: str | int) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("further", [(), ("guard.when_spike=skip", "train.accumulate=2")], ids=["plain", "spikes"])
def test_no_step_waits_for_the_gpu(
    name: str, further: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard, optimiser, average, figures of a logged step and the copy of the next batch included."""
    step, fetch, watched = Trainer._step, Feed._fetch, []

    def refusing(trainer: Trainer) -> dict[str, float] | None:
        if trainer.progress.step < FIRST:
            return step(trainer)
        watched.append(trainer.progress.step)
        with waits_are("error"):
            return step(trainer)

    def fetched(feed: Feed):  # pinning a batch for the first time may ask the driver
        with waits_are("default"):
            return fetch(feed)

    monkeypatch.setattr(Trainer, "_step", refusing)
    monkeypatch.setattr(Feed, "_fetch", fetched)
    make_shards(RUNS[name], tmp_path / "shards", 32)
    words = [
        f"data.shards=[{tmp_path}/shards/train-*.tar]", "data.workers=0", "train.device=cuda", "train.batch_size=8",
        "train.length=8 steps", "train.log_every=2", "guard.collapse.every=1000", "checkpoints.every=1000 steps",
    ]  # fmt: skip
    assert main(["pretrain", name, *words, *further, "--run", str(tmp_path / "run")]) == 0
    assert watched == [*range(FIRST, 8)]


def test_a_wait_is_refused() -> None:
    value = torch.ones((), device="cuda")
    with waits_are("error"), pytest.raises(RuntimeError, match="synchroniz"):
        float(value)
