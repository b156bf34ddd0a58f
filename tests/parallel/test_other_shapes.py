"""A run that goes on with another number of processes, and with another way to share the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foundation.checkpoints import checkpoint
from foundation.zoo.export import export_checkpoint
from foundation.zoo.load import load_encoder

ManyRuns = Callable[..., list[list[int]]]
COMMON = (
    "train.length=20 steps",
    "train.batch_size=12",
    "checkpoints.every=2 steps",
    "data.workers=0",
    "encoder.drop_path=0",
)
LEGS = (
    (2, 4, "fsdp", ""), (1, 8, "ddp", ""), (4, 12, "hsdp", "parallel.shard=2"), (2, 16, "ddp", ""), (3, 20, "fsdp", ""),
)  # fmt: skip
"""Processes, step at which they stop, and how the weights are shared; 27 numbers do not divide among 2, 3 or 4."""


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.fault(12, "a run goes on with 2, 1, 4, 2 and 3 processes, sharded (FSDP2, HSDP), whole and replicated")
def test_a_run_goes_on_in_any_shape(many_runs: ManyRuns, tiny_recipe_file: Path, tmp_path: Path, happened: Any) -> None:
    alone, moved, log = tmp_path / "alone", tmp_path / "moved", str(tmp_path / "log")
    words = ["pretrain", str(tiny_recipe_file), *COMMON]
    plan: list[list[Any]] = [[1, [*words, "--run", str(alone)], log]]
    for count, stop, data, more in LEGS:
        settings = [f"train.stop_after={stop} steps", f"parallel.data={data}", *([more] if more else [])]
        plan.append([count, [*words, *settings, "--run", str(moved)], log])
    codes = many_runs(plan)
    assert all(code == 0 for leg in codes for code in leg), (tmp_path / "log").read_text()[-3000:]
    assert losses(moved) == pytest.approx(losses(alone), rel=2e-5) and len(losses(moved)) == 20
    newest, skipped = checkpoint.newest(moved / "checkpoints")
    assert newest is not None and not skipped and len(checkpoint.manifest_of(newest)["parts"]["student"]) == 3
    happened("the losses of all steps are those of one process (relative difference below 2e-5)")

    one, other = checkpoint.read(newest)[0], checkpoint.read(alone / "checkpoints" / newest.name)[0]
    assert one.keys() == other.keys()
    for name in one.keys() - {"random"}:
        assert one[name].keys() == other[name].keys()
        for key, tensor in one[name].items():
            torch.testing.assert_close(tensor, other[name][key], rtol=1e-3, atol=1e-5, msg=f"{name} {key}")

    exported = load_file(moved / "export" / "teacher.safetensors")
    assert exported.keys() == load_file(alone / "export" / "teacher.safetensors").keys()
    for key, tensor in exported.items():
        assert torch.equal(tensor, one["teacher"][f"encoder.{key}"])
    (again,) = [path for path in export_checkpoint(newest, tmp_path / "again") if path.stem == "teacher"]
    assert again.read_bytes() == (moved / "export" / "teacher.safetensors").read_bytes()
    assert load_encoder(newest).sha256 is not None and load_encoder(moved).step == 20
