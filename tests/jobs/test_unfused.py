"""UnFuSeD as a recipe: pretrain, cluster the features; a new network learns the clusters, its exit the deep layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.run.recipe import Recipe
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer

pytestmark = pytest.mark.slow
STAGES = """
stages:
  - name: pretrain
    length: 3 steps
    objectives: [{name: dino}]
  - name: distil
    length: 16 steps
    masking: null
    train: ["fresh.*", "early.*"]
    branches:
      pretrained: {name: previous, at: stage, of: teacher}
      fresh: {name: trained, heads: {clusters: {prototypes: 4, hidden: 32, bottleneck: 16, layers: 2}}}
      early:
        {name: exit, of: fresh, block: 1, heads: {clusters: {prototypes: 4, hidden: 32, bottleneck: 16, layers: 2}}}
    measured: fresh
    objectives:
      - {name: pseudo_label, student: fresh, head: clusters}
      - {name: pseudo_label, student: early, head: clusters}
      - {name: dino, student: early, teacher: fresh, head: clusters, same_view: true, other_views: [], weight: 0.5,
         teacher_temperature: 0.1}
    jobs:
      - {name: cluster, branch: pretrained, at_start: true, every: 100%}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_shards) -> tuple[Path, str]:
    from tests.conftest import RECIPE

    text = RECIPE.format(shards=tiny_shards) + STAGES
    folder = tmp_path_factory.mktemp("unfused") / "whole"
    with RunFolder(folder) as run:
        Trainer(config.load(Recipe, text, SETTINGS), run, say=lambda line: None).run()
    return folder, text


SETTINGS = ("checkpoints={every: 4 steps, keep_last: 40}", "optimizer.learning_rate=3e-3", "train.batch_size=20")


def tensors(folder: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    names = ("student", "pretrained", "fresh", "early", "stores")
    return checkpoint.read(folder / "checkpoints" / checkpoint.name_of(step), names)[0]


def test_a_new_network_and_its_exit_learn_the_clusters_of_the_pretrained_one(whole, metrics):
    folder, _ = whole
    lines = [line for line in metrics(folder) if "loss" in line]
    assert all(line["pseudo_label/assigned"] == 1 for line in lines[3:])
    for name in ("loss/pseudo_label", "loss/pseudo_label-2"):
        values = [line[name] for line in lines[3:]]
        assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4]), values
    first, last = tensors(folder, 4), tensors(folder, 19)
    moved = {
        name: any(not torch.equal(value, last[name][key]) for key, value in first[name].items())
        for name in ("student", "pretrained", "fresh", "early", "stores")
    }
    # The clusters of the start stand until the end of the stage, where 100 % of it have gone by.
    assert torch.equal(first["stores"]["clusters.values"], tensors(folder, 16)["stores"]["clusters.values"])
    del moved["stores"]
    assert moved == {"student": False, "pretrained": False, "fresh": True, "early": True}


def test_stopped_behind_the_clustering_it_goes_on_bit_for_bit(whole, train, metrics, tmp_path):
    folder, text = whole
    train(config.load(Recipe, text, (*SETTINGS, "train.stop_after=5 steps")), tmp_path / "cut")
    torch.manual_seed(99)
    train(config.load(Recipe, text, SETTINGS), tmp_path / "cut")
    losses = [[line["loss"] for line in metrics(one) if "loss" in line] for one in (folder, tmp_path / "cut")]
    assert losses[0] == losses[1]
    assert all(
        torch.equal(value, tensors(tmp_path / "cut", 19)[name][key])
        for name, part in tensors(folder, 19).items()
        for key, value in part.items()
    )
