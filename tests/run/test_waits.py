"""No step waits for the device: counted on a CPU by what a GPU would have to be waited for; ``tests/gpu`` asks CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foundation.cli import main
from foundation.engine.feed import Feed
from foundation.engine.optimizer import Optimizer
from foundation.engine.reading import Reading
from foundation.objectives.whitening import Whitening
from foundation.plugins import resolve
from foundation.run import build
from foundation.run.trainer import Trainer
from foundation.types import Batch
from tests.frozen.runs import load, settings, shards
from tests.waits import Waits, allowed, counted

FROZEN = load()
QUICK = {"quickstart-imu", "quickstart-points", "cifar10-poa-nano", "utd-comodo-nano"}
QUICK |= {"utd-depth-vjepa2-nano"}
FIRST = 2  # what is built once, at the first steps, may wait


@pytest.fixture
def waits_of_steps(monkeypatch) -> Counter[str]:
    """Waits in the steps of a run from the third on."""
    found: Counter[str] = Counter()
    step = Trainer._step

    def watched(trainer: Trainer):
        if trainer.progress.of_stage < FIRST:
            return step(trainer)
        with counted() as waits, pytest.MonkeyPatch.context() as patch:
            _allow(patch, waits)
            agreed = step(trainer)
        found.update(waits.found)
        return agreed

    monkeypatch.setattr(Trainer, "_step", watched)
    return found


def _allow(patch: pytest.MonkeyPatch, waits: Waits) -> None:
    """What is done on the host by design."""
    patch.setattr(Feed, "_fetch", allowed(waits, Feed._fetch))  # the loader; here its workers are in this process
    patch.setattr(Feed, "masked", allowed(waits, Feed.masked))  # of batches that are on the host
    patch.setattr(Reading, "get", allowed(waits, Reading.get))  # of the step before, behind an event
    patch.setattr(Optimizer, "_scale", staticmethod(allowed(waits, Optimizer._scale)))  # asks factors on a CPU alone
    patch.setattr(Whitening, "_renew", allowed(waits, Whitening._renew))  # a dozen times in a run
    patch.setattr(Trainer, "_figures", allowed(waits, Trainer._figures))  # counts of the host, in logged steps alone


@pytest.fixture
def pretrain(shared_data, tmp_path: Path) -> Callable[[str], None]:
    """``pretrain("quickstart")``: four steps of a run of ``tests/frozen``."""

    def run(name: str) -> None:
        data = shards(FROZEN["data"][FROZEN["runs"][name]["data"]], shared_data, tmp_path / "data")
        words = [f"data.shards=['{data}']", *settings(FROZEN, name), "guard.collapse.every=1000"]
        words.append("train.stop_after=4 steps")
        assert main(["pretrain", FROZEN["runs"][name]["recipe"], *words, "--run", str(tmp_path / "run")]) == 0

    return run


def _listed(found: Counter[str]) -> str:
    return "\n".join(f"{count} x {where}" for where, count in found.most_common())


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FROZEN["runs"]])
def test_no_step_waits_for_the_device(name, pretrain, waits_of_steps):
    pretrain(name)
    assert not waits_of_steps, _listed(waits_of_steps)


@pytest.mark.parametrize("modality", ["image", *(pytest.param(m, marks=pytest.mark.slow) for m in ("audio", "video"))])
def test_views_that_the_device_makes_do_not_wait_either(modality, pretrain, waits_of_steps, monkeypatch):
    """The half of the views that a GPU makes, made in the step as it is there."""
    config = resolve("foundation.modalities.{name}.views", modality).Config
    build_views, pipeline, finish = config.build, build.pipeline, Feed._complete
    finished: list[bool] = []

    def completed(feed: Feed, batch: Batch) -> Batch:
        finished.append(batch.pending is not None)
        return finish(feed, batch)

    monkeypatch.setattr(config, "build", lambda own, device_is_accelerator=True: build_views(own, True))
    monkeypatch.setattr(build, "pipeline", lambda recipe, views, finish_in_worker: pipeline(recipe, views, False))
    monkeypatch.setattr(Feed, "_complete", completed)
    pretrain("quickstart" if modality == "image" else f"quickstart-{modality}")
    assert finished == [True] * 4
    assert not waits_of_steps, _listed(waits_of_steps)


def test_what_waits_is_seen():
    values, chosen = torch.arange(6.0), torch.arange(6) > 2
    with counted() as waits:
        values.sum().item(), float(values[0]), bool(chosen.any()), values.tolist(), values.numpy(), values.cpu()
        values[chosen], chosen.nonzero(), torch.equal(values, values), torch.tensor([1.0])
        torch.repeat_interleave(values, chosen.long())
        with waits.free():
            values.sum().item()
        torch.where(chosen, values, 0.0), values.index_select(0, torch.zeros(1, dtype=torch.int64))
    assert waits.found.total() == 11, waits.found
