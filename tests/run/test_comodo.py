"""A sensor taught by another, as recipes: on real clips with a wrist sensor, and on balls that sing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.data.shards import open_shards, write_shards
from tests.learning import learns

FAST = ("train.precision=float32", "data.workers=0", "train.log_every=1", "checkpoints={every: 1 epochs}")
UTD = (
    *FAST, "train.length=30 steps", "train.batch_size=8", "optimizer.learning_rate={start: 2e-3, warmup: 3 steps}",
    "views.members.imu.global_views.count=1", "views.members.video.global_views.count=1",
)  # fmt: skip
"""Few clips: decoding them is most of the time."""
CACHED = (
    "views={name: imu, global_views: {count: 2, size: 96, span: [0.8, 1.0]}, local_views: {count: 0}, rotation: any, "
    "degrees: 15.0, decode: {rate: 50.0, acceleration: g}}",
    "data.extras={teacher: {kind: array, member: teacher.npy, shape: [128]}}",
    "branches.teacher={name: cached, extra: teacher, width: 128, heads: "
    "{embedding: {prototypes: null, hidden: 512, bottleneck: 128, layers: 2, norm: batch}}}",
)
SENSOR_ALONE = ("objectives.0.view=global", "objectives.0.teacher_view=null")
"""The recipes' own sensor views and heads, with the teacher's features from the shards."""


@pytest.fixture(scope="module")
def clips(shared_data) -> Path:
    return shared_data("utd_mhad_depth_imu")


@pytest.fixture(scope="module")
def few(clips, tmp_path_factory) -> Path:
    """So few clips that some seconds are enough to learn them."""
    out, shards = tmp_path_factory.mktemp("few") / "shards", open_shards(f"{clips}/train-*.tar")
    raws = (shards.read(*shards.locate(number)) for number in range(24))
    write_shards(
        ({key: value if key[0] == "_" else bytes(value) for key, value in raw.items()} for raw in raws), out, "train"
    )
    return out


@pytest.fixture(scope="module")
def video_teacher(clips, tmp_path_factory) -> Path:
    """A model of clips, hardly trained: it sees changes between frames, which tell actions apart as they are."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    words = ("train.length=2 steps", "train.batch_size=4", f"data.shards=['{clips}/train-*.tar']")
    assert main(["pretrain", "utd-depth-dino-ibot-nano", *FAST, *words, "--run", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def taught(clips, video_teacher, tmp_path_factory) -> Path:
    """All recordings, with what the teacher makes of their clips and without these."""
    out = tmp_path_factory.mktemp("taught") / "shards"
    for split in ("train", "test"):
        words = [str(video_teacher), f"{clips}/{split}-*.tar", str(out), "--leave-out", "mp4"]
        assert main(["extract", *words]) == 0
    return out


@pytest.fixture(scope="module")
def balls(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("balls") / "shards"
    assert main(["data", "build", "singing_balls", str(out), "--train", "400", "--test", "200"]) == 0
    return out


def mean_at(run: Path, metrics, name: str, begin: int, end: int | None) -> float:
    """Mean of a metric over some of a run's steps."""
    values = [line[name] for line in metrics(run) if name in line][begin:end]
    return sum(values) / len(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "loss", "views"),
    [
        # The loss over a queue rises while the queue fills: what is left of it above the teacher's entropy falls.
        ("utd-comodo-nano", "similarity_distillation/kl", SENSOR_ALONE),
        ("utd-comodo-l2-nano", "loss", SENSOR_ALONE),
        ("utd-comodo-infonce-nano", "loss", (
            "objectives.0.teacher_view=global", "objectives.0.other_views=[]", "objectives.0.shared_view=true",
        )),
    ],
)  # fmt: skip
def test_a_wrist_sensor_learns_from_clips(recipe, loss, views, taught, tmp_path):
    """Of unseen people it tells more actions than untrained: what the teacher makes of clips has taught it."""
    words = ("train.precision=float32", "train.length=150 steps", "checkpoints={every: 150 steps}")
    learns(recipe, taught, tmp_path / "run", *words, *CACHED, *views, loss=loss, fall=0.1)


@pytest.mark.slow
def test_a_live_teacher_and_retrieval(few, clips, video_teacher, metrics, tmp_path, capsys):
    run, name = tmp_path / "run", "similarity_distillation/kl"
    words = [*UTD, "objectives.0.queue=16", f"branches.teacher.weights={video_teacher}"]
    assert main(["pretrain", "utd-comodo-nano", *words, f"data.shards=['{few}/train-*.tar']", "--run", str(run)]) == 0
    assert mean_at(run, metrics, name, -6, None) < 0.97 * mean_at(run, metrics, name, 5, 11)
    assert main(["retrieval", str(run), f"{clips}/test-*.tar", "--limit", "24"]) == 0
    assert "imu.global by student -> video.global by teacher: R@1" in capsys.readouterr().out
    table, out = tmp_path / "recalls.json", tmp_path / "out"
    shards = ["--train", f"{clips}/test-*.tar", "--limit", "24"]
    assert main(["evaluate", str(run), *shards, "--tasks", "cross_modal", "--baselines", "--out", str(out)]) == 0
    assert main(["retrieval", str(run), f"{clips}/test-*.tar", "--limit", "24", "--json", str(table)]) == 0
    (task,), ways = json.loads((out / "result.json").read_text())["tasks"], json.loads(table.read_text())["ways"]
    found = {score["metric"]: score["value"] for score in task["scores"]}
    said = {f"R@{k}{back}": value for way, back in zip(ways, ("", " back"), strict=True)
            for k, value in way["recall"].items()}  # fmt: skip
    assert found == pytest.approx(said) and len(said) == 6
    assert {score["features"] for score in task["scores"]} == {"model"}, "a baseline has no second sensor"


@pytest.mark.slow
def test_clips_teach_sound(balls, tmp_path):
    """Calls of callers whom it has not heard are told by a model of sound that clips of balls have taught."""
    teacher, words = tmp_path / "teacher", (*FAST, f"data.shards=['{balls}/train-*.tar']", "train.length=30 steps")
    assert main(["pretrain", "quickstart-video", *words, "train.batch_size=32", "--run", str(teacher)]) == 0
    words = ("train.precision=float32", "train.length=150 steps", f"branches.teacher.weights={teacher}")
    learns("audio-visual-nano", balls, tmp_path / "run", *words, loss="similarity_distillation/kl", fall=0.05)
