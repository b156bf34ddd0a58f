"""Shipped recipes in several real processes: a stop and another start change no bit, and one process gives the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.paths import recipes
from tests.stand_ins import OF_FRAMES, STAND_INS

ManyRuns = Callable[..., list[list[int]]]
BUILD = {
    "image": ("digits", "--copies", "1"),
    "audio": ("calls", "--train", "12", "--test", "4"),
    "points": ("wires", "--train", "12", "--test", "4", "--points", "2048"),
    "video": ("camera_moves", "--train", "12", "--test", "4"),
    "imu": ("motions", "--train", "12", "--test", "4"),
    "paired": ("synthetic", "--train", "12", "--test", "4"),
    "sounding": ("singing_balls", "--train", "12", "--test", "6"),
}
DATA = {"audio-visual": "sounding", "audio-visual-nano": "sounding"}
"""Recipes that need other data than their modality's."""
GROUPS = ("quickstart", "fsdd", "hapt shapes16 esc10", "utd audio-visual-nano", "cifar10", "others")
"""What small recipes begin with; the others are made small."""
TOO_LARGE = (
    "dinov2-reg", "dinov2-vitl14", "discovr", "gpfm", "ph-reg", "poa-resnet", "poa-swin", "poa-vitb", "poa-vitl",
    "video-dino-ibot", "vjepa2",
)  # fmt: skip
"""Their views alone take minutes on a small machine; poa-vits has those of poa-vitb and poa-vitl."""
OWN_TESTS = (
    "cifar10-g2sd-nano", "cifar10-gram-nano", "cifar10-ph-reg-nano", "dinov3-gram",
    "g2sd-vits", "hapt-cluster-dino-nano", "utd-depth-vjepa2-nano",
)  # fmt: skip
"""Stages and jobs have lengths of their own: tests/run/test_g2sd.py, test_experts.py, test_ph_reg.py, test_vjepa2.py
and tests/jobs try these."""
MORE = dict.fromkeys(("comodo", "comodo-infonce", "comodo-l2"), (*OF_FRAMES, "views.members.imu.decode={}"))
MORE["comodo"] += ("optimizer.learning_rate.start=1e-4",)
MORE["audio-visual"] = (*OF_FRAMES, "views.members.audio.decode={}")
MORE["utd-comodo-nano"] = ("optimizer.learning_rate.start=1e-4",)
MORE["utd-comodo-infonce-nano"] = ("optimizer.learning_rate.start=1e-5",)
MORE["audio-visual-nano"] = ("optimizer.learning_rate.start=1e-5",)
"""By recipe: a teacher that needs no download, and sensors that say themselves what they measure. Four learn slowly:
their gradients between four rows are 30 to 100 long, and without a warm-up each step enlarges float32's rounding ten
times; at a learning rate of 1e-9 losses of six steps agree to 1e-7 (InfoNCE) and 5e-6 (whitening by a few rows)."""
MASKED = (
    "heads.cls.norm=batch", "masking={probability: 0.5, ratio: [0.2, 0.6], kind: span, span: 2}",
    "heads.patch={prototypes: 512, hidden: 256, bottleneck: 96, layers: 2}",
    "objectives=[{name: dino, head: cls, target: sinkhorn}, {name: ibot, head: patch, target: sinkhorn, "
    "divide_by: masked_rows}, {name: koleo, weight: 0.1}]",
)  # fmt: skip
"""Overrides for quickstart-imu: masks of another size in every row and process, BatchNorm in stem and head."""
HYBRID = ("parallel.data=hsdp", "parallel.shard=2")
LENGTH, STOP = 3, 2
SETTINGS = (
    "data.samples_per_epoch=null", "data.workers=0", "train.accumulate=1", "train.log_every=1", "probes=[]",
    "train.precision=float32", "train.device=cpu", f"train.length={LENGTH} steps", "checkpoints.every=1000 steps",
)  # fmt: skip


def smaller(recipe: dict[str, Any]) -> list[str]:
    """Overrides that make the network of a large recipe small; views, tokens, losses and schedules stay."""
    if recipe["name"].startswith("quickstart") or recipe["name"].endswith("-nano"):
        return []
    found = ["train.steps_per_epoch=10"] if "steps_per_epoch" in recipe["train"] else []
    towers = recipe["encoder"].get("towers", {})
    for place, part in [(f"encoder.towers.{k}", v) for k, v in towers.items()] or [("encoder", recipe["encoder"])]:
        if part["name"] != "vit":
            continue
        sizes = {"preset": "null", "width": 48, "depth": 1, "heads": 2}
        # With a layer scale of 1e-5 all class tokens begin alike: KoLeo then enlarges float32's rounding to 1e-3.
        sizes |= {"layer_scale": "null"} if "layer_scale" in part else {}
        found += [f"{place}.{key}={value}" for key, value in sizes.items()]
    for name, branch in recipe.get("branches", {}).items():
        found += [f"branches.{name}.{key}=null" for key in ("widths", "depths") if key in branch]
    for name, head in recipe.get("heads", {}).items():
        if head.get("name") == "decoder":
            sizes = {"width": 48, "depth": 1, "heads": 2}
        else:
            sizes = {"hidden": 64} | ({"prototypes": 64} if head["prototypes"] else {})
        found += [f"heads.{name}.{key}={value}" for key, value in sizes.items()]
    return found


def drawn_by_process(recipe: dict[str, Any]) -> list[str]:
    """Overrides that switch off what depends on who sits in the same process, by design (docs/running.md)."""
    switches = [("views", "mixup", 0), ("masking", "foreign", 0), ("encoder", "drop_path", 0)]
    found = [f"{part}.{key}={off}" for part, key, off in switches if recipe.get(part, {}).get(key)]
    found += [
        f"branches.{name}.per_rank=false" for name, one in recipe.get("branches", {}).items() if "per_rank" in one
    ]
    found += [
        f"objectives.{index}.across_processes=true"
        for index, objective in enumerate(recipe["objectives"])
        if objective.get("across_processes") is False
    ]
    return found


def short_queues(recipe: dict[str, Any]) -> list[str]:
    """Overrides for queues that are no longer than the little data."""
    return [f"objectives.{index}.queue=8" for index, one in enumerate(recipe["objectives"]) if one.get("queue")]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "checkpoints" / f"step-{LENGTH:08d}" / "MANIFEST.json").read_text())


def hashes(folder: Path) -> dict[str, str]:
    files = manifest(folder)["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def problems(
    many_runs: ManyRuns,
    out: Path,
    names: list[str],
    *overrides: str,
    processes: int = 2,
    batch: int = 4,
    hybrid: bool = False,
) -> dict[str, str]:
    """Run recipes whole, stopped and continued in several processes, and in one; what is not as it should be. With
    ``hybrid`` also in four that share the weights by two."""
    plan: list[list[Any]] = []
    reference: dict[str, str] = {}
    read = {name: yaml.safe_load(recipes()[name].read_text(encoding="utf-8")) for name in names}
    data_of = {name: DATA.get(name, recipe["views"]["name"]) for name, recipe in read.items()}
    for kind in dict.fromkeys(data_of.values()):
        data, *words = BUILD[kind]
        plan.append([1, ["data", "build", data, str(out / kind), *words], str(out / "build.log")])
    for name, recipe in read.items():
        words = ["pretrain", name, f"data.shards=['{out / data_of[name]}/train-*.tar']", *SETTINGS]
        words += [f"train.batch_size={batch}", *smaller(recipe), *short_queues(recipe)]
        words += [*STAND_INS.get(name, ()), *MORE.get(name, ()), *overrides]
        even = drawn_by_process(recipe)
        runs = [(processes, "whole", []), (processes, "halves", [f"train.stop_after={STOP} steps"])]
        runs += [(processes, "halves", []), (1, "one", even)] + ([(processes, "even", even)] if even else [])
        runs += [(2 * processes, "hybrid", [*even, *HYBRID])] if hybrid else []
        reference[name] = "even" if even else "whole"
        log = str(out / f"{name}.log")
        plan += [[count, [*words, *more, "--run", str(out / kind / name)], log] for count, kind, more in runs]
    codes = many_runs(plan)
    failed = {run[2] for run, ended in zip(plan, codes, strict=True) if any(ended)}
    assert str(out / "build.log") not in failed, (out / "build.log").read_text()
    wrong = {name: (out / f"{name}.log").read_text()[-2000:] for name in names if str(out / f"{name}.log") in failed}
    for name in read.keys() - wrong.keys():
        whole, halves, one = (out / kind / name for kind in ("whole", "halves", "one"))
        parts = {"student", "optimizer", "objectives", "random", *read[name].get("branches", {})}
        assert manifest(whole)["tensors"].keys() == parts
        if losses(whole) != losses(halves) or hashes(whole) != hashes(halves):
            wrong[name] = f"stopped and continued: {losses(halves)}, never stopped: {losses(whole)}"
        for kind in (reference[name], *(["hybrid"] if hybrid else [])):
            several = losses(out / kind / name)
            if several != pytest.approx(losses(one), rel=1e-5) or several[0] != pytest.approx(losses(one)[0], rel=1e-6):
                wrong[name] = f"several processes ({kind}): {several}, one: {losses(one)}"
    return wrong


@pytest.mark.fault(2, "two processes stopped and started again: BatchNorm in stem and head, masks of uneven size")
def test_two_processes_go_on_bit_for_bit_and_give_the_losses_of_one(many_runs, tmp_path, happened):
    assert problems(many_runs, tmp_path, ["quickstart-imu"], *MASKED) == {}
    happened("losses and SHA-256 of a run that never stopped; one process: the same losses to 1e-5")


@pytest.mark.fault(2, "two processes with sharded weights stopped and started again")
def test_sharded_weights_go_on_bit_for_bit_and_give_the_losses_of_one_process(many_runs, tmp_path, happened):
    """FSDP2: every process writes its shards and reads them back."""
    assert problems(many_runs, tmp_path, ["quickstart-imu"], *MASKED, "parallel.data=fsdp") == {}
    happened("losses and SHA-256 of a run that never stopped; one process: the same losses to 1e-5")


def members(group: str) -> list[str]:
    """Recipes of a group."""
    small = [name for name in recipes() if not smaller(yaml.safe_load(recipes()[name].read_text(encoding="utf-8")))]
    names = [name for name in small if name.startswith(tuple(group.split()))]
    if group == "others":
        names = [name for name in recipes() if name not in (*small, *TOO_LARGE)]
    return [name for name in names if name not in OWN_TESTS]


def test_no_recipe_falls_between_the_groups():
    assert {name for group in GROUPS for name in members(group)} == recipes().keys() - {*TOO_LARGE, *OWN_TESTS}


@pytest.mark.slow
@pytest.mark.parametrize("start", GROUPS)
@pytest.mark.fault(2, "two processes stopped and started again, the shipped recipes (large ones with a small network)")
def test_every_recipe_goes_on_bit_for_bit_and_gives_the_losses_of_one(many_runs, tmp_path, happened, start):
    assert problems(many_runs, tmp_path, members(start), hybrid=True) == {}
    happened(
        "losses and SHA-256 of runs that never stopped; one process, and four that hold two copies of the weights in "
        "shards (HSDP): the same losses to 1e-5"
    )


@pytest.mark.slow
@pytest.mark.fault(2, "three processes stopped and started again")
def test_three_processes_go_on_bit_for_bit(many_runs, tmp_path, happened):
    """Where three numbers are added up, their order counts; with two it does not."""
    assert problems(many_runs, tmp_path, ["quickstart-imu"], processes=3, batch=6) == {}
    happened("losses and SHA-256 of a run that never stopped")


@pytest.mark.fault(2, "a buffer of one of two processes changes by itself")
def test_a_process_with_another_state_is_named_and_nothing_is_saved(tiny_recipe_file, many_runs, tmp_path, happened):
    """The objective of a user who forgot that a process sees a part of the batch."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "objective.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from foundation.objectives import koleo\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config(koleo.Config):\n"
        "    def build(self, context):\n"
        "        return Local(self, context)\n"
        "class Local(koleo.Koleo):\n"
        "    def __init__(self, config, context):\n"
        "        super().__init__(config, context)\n"
        "        self.register_buffer('usual', torch.zeros(2))\n"
        "    def forward(self, outputs, batch, step):\n"
        "        if step == 2:\n"
        "            self.usual[1] += outputs[self.request].detach().mean()\n"
        "        return super().forward(outputs, batch, step)\n"
    )
    words = ["pretrain", str(tiny_recipe_file), "--run", str(tmp_path / "run"), "objectives.2.name=local.objective"]
    words += ["train.length=8 steps", "checkpoints.every=2 steps"]
    assert many_runs([[2, words, str(tmp_path / "log")]], path=tmp_path) == [[4, 4]]
    error = (tmp_path / "log").read_text()
    assert "step 4: the processes do not hold the same state" in error
    assert "objectives 'objective.usual' differs between process 0 and process 1" in error
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))[-1] == "step-00000002"
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and "usual" in status["reason"]
    happened("both end with exit code 4 and name the buffer and the process; the checkpoint of step 2 stays the newest")
