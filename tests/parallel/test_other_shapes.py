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
from tests.run.test_guard import PLUGIN

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


@pytest.mark.slow
@pytest.mark.fault(6, "a checkpoint with NaN in the rows that one of two processes (FSDP2) reads")
def test_what_one_process_reads_stops_all_or_none(
    many_runs: ManyRuns, tiny_recipe_file: Path, tmp_path: Path, happened: Any
) -> None:
    """Before that: an export on the way, gathered tensor by tensor, is that of the checkpoint of its step."""
    run, log = tmp_path / "run", tmp_path / "log"
    words = ["pretrain", str(tiny_recipe_file), "train.length=8 steps", "checkpoints.every=2 steps", "data.workers=0"]
    words += ["parallel.data=fsdp", "jobs=[{name: export, every: 4 steps}]", "--run", str(run)]
    first = [*words, "train.stop_after=4 steps"]
    assert many_runs([[2, first, str(log)]]) == [[0, 0]], log.read_text()
    on_the_way = run / "export" / "step-00000004" / "teacher.safetensors"
    assert on_the_way.read_bytes() == (run / "export" / "teacher.safetensors").read_bytes()
    heads = "teacher.heads.safetensors"
    assert on_the_way.with_name(heads).read_bytes() == (run / "export" / heads).read_bytes()

    newest, _ = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    tensors, numbers = checkpoint.read(newest)
    key = next(name for name, tensor in tensors["student"].items() if tensor.ndim == 2 and not len(tensor) % 2)
    tensors["student"][key][-1, -1] = float("nan")  # of process 1
    checkpoint.remove(newest)
    checkpoint.write(run / "checkpoints", 4, tensors, numbers)
    log.unlink()
    assert many_runs([[2, words, str(log)]]) == [[2, 2]], log.read_text()
    assert (
        f"1 of the {tensors['student'][key].numel() // 2:,} numbers of {key!r} are NaN or infinite" in log.read_text()
    )
    happened("both end with exit code 2 and name the tensor; nothing is changed")


@pytest.mark.slow
def test_a_run_with_shards_goes_back_to_its_checkpoint(
    many_runs: ManyRuns, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "third_party_faults").mkdir()
    (tmp_path / "third_party_faults" / "faulty.py").write_text(PLUGIN)
    objective = "{name: third_party_faults.faulty, positions: [32], what: nan}"
    words = ["pretrain", str(tiny_recipe_file), f"objectives=[{{name: dino}}, {objective}]", "masking=null"]
    words += ["guard.when_not_finite=rewind", "checkpoints.every=3 steps", "encoder.drop_path=0"]
    words += ["--allow-plugins", "third_party_faults"]
    runs = {data: tmp_path / data for data in ("fsdp", "ddp")}
    plan = [
        [2, [*words, f"parallel.data={data}", "--run", str(run)], str(tmp_path / "log")] for data, run in runs.items()
    ]
    assert many_runs(plan, tmp_path) == [[0, 0], [0, 0]], (tmp_path / "log").read_text()[-3000:]
    assert losses(runs["fsdp"]) == pytest.approx(losses(runs["ddp"]), rel=2e-5)
    newest, _ = checkpoint.newest(runs["fsdp"] / "checkpoints")
    assert newest is not None and checkpoint.read(newest, ())[1]["position"] == 80, "it went back to step 3"
