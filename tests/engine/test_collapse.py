"""Collapse detection: each symptom names its knob, healthy features name none; real runs of both kinds."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

from foundation.branches.request import Request
from foundation.engine.collapse import CollapseWatch, Config, FeatureMonitor, feature_request
from foundation.errors import NumericsError
from foundation.schedules import Clock, Duration

REQUEST = Request("teacher", "global", "cls")
UNIFORM = math.log(1024)
HEALTHY = {"dino/entropy": 4.5, "dino/kl": 1.3, "dino/prototypes": 0.8}


def gaussian(rows: int = 1024, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


CLOUDS = {
    "healthy": gaussian(),
    "constant": torch.ones(1024, 64) + 1e-3 * gaussian(),
    "zero": torch.zeros(1024, 64),
    "a line": gaussian(width=1) * gaussian(1, 64) + 1e-3 * gaussian(seed=2),
    "not finite": torch.full((1024, 64), math.nan),
}


def figures(features: torch.Tensor, **outputs: float) -> dict[str, float]:
    """What a step gives that completes a look, read; features by way of the real monitor."""
    found = FeatureMonitor(REQUEST, 1, len(features))({REQUEST: features}, None, 0)
    values = HEALTHY | {f"dino/{name}": value for name, value in outputs.items()}
    return {f"features/{k}": float(v) for k, v in found.items()} | values


@pytest.fixture
def watch():
    """``watch(said, patience=2)``: a watch over one objective with 1,024 prototypes, 1,000 steps, grace of 100."""

    def make(said: list[str] | None = None, **settings) -> CollapseWatch:
        settings = {"grace": Duration(10, "%"), "patience": 3} | settings
        lines = said if said is not None else []
        return CollapseWatch(Config(**settings), {"dino": UNIFORM}, Clock(1000, 100.0), lines.append)

    return make


@pytest.mark.fault(37, "constant, zero, one-dimensional and not finite features; one-hot, uniform and unused outputs")
@pytest.mark.parametrize(
    ("cloud", "outputs", "symptom", "knobs"),
    [
        ("constant", {}, "all features point the same way", ("learning_rate", "momentum", "koleo")),
        ("zero", {}, "all features point the same way", ("learning_rate",)),
        ("not finite", {}, "all features point the same way", ()),
        ("a line", {}, "features use few dimensions", ("koleo", "batch")),
        ("healthy", {"entropy": 0.999 * UNIFORM}, "nearly uniform", ("teacher_temperature",)),
        ("healthy", {"entropy": 1e-4, "prototypes": 0.004}, "certain of a few", ("teacher_temperature", "sinkhorn")),
        ("healthy", {"prototypes": 0.01}, "few prototypes", ("sinkhorn", "centre_momentum")),
        ("healthy", {"entropy": 2.0, "kl": UNIFORM - 2.001}, "the loss rests at", ("learning_rate",)),
    ],
)
def test_each_symptom_is_said_with_its_knobs(watch, happened, cloud, outputs, symptom, knobs):
    said: list[str] = []
    watching = watch(said)
    for step in range(100, 1000, 100):
        watching.look(step, figures(CLOUDS[cloud], **outputs))
    assert len(said) == 1, said  # at the third look, and not again for a while
    assert "step 300" in said[0] and symptom in said[0]
    assert all(knob in said[0] for knob in knobs) and (not knobs or "Likely knobs" in said[0])
    assert watching.metrics()["collapse/alarms"] == 1 and watching.failure is None
    happened("alarm: " + re.sub(r" \(.*?\)", "", said[0].partition("collapse? ")[2].partition(". Likely")[0]))


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"entropy": 1e-4, "prototypes": 0.9},  # hard assignments, all in use: SwAV's way, not a collapse
        {"entropy": 6.0, "kl": 2.0},  # worse than saying nothing, as early in a run
    ],
)
def test_healthy_figures_say_nothing(watch, outputs):
    said: list[str] = []
    watching = watch(said)
    for step in range(100, 1000, 100):
        watching.look(step, figures(CLOUDS["healthy"], **outputs))
    assert not said and watching.metrics()["collapse/alarms"] == 0
    assert 0.95 < watching.metrics()["features/std"] < 1.05 and watching.metrics()["features/rank"] > 55


def test_grace_patience_and_reminders(watch):
    said: list[str] = []
    watching = watch(said, patience=3)
    constant, healthy = figures(CLOUDS["constant"]), figures(CLOUDS["healthy"])
    for step in range(0, 100, 10):
        watching.look(step, constant)  # within the grace
    for step in range(100, 200, 10):
        watching.look(step, healthy if step % 30 == 10 else constant)  # never three in a row
    assert not said
    for step in range(200, 400, 10):
        watching.look(step, constant)
    assert len(said) == 2
    watching.look(400, {"dino/entropy": 0.0})  # no look was completed in this step
    assert watching.metrics()["collapse/alarms"] == 1


def test_stop_leaves_an_error_for_the_trainer(watch):
    watching = watch(when_collapsed="stop", patience=1)
    watching.look(200, figures(CLOUDS["constant"]))
    assert isinstance(watching.failure, NumericsError) and "step 200" in str(watching.failure)
    assert watching.failure.exit_code == 4


def test_state_goes_on_counting(watch):
    first, said = watch(), []
    for step in (100, 110):
        first.look(step, figures(CLOUDS["constant"]))
    second = watch(said)
    second.restore(json.loads(json.dumps(first.state())))
    second.look(120, figures(CLOUDS["constant"]))
    assert len(said) == 1


def test_the_monitor_gathers_over_steps_and_waits_for_the_next_turn():
    monitor = FeatureMonitor(REQUEST, every=10, samples=100)
    rows = gaussian(32)
    found = [monitor({REQUEST: rows}, None, step) for step in range(25)]
    assert [step for step, figure in enumerate(found) if figure] == [3, 13, 23]
    late = FeatureMonitor(REQUEST, every=10, samples=64)
    assert [bool(late({REQUEST: rows}, None, step)) for step in (7, 8, 9, 10, 11)] == [False, False, False, False, True]


def test_micro_batches_of_one_step_count_together():
    monitor = FeatureMonitor(REQUEST, every=10, samples=64)
    rows = gaussian(16)
    assert [bool(monitor({REQUEST: rows}, None, step)) for step in (0, 0, 0, 0, 1, 1)] == [False] * 3 + [True] + [
        False
    ] * 2


def test_the_watched_tensor_costs_no_extra_pass():
    """The class token of a view that a teacher encodes anyway; the student's where no teacher is asked."""
    student, local = Request("student", "global", "cls", "cls"), Request("student", "local", "cls")
    teacher = Request("teacher", "global", "masked", "patch")
    assert feature_request((student, local, teacher), ("teacher", "student")) == REQUEST
    assert feature_request((student, local), ("teacher", "student")) == Request("student", "global", "cls")
    assert feature_request((), ("teacher", "student")) is None


@pytest.mark.slow
def test_the_monitor_changes_no_loss(train, metrics, tiny_recipe, tmp_path):
    for every in (1, 1000):
        train(tiny_recipe(f"guard.collapse.every={every}", "guard.collapse.samples=16"), tmp_path / str(every))
    often, rarely = metrics(tmp_path / "1"), metrics(tmp_path / "1000")
    assert [line["loss"] for line in often] == [line["loss"] for line in rarely]
    assert all("features/std" in line and "collapse/alarms" in line for line in often)


SHARP = (
    "objectives=[{name: dino, target: centering, centre_momentum: 1.0, teacher_temperature: 0.01}]", "masking=null",
    "optimizer.learning_rate=1e-2", "branches={teacher: {name: ema, momentum: 0.5}}", "train.batch_size=16",
    "guard.collapse={every: 5, samples: 64}", "checkpoints.every=1000 steps",
)  # fmt: skip


@pytest.mark.fault(37, "a real run without centring, teacher ten times sharper than the student, fast teacher")
def test_a_run_that_collapses_raises_the_alarm(train, tiny_recipe, tmp_path, happened):
    said: list[str] = []
    train(tiny_recipe(*SHARP, "train.length=40 steps"), tmp_path / "run", said)
    alarms = [text for text in said if "collapse?" in text]
    assert any("certain of a few prototypes" in text and "teacher_temperature" in text for text in alarms)
    happened(
        f"{len(alarms)} alarms, the first at {alarms[0].partition(':')[0]}: {alarms[0].partition('? ')[2][:60]}..."
    )


def test_a_run_that_collapses_can_be_stopped(train, tiny_recipe, tmp_path):
    settings = (*SHARP[:-2], "guard.collapse={every: 5, samples: 64, when_collapsed: stop}", SHARP[-1])
    with pytest.raises(NumericsError, match=r"collapsed: .*teacher_temperature"):
        train(tiny_recipe(*settings, "train.length=60 steps"), tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and status["step"] < 60


@pytest.mark.slow
def test_a_healthy_run_raises_none(train, metrics, tmp_path):
    """The quickstart on photographs that scikit-learn carries."""
    from foundation import config, paths
    from foundation.cli import main
    from foundation.run.recipe import Recipe

    assert main(["data", "build", "photo_tiles", str(tmp_path / "shards"), "--train", "400", "--test", "20"]) == 0
    recipe = config.load(
        Recipe, paths.recipe("quickstart"),
        (f"data.shards=[{tmp_path}/shards/train-*.tar]", "train.length=36 steps", "data.workers=0", "train.log_every=5",
         "guard.collapse={every: 4, samples: 256}", "train.device=cpu", "checkpoints.every=1000 steps"),
    )  # fmt: skip
    said: list[str] = []
    train(recipe, tmp_path / "run", said)
    assert not [text for text in said if "collapse?" in text]
    line = metrics(tmp_path / "run")[-1]
    assert line["features/std"] > 0.5 and line["features/rank_share"] > 0.1
