"""Schedules against the reference implementation, value by value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foundation.engine import optimizer
from foundation.schedules import Clock, Duration, Schedule


@pytest.mark.parametrize("case", ["plain", "warmup", "warmup_start", "freeze", "momentum", "one_warmup"])
def test_cosine_scheduler_value_by_value(golden, case):
    data = golden("06_cosine_scheduler")

    def argument(name: str) -> float:
        return data[f"arg/{case}/{name}"].item()

    clock = Clock(int(argument("total_iters")), 10.0)
    schedule = Schedule(
        start=argument("base_value"),
        end=argument("final_value"),
        warmup=Duration(argument("warmup_iters")),
        warmup_from=argument("start_warmup_value"),
        frozen=Duration(argument("freeze_iters")),
    )
    expected = data[f"output/{case}/values"]
    actual = [schedule.at(i, clock) for i in range(len(expected))]
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-15)


def test_all_schedules_of_dinov2(golden):
    file = golden("06_dinov2_schedules")
    data = {key.split("/", 1)[1]: value for key, value in file.items() if not key.startswith("output/")}
    values = {key.split("/", 1)[1]: value for key, value in file.items() if key.startswith("output/")}
    epoch = int(data["official_epoch_length"])
    clock = Clock(epoch * int(data["epochs"]), epoch)
    config = optimizer.Config(
        learning_rate=Schedule(
            start=float(data["base_lr"]),
            end=float(data["min_lr"]),
            warmup=Duration(int(data["warmup_epochs"]), "epochs"),
        ),
        reference_batch=1024,
        scaling="sqrt",
        freeze_last_layer=Duration(int(data["freeze_last_layer_epochs"]), "epochs"),
    )
    scaled = float(data["base_lr"]) * config.factor(int(data["batch_size_per_gpu"]) * int(data["world_size"]))
    assert scaled == pytest.approx(float(data["scaled_lr"]), rel=1e-12)
    rate = replace(config.learning_rate, start=scaled)
    decay = Schedule(start=float(data["weight_decay"]), end=float(data["weight_decay_end"]))
    momentum = Schedule(start=float(data["momentum_teacher"]), end=float(data["final_momentum_teacher"]))
    temperature = Schedule(
        start=float(data["teacher_temp"]),
        shape="constant",
        warmup=Duration(int(data["warmup_teacher_temp_epochs"]), "epochs"),
        warmup_from=float(data["warmup_teacher_temp"]),
    )
    frozen = config.freeze_last_layer.steps(clock)
    for i, step in enumerate(data["iterations"].tolist()):
        expected = {key: values[key][i] for key in ("lr", "weight_decay", "teacher_momentum", "teacher_temp")}
        actual = {
            "lr": rate.at(step, clock),
            "weight_decay": decay.at(step, clock),
            "teacher_momentum": momentum.at(step, clock),
            "teacher_temp": temperature.at(step, clock),
        }
        assert actual == pytest.approx(expected, rel=1e-10), step
        last = 0.0 if step < frozen else rate.at(step, clock)
        assert last == pytest.approx(values["last_layer_lr"][i], rel=1e-10)


def test_durations_in_each_unit_give_steps():
    clock = Clock(total_steps=400, steps_per_epoch=12.5)
    assert [Duration.from_yaml(text).steps(clock) for text in (30, "30 steps", "2 epochs", "5%")] == [30, 30, 25, 20]
