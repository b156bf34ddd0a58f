"""Recipes with frozen experts, an anchor and a random teacher, on real pictures: they learn, and go on bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.probes import knn
from foundation.zoo.load import load_encoder
from tests.learning import learns
from tests.run.test_kill import ROOT, state

EVERYWHERE = (
    "train.batch_size=32", "train.log_every=1", "train.precision=float32", "data.workers=0", "data.shuffle_window=64",
    "encoder.width=64", "checkpoints={every: 20 steps, keep_last: 20}",
)  # fmt: skip
HEADS = tuple(f"heads.{name}.{key}" for name in ("cls", "patch") for key in ("prototypes=256", "hidden=128"))
GLOBAL = ("views.local_views.count=0", "objectives.0.other_views=[]", "train.batch_size=64")
"""No local crops, for speed."""
FAST = "optimizer.learning_rate={start: 3e-3, warmup: 5 steps}"
GRAM = (
    *EVERYWHERE,
    *HEADS,
    FAST,
    "train.length=10 steps",
    "train.batch_size=8",
    "jobs.0.every=2 steps",
    "jobs.0.times=2",
)


@pytest.fixture(scope="module")
def shards(shared_data) -> str:
    return f"data.shards=['{shared_data('cifar10')}/train-000000.tar']"


@pytest.fixture(scope="module")
def expert(shards, tmp_path_factory) -> Path:
    """An encoder that has learnt a little."""
    folder = tmp_path_factory.mktemp("expert") / "run"
    words = ("train.length=100 steps", *EVERYWHERE, *HEADS, *GLOBAL, shards)
    assert main(["pretrain", "cifar10-dino-ibot-nano", *words, "--run", str(folder)]) == 0
    return folder / "export" / "teacher.safetensors"


@pytest.mark.slow
def test_a_student_of_a_frozen_expert_lowers_every_loss_and_beats_its_untrained_self(
    expert, shared_data, tmp_path, metrics
):
    experts = (f"branches.dino.weights={expert}", f"branches.mae.weights={expert}")
    words = (*EVERYWHERE, *HEADS, *GLOBAL, "train.length=80 steps", *experts)
    learns("cifar10-gpfm-nano", shared_data("cifar10"), tmp_path / "run", *words, limit=1500)
    lines = metrics(tmp_path / "run")
    for name in ("loss/feature_distillation", "loss/feature_distillation-2", "loss/feature_distillation-3"):
        values = [line[name] for line in lines if name in line]
        assert sum(values[-5:]) < 0.7 * sum(values[:5]), (name, values)


@pytest.fixture(scope="module")
def anchored(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gram") / "run"
    assert main(["pretrain", "cifar10-gram-nano", *GRAM, shards, "--run", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_an_anchored_run_goes_on_bit_for_bit_and_two_processes_give_the_losses_of_one(
    anchored, shards, tmp_path, metrics
):
    """Copies of the anchor are taken behind steps 6 and 8."""
    stopped = ["pretrain", "cifar10-gram-nano", *GRAM, shards, "--run", str(tmp_path / "stopped")]
    assert main([*stopped, "train.stop_after=7 steps"]) == 0 and main(stopped) == 0
    assert state(tmp_path / "stopped") == state(anchored)
    words = [sys.executable, "-m", "foundation", "pretrain", "cifar10-gram-nano", *GRAM, shards, "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "--run", str(tmp_path / "two")], env=environment, check=True, timeout=600)
    # Near to a copy the anchor's loss is a difference of nearly equal numbers.
    for name, exact in (("loss", 1e-5), ("loss/gram", 1e-3)):
        one, two = ([line[name] for line in metrics(folder) if name in line] for folder in (anchored, tmp_path / "two"))
        assert len(one) == 10 and two == pytest.approx(one, rel=exact)
    copies = [line["refresh/gram"] for line in metrics(tmp_path / "two") if "refresh/gram" in line]
    assert copies == [0, 0, 1, 2, 2]


@pytest.mark.slow
def test_an_anchored_student_lowers_its_loss_and_beats_its_untrained_self(shared_data, tmp_path, metrics):
    words = (*EVERYWHERE, *HEADS, "train.length=100 steps", "jobs.0.every=20 steps", "jobs.0.times=2")
    learns("cifar10-gram-nano", shared_data("cifar10"), tmp_path / "run", *words, loss="loss/dino", limit=1500)
    assert any(line.get("loss/gram", 0) > 0 for line in metrics(tmp_path / "run"))


@pytest.mark.slow
def test_a_student_of_a_random_teacher_is_the_better_of_the_two(shared_data, tmp_path, metrics):
    data, run = shared_data("cifar10"), tmp_path / "run"
    words = ("train.length=80 steps", "train.precision=float32", "data.workers=0", "train.log_every=1")
    shards = f"data.shards=['{data}/train-*.tar']"
    assert main(["pretrain", "cifar10-random-teacher-nano", shards, *words, "--run", str(run)]) == 0
    values = [line["same_view/kl"] for line in metrics(run) if "same_view/kl" in line]
    assert sum(values[-5:]) < 0.1 * sum(values[:5])
    probe = knn.Config(train=(f"{data}/train-*.tar",), test=(f"{data}/test-*.tar",), k=20, limit=2000)
    accuracies = []
    for branch in ("student", "teacher"):
        loaded = load_encoder(run, branch=branch)
        where = {"modality": loaded.modality, "evaluation": loaded.evaluation}
        accuracies.append(probe.measure(loaded.encoder, **where)["probe/knn_top1"])
    assert accuracies[0] > accuracies[1], accuracies
