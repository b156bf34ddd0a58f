"""Labels and splits at the edge of what can be learnt or scored: said beforehand, and no figure flatters."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from foundation import cli
from foundation.cli import main
from foundation.data.extras.target import UNKNOWN
from foundation.data.extras.target import Config as Target
from foundation.data.write import write_shards
from foundation.errors import UserError
from foundation.finetuning.scores import interval_of
from foundation.finetuning.survey import survey
from foundation.jobs.validate import Config as Validate
from foundation.jobs.validate import ValidateJob
from foundation.probes.supervised import Answers, scores
from foundation.schedules import Duration
from tests.finetune.test_finetune import finetune

ROOT = Path(__file__).resolve().parents[2]


def test_samples_of_a_class_that_was_not_trained_count_as_wrong():
    target = Target(classes=("a", "b")).build("target")
    said = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    answers = Answers(said, torch.tensor([0, 1, UNKNOWN, UNKNOWN]), tuple("wxyz"))
    found = scores(answers, target)
    assert answers.unknown == 2 and found.n == 4 and found.value == 0.5
    assert found.figures["balanced"] == pytest.approx(2 / 3) and found.figures["loss"] < 0.2
    raw = {"__key__": "k", "cls": b"c"}
    assert target.value(raw) == UNKNOWN and target.value({"__key__": "k"}) == -1


def test_the_best_is_found_by_the_loss_where_the_headline_is_not_defined():
    """R2 of a single sample that is kept back is not: without this, the head that nobody trained would be the best."""
    job = ValidateJob(Validate(every=Duration(1, "epochs")), Target(task="regression", mean=(0.0,), std=(1.0,)))
    assert job._is_better(math.nan, 2.0)
    job.top.copy_(torch.tensor([-math.inf, 2.0], dtype=torch.float64))
    assert job._is_better(math.nan, 1.0) and not job._is_better(math.nan, 2.5) and job._is_better(-5.0, 9.0)
    assert not job._is_better(math.nan, math.nan)
    job.top.copy_(torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert job._is_better(0.6, 9.0) and not job._is_better(0.4, 1.0) and job._is_better(0.5, 1.0)


def labelled(folder, count, label):
    samples = (
        {"__key__": f"k{place:03d}", "json": json.dumps({"label": label(place)}).encode()} for place in range(count)
    )
    write_shards(samples, folder, "train")
    return str(folder / "train-*.tar")


def test_equal_numbers_are_nothing_to_learn_whatever_their_deviation_is_rounded_to(tmp_path):
    shards = labelled(tmp_path, 30, lambda place: 0.1)
    with pytest.raises(UserError, match="are all the same"):
        survey([shards], "regression", ["label"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--group", "json:subject"], "finds nothing in the key 'p00-0000'.*a field of the json cannot be named here"),
        (["--group", "^(q)"], "finds nothing in the key"),
        (["--group", "^(p)"], "of the 144 samples .--group '.*would be kept back"),
        (["--validation", "1e-9"], "none of the 144 samples would be kept back"),
    ],
)
def test_a_split_that_cannot_be_is_said_before_anything_is_trained(words, said, encoder, pictures, tmp_path, capfd):
    assert finetune(encoder, pictures, tmp_path / "run", *words) == UserError.exit_code
    assert re.search(said, capfd.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_windows_of_one_person_are_not_independent():
    target = Target(classes=("a", "b"), group=r"^(s\d+)").build("target")
    truth = torch.tensor([0, 1] * 50)
    wrong = torch.arange(100) // 25 == 0  # all windows of one person of four
    said = torch.nn.functional.one_hot(truth ^ wrong.long(), 2).float()
    answers = Answers(said, truth, tuple(f"s{place // 25}-{place}" for place in range(100)))
    found = scores(answers, target)
    low, high = interval_of(found, answers, target)
    assert found.value == 0.75 and found.interval[0] > 0.65 and low < 0.3 and high > 0.9
    alone = Target(classes=("a", "b")).build("target")
    assert interval_of(found, answers, alone) == found.interval


def test_class_numbers_are_called_what_the_index_of_the_shards_says(tmp_path):
    for place, colour in enumerate(("blue", "red")):
        (tmp_path / "files" / colour).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16), (place * 200, number, 0)).save(tmp_path / "files" / colour / f"{number}.png")
    assert main(["data", "build", "folder", str(tmp_path / "shards"), "--root", str(tmp_path / "files")]) == 0
    found = survey([str(tmp_path / "shards" / "train-*.tar")], "classification", ("label",))
    assert found.classes == ("0", "1") and found.names == ("blue", "red")
    with pytest.raises(UserError, match="names must be as many as classes"):
        Target(classes=("0", "1"), names=("blue",))


def test_the_command_offers_what_the_objective_knows():
    from foundation.data.extras.target import TASKS
    from foundation.objectives.supervised import HEADS

    script = cli._load(ROOT / "tools" / "finetune.py")
    parser = argparse.ArgumentParser()
    script.add_arguments(parser)
    offered = {action.dest: action.choices for action in parser._actions}
    assert (offered["task"], offered["tokens"]) == (TASKS, tuple(HEADS))
