"""The trainer on real shards: resumes bit for bit, stops cleanly, and never lets bad numbers through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from foundation.checkpoints import checkpoint
from foundation.errors import DataBudgetError, NumericsError, UserError
from foundation.run.origin import code
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer


def digests(folder: Path) -> dict[str, str]:
    newest, _ = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    return {p.name: checkpoint.sha256(p) for p in sorted(newest.iterdir()) if p.suffix == ".safetensors"}


def test_a_run_writes_what_the_contract_names(train, metrics, tiny_recipe, tmp_path):
    train(tiny_recipe(), tmp_path / "run")
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    wanted = {"loss", "loss/dino", "loss/ibot", "loss/koleo", "dino/entropy", "gradient/norm", "epoch", "data/skipped",
              "schedule/learning_rate", "schedule/weight_decay", "schedule/teacher_momentum",
              "throughput/samples_per_second", "data/wait_fraction"}  # fmt: skip
    assert wanted <= lines[0].keys()
    assert {p.name for p in (tmp_path / "run" / "export").iterdir()} == {
        "student.safetensors", "student.json", "student.heads.safetensors",
        "teacher.safetensors", "teacher.json", "teacher.heads.safetensors",
    }  # fmt: skip
    names = [path.name for path in checkpoint.steps(tmp_path / "run" / "checkpoints")]
    assert names == ["step-00000006", "step-00000008"]
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    (start,) = map(json.loads, (tmp_path / "run" / "starts.jsonl").read_text().splitlines())
    assert (start["step"], start["processes"], start["device"]) == (0, 1, "cpu") and start["cores"] >= 1
    assert (start["commit"], start["modified"]) == code() and start["torch"] == torch.__version__


def test_a_run_begins_outside_of_a_git_checkout(train, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("foundation.run.words.code_version", lambda: {"version": "1.2.3"})
    said: list[str] = []
    train(tiny_recipe("train.length=1 steps"), tmp_path / "run", said)
    assert any(line.endswith("foundation 1.2.3") for text in said for line in text.splitlines())


def test_loss_is_the_weighted_sum_of_its_parts(train, metrics, tiny_recipe, tmp_path):
    train(tiny_recipe("train.length=2 steps"), tmp_path / "run")
    line = metrics(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(line["loss/dino"] + line["loss/ibot"] + 0.1 * line["loss/koleo"], rel=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(train, metrics, tiny_recipe, tmp_path, workers):
    setting = f"data.workers={workers}"
    train(tiny_recipe(setting), tmp_path / "whole")
    train(tiny_recipe(setting, "train.stop_after=5 steps"), tmp_path / "cut")
    torch.manual_seed(1234)  # whatever happened in between
    said: list[str] = []
    train(tiny_recipe(setting), tmp_path / "cut", said)
    assert any("resuming from step-00000005" in text for text in said)
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
    losses = [line["loss"] for line in metrics(tmp_path / "whole")]
    assert losses == [line["loss"] for line in metrics(tmp_path / "cut")]


def test_what_is_logged_does_not_depend_on_how_often(train, metrics, tiny_recipe, tmp_path):
    lines = []
    for every in (1, 4):
        train(tiny_recipe(f"train.log_every={every}", "data.workers=0"), tmp_path / str(every))
        lines.append([line for line in metrics(tmp_path / str(every)) if line["step"] % 4 == 0])
    often, seldom = lines
    assert len(seldom) == 2
    for one, other in zip(often, seldom, strict=True):
        clocked = [key for key in one if key.startswith(("throughput", "data/", "time", "memory"))]
        assert {k: v for k, v in one.items() if k not in clocked} == {
            k: v for k, v in other.items() if k not in clocked
        }


def test_number_of_workers_does_not_change_the_losses(train, metrics, tiny_recipe, tmp_path):
    for workers in (0, 3):
        train(tiny_recipe(f"data.workers={workers}"), tmp_path / str(workers))
    first, second = ([line["loss"] for line in metrics(tmp_path / str(w))] for w in (0, 3))
    assert first == second


def test_accumulation_gives_the_same_gradient_where_no_objective_couples_samples(train, metrics, tiny_recipe, tmp_path):
    settings = ("objectives=[{name: dino, target: centering}]", "encoder.drop_path=0", "train.length=1 steps",
                "optimizer.clip=null")  # fmt: skip
    train(tiny_recipe(*settings), tmp_path / "one")
    train(tiny_recipe(*settings, "train.accumulate=4"), tmp_path / "four")
    one, four = metrics(tmp_path / "one")[0], metrics(tmp_path / "four")[0]
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert four["gradient/norm"] == pytest.approx(one["gradient/norm"], rel=1e-4)


def test_micro_batches_with_unequal_masks_give_the_means_of_the_whole_batch(train, metrics, tiny_recipe, tmp_path):
    settings = (
        "objectives=[{name: ibot, divide_by: masked_rows}, {name: reconstruction}]", "encoder.drop_path=0",
        "masking.probability=0.3", "train.length=1 steps", "optimizer.clip=null",
    )  # fmt: skip
    train(tiny_recipe(*settings), tmp_path / "one")
    train(tiny_recipe(*settings, "train.accumulate=8"), tmp_path / "eight")  # some of one sample without any mask
    one, eight = metrics(tmp_path / "one")[0], metrics(tmp_path / "eight")[0]
    for name in ("loss", "loss/ibot", "loss/reconstruction", "gradient/norm"):
        assert eight[name] == pytest.approx(one[name], rel=1e-5)


def test_a_flipped_byte_falls_back_to_the_checkpoint_before(train, metrics, tiny_recipe, tmp_path):
    train(tiny_recipe(), tmp_path / "run")
    broken = tmp_path / "run" / "checkpoints" / "step-00000008" / "student.safetensors"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    said: list[str] = []
    train(tiny_recipe(), tmp_path / "run", said)
    assert any("step-00000008 is not used: checksum mismatch in student.safetensors" in text for text in said)
    assert any("resuming from step-00000006" in text for text in said)
    assert metrics(tmp_path / "run")[-1]["step"] == 8
    assert checkpoint.problem(tmp_path / "run" / "checkpoints" / "step-00000008") is None


def test_non_finite_loss_stops_before_optimiser_and_teacher(tiny_recipe, tmp_path):
    def state(trainer: Trainer) -> dict[str, torch.Tensor]:
        return {k: v.nan_to_num(7.0).clone() for k, v in trainer.learner.branches.state_dict().items()}

    with RunFolder(tmp_path / "run") as run:
        trainer = Trainer(tiny_recipe(), run, say=lambda text: None)
        with torch.no_grad():
            next(iter(trainer.learner.branches["teacher"].encoder.parameters())).fill_(float("nan"))
        before = state(trainer)
        with pytest.raises(NumericsError, match=r"step 0: loss nan .*dino nan.*not finite.*step-00000000") as caught:
            trainer.run()
    assert caught.value.exit_code == 4
    assert not any(tensor.any() for tensor in trainer.stage.optimizer.tensors().values())
    after = state(trainer)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert [folder.name for folder in checkpoint.steps(tmp_path / "run" / "checkpoints")] == ["step-00000000"]


def test_bad_samples_are_skipped_named_and_counted(train, metrics, tiny_recipe, damaged_shards, tmp_path):
    said: list[str] = []
    recipe = tiny_recipe("train.length=3 steps", "train.batch_size=4", shards=damaged_shards)
    train(recipe, tmp_path / "run", said)
    skipped = [text for text in said if text.startswith("skipped")]
    assert all("train-" in text and ".tar: s0" in text for text in skipped)
    assert len({text.split(": ")[2] for text in skipped}) == len(skipped) == 3  # each is named once,
    last = metrics(tmp_path / "run")[-1]
    assert last["data/skipped"] == 4 and last["data/bad_samples"] == 3  # and one was drawn in the place of another too


def test_more_bad_samples_than_the_budget_end_the_run(train, tiny_recipe, damaged_shards, tmp_path):
    recipe = tiny_recipe("data.max_bad_samples=1", "train.batch_size=4", shards=damaged_shards)
    with pytest.raises(DataBudgetError, match=r"data\.max_bad_samples = 1.*\.tar: s0") as caught:
        train(recipe, tmp_path / "run")
    assert caught.value.exit_code == 3


@pytest.mark.fault(14, "the global batch changed before a resume, without and with --accept-changes")
def test_resume_with_another_batch_size_is_refused(train, tiny_recipe, tmp_path, happened):
    train(tiny_recipe("train.length=2 steps"), tmp_path / "run")
    changed = tiny_recipe("train.length=4 steps", "train.batch_size=4")
    with pytest.raises(UserError, match=r"train\.batch_size: 8 then, 4 now"):
        train(changed, tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        accepted = Trainer(changed, folder, say=lambda text: None, accept_changes=True)
        assert accepted.progress.step == 2 and accepted.progress.position == 16
    happened("refused: `train.batch_size: 8 then, 4 now`; with --accept-changes it goes on behind the samples consumed")


def test_two_runs_cannot_share_a_folder(train, tiny_recipe, tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(UserError, match="another process is training"):
        train(tiny_recipe(), tmp_path / "run")


def command(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "foundation", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_saves_and_exits_75_and_the_same_command_goes_on(tiny_recipe_file, tmp_path, number):
    words = (
        "pretrain",
        str(tiny_recipe_file),
        "train.length=400 steps",
        "data.workers=1",
        "--run",
        str(tmp_path / "run"),
    )
    process = command(*words, start_new_session=True)
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal or a scheduler does: every process of the group
    out, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    assert "saved" in err and number.name in err
    newest, skipped = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert newest is not None and not skipped
    stopped_at = int(newest.name.removeprefix("step-"))
    again = command(*words, f"train.stop_after={stopped_at + 1} steps")
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert f"resuming from {newest.name}" in out
