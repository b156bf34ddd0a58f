"""Ways of sharing weights and work: every one gives the numbers of a single process, over many steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import UserError
from foundation.parallel import config as parallelism

SETTINGS = ("train.length=20 steps", "encoder.drop_path=0", "checkpoints.every=1000 steps")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def column(folder: Path, name: str) -> list[float]:
    return [line[name] for line in lines(folder) if name in line]


def runs(many_runs, tiny_recipe_file, tmp_path, asked: dict[str, tuple[int, tuple[str, ...]]], *common: str) -> None:
    """Run the tiny recipe as each says: number of processes and overrides, by the name of its folder."""
    plan = [
        [count, ["pretrain", str(tiny_recipe_file), *common, *words, "--run", str(tmp_path / name)],
         str(tmp_path / f"{name}.log")]
        for name, (count, words) in asked.items()
    ]  # fmt: skip
    codes = many_runs(plan)
    for (name, _), ended in zip(asked.items(), codes, strict=True):
        assert not any(ended), (name, (tmp_path / f"{name}.log").read_text()[-3000:])


@pytest.mark.slow
def test_all_ways_give_the_losses_of_one_process_over_twenty_steps(many_runs, tiny_recipe_file, tmp_path):
    """Weights made by all or by the first, kept or gathered twice, computed twice or kept, in parts of a batch."""
    asked: dict[str, tuple[int, tuple[str, ...]]] = {
        "one": (1, ()),
        "recompute": (1, ("parallel.activation_checkpointing=selective",)),
        "ddp2": (2, ("parallel.meta_init=true",)),
        "ddp4": (4, ("parallel.activation_checkpointing=full",)),
        "fsdp2": (2, ("parallel.data=fsdp",)),
        "fsdp2-accumulate": (2, ("parallel.data=fsdp", "parallel.reshard=false", "train.accumulate=2")),
        "fsdp4": (4, ("parallel.data=fsdp", "parallel.prefetch=0", "parallel.activation_checkpointing=selective")),
        "hsdp4": (4, ("parallel.data=hsdp", "parallel.shard=2", "parallel.meta_init=true")),
        "fairscale2": (2, ("parallel.data=fairscale",)),
        "fairscale4": (4, ("parallel.data=fairscale", "train.accumulate=2")),
    }
    pytest.importorskip("fairscale", reason="needs the extra 'cluster'")
    centred = "objectives=[{name: dino}, {name: ibot}]"  # what compares samples sees one micro-batch at a time
    runs(many_runs, tiny_recipe_file, tmp_path, asked, *SETTINGS, centred, "train.batch_size=16")
    wanted = column(tmp_path / "one", "loss")
    assert len(wanted) == 20
    assert "hsdp: weights in 2 shards, 2 copies" in (tmp_path / "hsdp4.log").read_text()
    for name in asked:
        assert column(tmp_path / name, "loss") == pytest.approx(wanted, rel=1e-5), name


SMALL = """
import json, sys, torch
from torch import nn
from foundation.engine.agreement import check_agreement
from foundation.errors import UserError
from foundation.parallel.config import Config
from foundation.parallel.parallelize import Part, shard
from foundation.parallel.placement import Placement
from foundation.parallel.process_group import process_group

class Scaled(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

with process_group("cpu"):
    place = Placement(torch.device("cpu"), None)
    one = Scaled([1])
    shard([Part("objectives.one", one)], Config(data="fsdp"), place, False)
    check_agreement({"objectives": dict(one.state_dict())}, 1)
    try:
        shard([Part("objectives.none", Scaled([]))], Config(data="fsdp"), place, False)
    except UserError as error:
        print(json.dumps(str(error)))
"""


def test_a_shard_may_be_empty_and_a_number_without_axis_is_refused(together):
    for done in together(SMALL, 2):
        assert done.returncode == 0, done.stderr[-3000:]
        assert "the parameter objectives.none.scale is a number without axis" in json.loads(done.stdout)


@pytest.mark.slow
def test_bfloat16_weights_are_gathered_and_gradients_stay_close(many_runs, tiny_recipe_file, tmp_path):
    words = ("parallel.data=fsdp", "parallel.weights=bfloat16", "train.precision=bfloat16")
    asked = {"one": (1, ("train.precision=bfloat16",)), "half": (2, words)}
    runs(many_runs, tiny_recipe_file, tmp_path, asked, *SETTINGS)
    assert column(tmp_path / "half", "loss") == pytest.approx(column(tmp_path / "one", "loss"), rel=2e-2)
    assert column(tmp_path / "half", "loss") != column(tmp_path / "one", "loss")


@pytest.mark.slow
def test_probes_see_whole_weights_and_share_the_samples(many_runs, tiny_recipe_file, tiny_shards, tmp_path):
    """Three shares of 40 samples are unequal: no process waits for another one inside its share."""
    probe = f"probes=[{{name: knn, every: 2 steps, train: ['{tiny_shards}'], batch_size: 4}}]"
    asked = {"one": (1, ()), "fsdp3": (3, ("parallel.data=fsdp",)), "ddp2": (2, ())}
    runs(many_runs, tiny_recipe_file, tmp_path, asked, "train.length=4 steps", "train.batch_size=12", probe,
         "encoder.drop_path=0")  # fmt: skip
    wanted = column(tmp_path / "one", "probe/knn_top1")
    assert len(wanted) == 2
    for name in asked:
        assert column(tmp_path / name, "probe/knn_top1") == pytest.approx(wanted, abs=0.05), name
        assert (tmp_path / f"{name}.log").read_text().count("probe/knn_top1") == 2


@pytest.mark.slow
def test_stages_hand_on_whole_weights(many_runs, tiny_recipe_file, tmp_path):
    """The second stage starts from branches that lay in shards, and copies one of them."""
    stages = (
        "stages=[{name: first, length: 3 steps}, {name: second, length: 3 steps, train: [heads, blocks.-1], "
        "branches: {teacher: {name: ema}, before: {name: previous, of: teacher}}, "
        "objectives: [{name: dino}, {name: dino, teacher: before}]}]"
    )
    asked = {
        "one": (1, ()),
        "fsdp2": (2, ("parallel.data=fsdp",)),
        "hsdp4": (4, ("parallel.data=hsdp", "parallel.shard=2")),
    }
    runs(many_runs, tiny_recipe_file, tmp_path, asked, "encoder.drop_path=0", "train.batch_size=8", stages)
    wanted = column(tmp_path / "one", "loss")
    assert len(wanted) == 6
    for name in asked:
        assert column(tmp_path / name, "loss") == pytest.approx(wanted, rel=1e-5), name


def test_mistakes_are_said():
    with pytest.raises(UserError, match=r"parallel\.data must be one of ddp, fsdp, hsdp, fairscale, got 'zero'"):
        parallelism.Config(data="zero")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"parallel\.shard is for data: hsdp"):
        parallelism.Config(data="fsdp", shard=2)


@pytest.mark.slow
def test_a_shard_that_does_not_divide_the_processes_is_refused(many_runs, tiny_recipe_file, tmp_path):
    words = [
        "pretrain",
        str(tiny_recipe_file),
        "parallel.data=hsdp",
        "parallel.shard=3",
        "--run",
        str(tmp_path / "run"),
    ]
    assert many_runs([[2, words, str(tmp_path / "log")]]) == [[2, 2]]
    assert "parallel.shard is 3" in (tmp_path / "log").read_text()


HALF = """
import json, sys, torch
from foundation import config, paths
from foundation.parallel.process_group import process_group
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import Rehearsal, random_batch

words = ["parallel.data=fsdp", "parallel.activation_checkpointing=selective", "train.precision=bfloat16",
         "train.device=cpu", "train.batch_size=4"]
with process_group("cpu"):
    torch.manual_seed(0)
    recipe = config.load(Recipe, paths.recipe(sys.argv[1]), words)
    step = Rehearsal(recipe, 4)
    found = [float(step(random_batch(recipe, 2))) for _ in range(2)]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cifar10-poa-swin-nano", "utd-depth-discovr-nano"])
def test_half_precision_reaches_nested_blocks_and_objectives_that_learn(together, recipe):
    """Blocks inside stages are computed again without a gathering inside; losses compute in float32."""
    for done in together(HALF, 2, recipe):
        assert done.returncode == 0, done.stderr[-3000:]
        assert all(0 < loss < 100 for loss in json.loads(done.stdout))
