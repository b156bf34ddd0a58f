"""A sensor taught by another, as recipes: on real clips with a wrist sensor, and on balls that sing."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.cli import main
from foundation.probes.knn import Config as Knn
from foundation.zoo.load import load_encoder

FAST = ("train.precision=float32", "data.workers=0", "train.log_every=1", "checkpoints={every: 1 epochs}")
UTD = (
    *FAST, "train.length=30 steps", "train.batch_size=8", "optimizer.learning_rate={start: 2e-3, warmup: 3 steps}",
    "views.members.imu.global_views.count=1", "views.members.video.global_views.count=1",
)  # fmt: skip
"""Objectives by recipe, with the metric that must fall: the loss over a queue rises while the queue fills."""


@pytest.fixture(scope="module")
def clips(shared_data) -> Path:
    return shared_data("utd_mhad_depth_imu")


@pytest.fixture(scope="module")
def video_teacher(clips, tmp_path_factory) -> Path:
    """A model of clips, hardly trained: it sees changes between frames, which tell actions apart as they are."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    words = ("train.length=2 steps", "train.batch_size=4", f"data.shards=['{clips}/train-*.tar']")
    assert main(["pretrain", "utd-depth-dino-ibot-nano", *FAST, *words, "--run", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def balls(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("balls") / "shards"
    assert main(["data", "build", "singing_balls", str(out), "--train", "192", "--test", "96"]) == 0
    return out


def lessons(run: Path, metrics, name: str) -> tuple[float, float]:
    """Mean of a metric over the first and the last of a run's steps, the very first left out."""
    values = [line[name] for line in metrics(run) if name in line]
    return sum(values[8:16]) / 8, sum(values[-8:]) / 8


def knn(encoder, loaded, data: Path) -> float:
    probe = Knn(train=(f"{data}/train-*.tar",), test=(f"{data}/test-*.tar",), k=5, treatment="standardised")
    return probe.measure(encoder, modality=loaded.modality, evaluation=loaded.evaluation)["probe/knn_top1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "falls", "more"),
    [
        ("utd-comodo-nano", "similarity_distillation/kl", ("objectives.0.queue=64",)),
        ("utd-comodo-l2-nano", "loss/feature_distillation", ()),
        ("utd-comodo-infonce-nano", "loss/contrast", ()),
    ],
)
def test_a_wrist_sensor_learns_from_clips(recipe, falls, more, clips, video_teacher, metrics, tmp_path, capsys):
    run = tmp_path / "run"
    words = [*UTD, *more, f"branches.teacher.weights={video_teacher}", f"data.shards=['{clips}/train-*.tar']"]
    assert main(["pretrain", recipe, *words, "--run", str(run)]) == 0
    begun, ended = lessons(run, metrics, falls)
    assert ended < 0.97 * begun, (begun, ended)
    loaded = load_encoder(run)
    trained, untrained = (knn(encoder, loaded, clips) for encoder in (loaded.encoder, loaded.untrained()))
    print(recipe, begun, ended, trained, untrained)
    if recipe == "utd-comodo-nano":
        assert trained > untrained + 0.03
        assert main(["retrieval", str(run), f"{clips}/test-*.tar", "--limit", "60"]) == 0
        assert "imu.global by student -> video.global by teacher: R@1" in capsys.readouterr().out


@pytest.mark.slow
def test_clips_teach_sound_and_each_finds_the_other(balls, metrics, tmp_path):
    run, teacher, data = tmp_path / "run", tmp_path / "teacher", f"data.shards=['{balls}/train-*.tar']"
    words = [*FAST, data, "train.length=20 steps", "train.batch_size=16"]
    assert main(["pretrain", "quickstart-video", *words, "--run", str(teacher)]) == 0
    job = f"jobs=[{{name: retrieval, every: 100 steps, shards: ['{balls}/test-*.tar']}}]"
    words = [*FAST, data, "train.length=100 steps", "objectives.0.queue=64", f"branches.teacher.weights={teacher}", job]
    assert main(["pretrain", "audio-visual-nano", *words, "--run", str(run)]) == 0
    begun, ended = lessons(run, metrics, "similarity_distillation/kl")
    loaded = load_encoder(run)
    trained, untrained = (knn(encoder, loaded, balls) for encoder in (loaded.encoder, loaded.untrained()))
    recall = [line for line in metrics(run) if "retrieval/student_r5" in line]
    print(begun, ended, trained, untrained, recall[0], recall[-1])
    assert ended < 0.9 * begun and trained > untrained
    assert recall[-1]["retrieval/student_r10"] > 2 * 10 / 96 and recall[-1]["retrieval/teacher_r10"] > 2 * 10 / 96
