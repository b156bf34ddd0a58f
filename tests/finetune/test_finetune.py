"""``foundation finetune`` as a user calls it: what is trained, what is chosen, what is left to use."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import foundation
from foundation.cli import main
from foundation.data.extras.target import Config as Target
from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.finetuning.predictor import predictor
from foundation.probes.supervised import kept_back, scores

FAST = ["--workers", "0", "--batch-size", "16", "train.device=cpu", "train.precision=float32"]


def finetune(encoder, pictures, run, *words):
    train, test = pictures
    return main(["finetune", str(encoder), "--train", train, "--test", test, "--run", str(run), *FAST, *words])


def moved(encoder, run) -> set[str]:
    before, after = load_file(encoder), load_file(run / "export" / "best.safetensors")
    assert before.keys() == after.keys()
    return {key for key in before if not torch.equal(before[key], after[key])}


def in_blocks(keys) -> set[str]:
    return {key.split("blocks.")[1].split(".")[0] for key in keys if "blocks." in key}


@pytest.mark.parametrize(
    "mode", [*(pytest.param(mode, marks=pytest.mark.slow) for mode in ("head", "last:1", "lora")), "all"]
)
def test_what_a_mode_trains_and_nothing_else_moves(mode, encoder, pictures, tmp_path):
    if mode == "lora":
        pytest.importorskip("peft")
    assert finetune(encoder, pictures, tmp_path, "--mode", mode, "--epochs", "8", "--learning-rate", "2e-3") == 0
    result = json.loads((tmp_path / "finetune.json").read_text())
    assert result["n"] == 48 and result["classes"] == ["blue", "green", "red"]
    assert result["value"] > 0.6 and result["interval"][0] > 1 / 3  # three classes
    keys = moved(encoder, tmp_path)
    if mode == "head":
        assert not keys
    elif mode == "last:1":
        assert in_blocks(keys) == {"1"} and not any("tokenizer" in key or "cls" in key for key in keys)
    elif mode == "lora":
        assert in_blocks(keys) == {"0", "1"} and all("blocks." in key and key.endswith("weight") for key in keys)
        assert not any("norm" in key or "lora" in key for key in keys)
    else:
        assert in_blocks(keys) == {"0", "1"} and any("tokenizer" in key for key in keys)

    model = foundation.load(tmp_path / "export" / "best.safetensors")
    assert torch.equal(
        foundation.load(tmp_path)(np.zeros((16, 16, 3), np.uint8)), model(np.zeros((16, 16, 3), np.uint8))
    )
    tuned = predictor(tmp_path)
    answers, target = tuned.score([pictures[1]])
    assert scores(answers, target).value == pytest.approx(result["value"])
    red = np.full((16, 16, 3), 60, np.uint8)
    red[..., 0] = 220
    shares = tuned([red, red])
    assert shares.shape == (2, 3) and torch.allclose(shares.sum(dim=1), torch.ones(2))
    if mode == "all":
        assert tuned.predict(red) == ["red"]


@pytest.mark.slow
def test_an_encoder_that_was_fine_tuned_is_one_like_any_other(encoder, pictures, tmp_path):
    assert finetune(encoder, pictures, tmp_path / "first", "--epochs", "2") == 0
    assert finetune(tmp_path / "first", pictures, tmp_path / "second", "--epochs", "2", "--mode", "all") == 0
    assert moved(tmp_path / "first" / "export" / "best.safetensors", tmp_path / "second")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["all", "lora", "head"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(mode, encoder, pictures, tmp_path):
    if mode == "lora":
        pytest.importorskip("peft")
    words = ["--mode", mode, "--epochs", "3"]
    assert finetune(encoder, pictures, tmp_path / "whole", *words) == 0
    command = ["finetune", str(encoder), "--train", pictures[0], "--test", pictures[1], "--run", str(tmp_path / "cut")]
    process = subprocess.Popen([sys.executable, "-m", "foundation", *command, *FAST, *words], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "cut" / "checkpoints" / "step-00000009").exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "cut" / "finetune.json").exists()
    assert finetune(encoder, pictures, tmp_path / "cut", *words) == 0
    written = [
        sorted(path.name for path in (tmp_path / run / "export").glob("*.safetensors")) for run in ("whole", "cut")
    ]
    assert written[0] == written[1] and {"best.safetensors", "best.heads.safetensors"} <= set(written[0])
    for name in written[0]:
        whole, cut = (load_file(tmp_path / run / "export" / name) for run in ("whole", "cut"))
        assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole), name
    first, second = (json.loads((tmp_path / run / "finetune.json").read_text()) for run in ("whole", "cut"))
    assert first["figures"] == second["figures"]


@pytest.mark.slow
def test_training_ends_when_nothing_gets_better_and_keeps_the_best(encoder, pictures, tmp_path, capsys):
    words = ["--mode", "all", "--epochs", "40", "--patience", "1", "--learning-rate", "1e-9"]
    assert finetune(encoder, pictures, tmp_path, *words) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "validation/loss" in line]
    assert 2 <= len(validated) < 6
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "done" and status["step"] < status["total"]
    before = (tmp_path / "export" / "best.safetensors").read_bytes()
    assert finetune(encoder, pictures, tmp_path, *words) == 0  # nothing is trained any more
    assert (tmp_path / "export" / "best.safetensors").read_bytes() == before
    again = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(line.get("step", 0) for line in again) == status["step"]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["patches", "both"])
def test_a_number_is_learnt(tokens, encoder, pictures, tmp_path):
    words = ["--task", "regression", "--label", "strength", "--mode", "all", "--epochs", "12", "--tokens", tokens]
    assert finetune(encoder, pictures, tmp_path, *words, "--learning-rate", "2e-3") == 0
    result = json.loads((tmp_path / "finetune.json").read_text())
    assert result["metric"] == "R2" and result["value"] > 0.2  # the mean of all would score 0
    assert 0 < result["figures"]["MAE"] < 0.18  # a quarter of the range is what the mean of all is off by
    (said,) = predictor(tmp_path).predict(np.full((16, 16, 3), 60, np.uint8))
    assert -1 < said < 2


@pytest.mark.slow
def test_several_labels_are_learnt(encoder, pictures, tmp_path):
    words = ["--task", "labels", "--label", "tags", "--mode", "all", "--epochs", "12", "--class-weights", "balanced"]
    assert finetune(encoder, pictures, tmp_path, *words, "--learning-rate", "2e-3") == 0
    result = json.loads((tmp_path / "finetune.json").read_text())
    assert result["metric"] == "mAP" and result["value"] > 0.7 and result["n"] == 48  # those without any label count
    assert all(isinstance(row, tuple) for row in predictor(tmp_path).predict([np.zeros((16, 16, 3), np.uint8)] * 2))


def test_samples_that_are_kept_back_teach_nothing_and_groups_stay_together(pictures):
    target = Target(classes=("blue", "green", "red"), kept_back=0.3, group=r"^(p\d+)").build("target")
    shards = open_shards(pictures[0])
    held, rest = kept_back(shards, target), kept_back(shards, target, wanted=False)
    assert held.num_samples + rest.num_samples == shards.num_samples and 0.1 < held.num_samples / 144 < 0.5
    groups = [
        {part.read(*part.locate(place))["__key__"][:3] for place in range(part.num_samples)} for part in (held, rest)
    ]
    assert not groups[0] & groups[1] and all(groups)
    raw = held.read(*held.locate(0))
    assert target.decode(raw) == -1 and target.value(raw) in (0, 1, 2)
    assert target.decode(rest.read(*rest.locate(0))) in (0, 1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode", "last:9"], "the encoder has 2 blocks"),
        (["--mode", "some"], "none of head, last:N"),
        (["--label", "colour"], "none of the 144 samples .* has a label"),
        (["--label", "tags"], "several labels each: say --task labels"),
        (["--task", "regression", "--label", "label"], "has numbers there"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(words, said, encoder, pictures, tmp_path, capfd):
    assert finetune(encoder, pictures, tmp_path / "run", *words) == UserError.exit_code
    assert re.search(said, capfd.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_heads_of_another_training_are_refused(encoder, pictures, tmp_path):
    for run in ("one", "two"):
        assert (
            finetune(
                encoder,
                pictures,
                tmp_path / run,
                "--mode",
                "all",
                "--epochs",
                "1",
                "--seed",
                str(len(run) * ord(run[0])),
            )
            == 0
        )
    name = "best.heads.safetensors"
    (tmp_path / "one" / "export" / name).write_bytes((tmp_path / "two" / "export" / name).read_bytes())
    with pytest.raises(UserError, match="checksum mismatch"):
        predictor(tmp_path / "one")
    with pytest.raises(UserError, match="is no fine-tuned model"):
        predictor(encoder)
