"""Clusters between steps: each number is that of its sample, the same on all processes, and part of what goes on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from foundation.checkpoints import checkpoint
from foundation.data.shards import write_shards
from foundation.errors import RecipeError, UserError
from foundation.jobs import cluster
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "heads.clusters={{prototypes: {clusters}, hidden: 32, bottleneck: 16, layers: 2}}",
    "objectives=[{{name: dino}}, {{name: pseudo_label, head: clusters, gate: 3 steps, teacher: teacher}}]",
    "jobs=[{{name: cluster, every: {every} steps}}]",
    "checkpoints={{every: 1 steps, keep_last: 20}}",
)


def settings(clusters: int = 4, every: int = 2, *more: str) -> list[str]:
    return [part.format(clusters=clusters, every=every) for part in PARTS] + [*more]


def digests(folder: Path) -> dict[str, str]:
    newest, _ = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return {p.name: checkpoint.sha256(p) for p in sorted(newest.iterdir()) if p.suffix == ".safetensors"}


def stored(folder: Path, step: int) -> torch.Tensor:
    path = folder / "checkpoints" / checkpoint.name_of(step)
    return checkpoint.read(path, ("stores",))[0]["stores"]["clusters.values"]


def losses(metrics: Any, folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder) if "loss" in line]


@pytest.fixture(scope="module")
def dark_and_bright(tmp_path_factory) -> tuple[list[Path], list[int]]:
    """Two sources of pictures, dark or bright by no rule, one of them cut short; the kind of each, -1 for that one."""
    from PIL import Image

    draw, folders, kinds = np.random.default_rng(0), [], []
    for source, count in (("a", 21), ("b", 12)):
        samples = []
        for index in range(count):
            kind = int(draw.integers(2))
            pixels = draw.integers(0, 60, (20, 20, 3)) + 190 * kind
            out = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
            bad = (source, index) == ("a", 5)
            sample = {"__key__": f"{source}{index:02d}", "png": out.getvalue()[: 60 if bad else None]}
            samples.append(sample | ({"cls": str(kind).encode()} if index % 3 else {}))
            kinds.append(-1 if bad else kind)
        folders.append(tmp_path_factory.mktemp(source))
        write_shards(samples, folders[-1], "train", samples_per_shard=8)
    return folders, kinds


def test_a_cluster_stands_where_batches_look_for_it(dark_and_bright, tiny_recipe, train, metrics, tmp_path):
    (a, b), kinds = dark_and_bright
    sources = f"data.sources={{second: {{shards: [{b}], weight: 1}}, first: {{shards: [{a}], weight: 2}}}}"
    seen: dict[int, int] = {}
    from foundation.engine import learner

    class Seen(learner.Learner):
        """Notes the label of each number that a batch has."""

        def forward(self, batch: Any, *rest: Any) -> Any:
            seen.update(zip(batch.index.tolist(), batch.labels.tolist(), strict=True))
            return super().forward(batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foundation.run.build.Learner", Seen)
        recipe = tiny_recipe(
            *settings(2, 3, "data.shards=[]", sources, "train.length=9 steps", "checkpoints.every=9 steps")
        )
        train(recipe, tmp_path / "run")
    found = stored(tmp_path / "run", 9)
    assert len(found) == 33 and all(kinds[number] == label for number, label in seen.items() if label >= 0)
    assert len(seen) > 20 and found[5] == -1 and (found == -1).sum() == 1
    known = [index for index, kind in enumerate(kinds) if kind >= 0]
    assert normalized_mutual_info_score([kinds[p] for p in known], found[known].tolist()) == pytest.approx(1.0)
    figures = [line for line in metrics(tmp_path / "run") if "clusters/nmi" in line]
    assert [line["step"] for line in figures] == [3, 6, 9]
    assert all(line["clusters/nmi"] == pytest.approx(1.0) and line["clusters/used"] == 2 for line in figures)
    assert (
        "clusters/changed" not in figures[0] and figures[1]["clusters/changed"] == figures[2]["clusters/changed"] == 0
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_shards) -> Path:
    """Eight steps, clustered behind every second."""
    from foundation import config
    from foundation.run.recipe import Recipe
    from tests.conftest import RECIPE

    folder = tmp_path_factory.mktemp("clustered") / "whole"
    with RunFolder(folder) as run:
        Trainer(config.load(Recipe, RECIPE.format(shards=tiny_shards), settings()), run, say=lambda text: None).run()
    return folder


def test_the_clusters_of_a_step_are_in_its_checkpoint_and_teach_from_the_next(whole, metrics):
    assert (stored(whole, 1) == -1).all() and (stored(whole, 2) >= 0).all()
    assert torch.equal(stored(whole, 2), stored(whole, 3))
    lines = [line for line in metrics(whole) if "loss" in line]
    assert [line["pseudo_label/assigned"] for line in lines] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [line["loss/pseudo_label"] > 0 for line in lines] == [False] * 2 + [True] * 6


@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_stopped_before_or_after_a_job_it_goes_on_bit_for_bit(whole, train, metrics, tiny_recipe, tmp_path, stop):
    train(tiny_recipe(*settings(4, 2, f"train.stop_after={stop} steps")), tmp_path / "cut")
    torch.manual_seed(99)
    train(tiny_recipe(*settings()), tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(whole)
    assert losses(metrics, tmp_path / "cut") == losses(metrics, whole)


def job(clusters: int, **keys: Any) -> cluster.ClusterJob:
    from foundation.schedules import Duration

    return cluster.ClusterJob(cluster.Config(every=Duration(1), **keys), clusters)


def blobs(centres: torch.Tensor, each: int, seed: int) -> torch.Tensor:
    noise = torch.randn(len(centres) * each, centres.shape[1], generator=torch.Generator().manual_seed(seed))
    return centres.repeat_interleave(each, dim=0) + 0.05 * noise


@pytest.mark.parametrize("minibatch", [None, 16])
def test_clusters_keep_their_numbers_while_features_move(minibatch):
    centres = torch.eye(8)[:4]
    made = job(4, minibatch=minibatch)
    first, inertia = made._cluster(blobs(centres, 10, 0), torch.full((40,), -1), 7)
    assert len(first.unique()) == 4 and all(len(first[i * 10 : i * 10 + 10].unique()) == 1 for i in range(4))
    assert inertia < 0.1
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    for seed in range(3):  # other features and another seed, but samples that go together as before
        again, _ = made._cluster(blobs(centres @ turned, 10, seed), first, seed)
        assert torch.equal(again, first)


def test_an_empty_cluster_begins_anew_at_a_sample():
    centres = torch.eye(8)[:4]
    before = torch.tensor([0, 0, 2, 3]).repeat_interleave(10)  # what was two clusters counts as one, and 1 has nobody
    before[4] = -1
    found, _ = job(4)._cluster(blobs(centres, 10, 0), before, 3)
    assert len(found.unique()) == 4
    assert (found[20:30] == 2).all() and (found[30:] == 3).all()


def test_too_few_samples_and_features_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="3 samples that can be read make no 4 clusters"):
        job(4)._cluster(torch.eye(8)[:3], torch.full((3,), -1), 0)
    with pytest.raises(UserError, match="1 of 8 clustering features are not finite"):
        job(4)._cluster(torch.eye(8).index_fill(0, torch.tensor([2]), torch.nan), torch.full((8,), -1), 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("jobs=[{name: cluster, every: 2 steps, store: cluster}]", "from a store 'cluster'; did you mean 'clusters'"),
        ("objectives=[{name: dino}]", "no objective reads clusters from a store 'clusters'; there are: none"),
        ("jobs=[{name: cluster, every: 2 steps, branch: techer}]", "no branch with an encoder is called 'techer'"),
        ("jobs=[{name: cluster, every: 2 steps, clusters: 5}]", "tells 4 clusters apart, not 5: give its head as many"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_step_0(tiny_recipe, tmp_path, wrong, said):
    with RunFolder(tmp_path / "run") as run, pytest.raises(RecipeError) as caught:
        Trainer(tiny_recipe(*settings(4, 2, wrong)), run, say=lambda text: None)
    assert said in str(caught.value)


KILLER = '''
"""A job that kills its process at step 4, the first time that it comes there."""
import os, signal
from dataclasses import dataclass
from pathlib import Path
from foundation.jobs.base import Job
from foundation.schedules import Duration

@dataclass(frozen=True, kw_only=True)
class Config:
    every: Duration
    mark: str
    def build(self, context):
        return Killer(self.mark)

class Killer(Job):
    def __init__(self, mark):
        super().__init__()
        self.mark = Path(mark)

    def run(self, context):
        if context.step == 4 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {}
'''


def pretrain(recipe: Path, folder: Path, path: Path, *words: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "foundation", "pretrain", str(recipe), *words, "--run", str(folder)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before the clustering", "behind it"])
@pytest.mark.fault(1, "kill -9 among the jobs of a step, before its clustering or behind it")
def test_killed_among_the_jobs_of_a_step(tiny_recipe_file, metrics, tmp_path, happened, order):
    (tmp_path / "my_jobs").mkdir()
    (tmp_path / "my_jobs" / "killer.py").write_text(KILLER)
    jobs = ["{name: cluster, every: 2 steps}", f"{{name: my_jobs.killer, every: 2 steps, mark: {tmp_path / 'mark'}}}"]
    words = settings(4, 2, f"jobs=[{', '.join(jobs if order == 'behind it' else reversed(jobs))}]")
    codes = [pretrain(tiny_recipe_file, tmp_path / "killed", tmp_path, *words) for _ in range(2)]
    assert codes == [-9, 0]
    assert pretrain(tiny_recipe_file, tmp_path / "whole", tmp_path, *words) == 0
    assert losses(metrics, tmp_path / "killed") == losses(metrics, tmp_path / "whole")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    happened("losses and the SHA-256 of every tensor file, clusters among them, as in the run that was never killed")


@pytest.mark.slow
def test_two_processes_cluster_and_learn_as_one(tiny_recipe_file, metrics, tmp_path):
    words = settings(4, 2, "encoder.drop_path=0")
    pretrain(tiny_recipe_file, tmp_path / "one", tmp_path, *words)
    pretrain(tiny_recipe_file, tmp_path / "two", tmp_path, *words, "--processes", "2")
    for step in (2, 4, 6, 8):
        assert torch.equal(stored(tmp_path / "one", step), stored(tmp_path / "two", step))
    one, two = (losses(metrics, tmp_path / name) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=2e-5)
    pairs = [[line for line in metrics(tmp_path / n) if "clusters/inertia" in line] for n in ("one", "two")]
    assert len(pairs[0]) == 4
    for a, b in zip(*pairs, strict=True):
        assert a["clusters/nmi"] == b["clusters/nmi"] and b["clusters/inertia"] == pytest.approx(a["clusters/inertia"])


@pytest.mark.slow
def test_the_recipe_on_real_data_lowers_its_loss(shared_data: Callable[[str], Path], train, metrics, tmp_path):
    from foundation import config
    from foundation.run.recipe import Recipe

    shards = f"data.shards=['{shared_data('hapt_imu')}/train-*.tar']"
    small = (
        "encoder.width=64", "encoder.depth=2", "train.length=90 steps", "train.log_every=1", "train.precision=float32",
        "views.local_views.count=2", "data.workers=0", "jobs.0.every=15 steps", "train.device=cpu",
        "objectives.1.gate=15 steps", "train.batch_size=32",
    )  # fmt: skip
    recipe = ROOT / "foundation" / "recipes" / "hapt-cluster-dino-nano.yaml"
    train(config.load(Recipe, recipe, (shards, *small)), tmp_path / "run")
    lines = [line for line in metrics(tmp_path / "run") if "loss" in line]
    for name in ("loss/dino", "loss/pseudo_label"):
        values = [line[name] for line in lines]
        assert np.mean(values[-10:]) < 0.9 * np.mean(values[16:26] if "pseudo" in name else values[:10])
    figures = [line for line in metrics(tmp_path / "run") if "clusters/nmi" in line]
    assert len(figures) == 6 and figures[-1]["clusters/nmi"] > 0.3 and figures[-1]["clusters/changed"] < 0.5


def test_a_second_job_may_make_fewer_clusters_in_the_same_store(tiny_recipe, train, tmp_path):
    jobs = "jobs=[{name: cluster, every: 1 steps}, {name: cluster, every: 1 steps, clusters: 2}]"
    train(tiny_recipe(*settings(8, 2, jobs, "train.length=1 steps")), tmp_path / "run")
    assert stored(tmp_path / "run", 1).unique().tolist() == [0, 1]


def test_more_clusters_than_samples_are_refused_before_the_first_step(tiny_recipe, tmp_path):
    with pytest.raises(RecipeError, match="40 samples make no 64 clusters"), RunFolder(tmp_path / "run") as folder:
        Trainer(tiny_recipe(*settings(64)), folder)
