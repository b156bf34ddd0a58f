"""A run on a GPU: it resumes as if it had never stopped, its checkpoints are the weights, its memory is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from foundation.checkpoints.staging import Staging
from foundation.cli import main
from foundation.measure.parity import make_shards
from foundation.measure.timing import Speed, growing, measure
from foundation.measure.waits import host_waits, launches

pytestmark = pytest.mark.gpu


@pytest.fixture
def reproducible() -> Iterator[None]:
    """Kernels that add in a fixed order, where there are such."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.deterministic = before[1]


@pytest.fixture
def losses(tmp_path: Path) -> Callable[..., list[float]]:
    """``losses("run", "train.stop_after=2 steps")``: of the steps of a run of the quickstart."""
    make_shards("letters", tmp_path / "shards", 32)
    settings = [
        f"data.shards=[{tmp_path}/shards/train-*.tar]", "train.batch_size=16", "train.length=4 steps", "data.workers=0",
        "train.log_every=1", "train.device=cuda", "encoder.drop_path=0.1", "checkpoints.every=1000 steps",
    ]  # fmt: skip

    def run(name: str, *further: str) -> list[float]:
        assert main(["pretrain", "quickstart", *settings, *further, "--run", str(tmp_path / name)]) == 0
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_and_two_steps_are_four(precision: str, losses: Callable[..., list[float]], reproducible: None) -> None:
    words = (f"train.precision={precision}",)
    whole = losses("whole", *words)
    assert len(whole) == 4 and len(set(whole)) == 4
    assert losses("whole again", *words) == whole, "the kernels of this GPU are not reproducible: nothing can be said"
    assert losses("parts", *words, "train.stop_after=2 steps") == whole[:2]
    assert losses("parts", *words) == whole


def test_staging_through_page_locked_memory_gives_the_same_numbers(device: torch.device) -> None:
    generator = torch.Generator(device).manual_seed(0)
    groups = {
        "weights": {
            "a": torch.randn(1000, 37, device=device, generator=generator),
            "b": torch.randn(3, device=device, generator=generator).bfloat16(),
            "empty": torch.empty(0, 5, device=device),
        },
        "numbers": {"step": torch.tensor(7, device=device), "host": torch.arange(5)},
    }
    staging = Staging()
    for _ in range(2):
        for tensor in groups["weights"].values():
            tensor.mul_(2)
        wanted = {name: {key: t.clone() for key, t in group.items()} for name, group in groups.items()}
        staged = staging.take(groups)
        for tensor in groups["weights"].values():
            tensor.zero_()  # training goes on
        for name, group in wanted.items():
            for key, tensor in group.items():
                assert staged[name][key].device.type == "cpu" and staged[name][key].dtype == tensor.dtype
                assert torch.equal(staged[name][key], tensor.cpu()), key
            for key, tensor in groups[name].items():
                tensor.copy_(wanted[name][key])
    assert staging._registered, "nothing is page-locked"
    staging.release()


def test_waits_and_launches_are_counted(device: torch.device) -> None:
    numbers = torch.randn(8, device=device)
    with host_waits() as none:
        numbers.add(1).mul(2)
    with host_waits() as some:
        numbers.sum().item()
        numbers.nonzero()
    assert none.count == 0 and some.count >= 2 and all("test_run.py" in place for place in some.places)
    found = launches(lambda: [numbers.add(1) for _ in range(5)])
    assert found.kernels >= 5 and found.operators >= 5


def test_time_and_memory_of_a_call(device: torch.device) -> None:
    numbers = torch.randn(2048, 2048, device=device)
    held: list[torch.Tensor] = []

    def call() -> None:
        held[:] = [numbers @ numbers]

    speed = measure(call, device, rounds=3)
    assert 0 < speed.fastest <= speed.seconds <= speed.slowest
    assert speed.peak_bytes is not None and speed.peak_bytes >= 2 * numbers.numel() * 4


def test_a_batch_that_does_not_fit_is_found_and_its_memory_is_free_again(device: torch.device) -> None:
    total = torch.cuda.get_device_properties(device).total_memory

    def attempt(size: int) -> Speed:
        block = torch.empty(size, dtype=torch.uint8, device=device)
        return Speed(1.0, 1.0, 1.0, block.numel())

    before = torch.cuda.memory_allocated(device)
    found = list(growing(total // 8, 16 * total, attempt, lambda: None))
    assert found[0][1] is not None and found[-1][1] is None
    assert torch.cuda.memory_allocated(device) == before
