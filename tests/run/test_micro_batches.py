"""A step in several micro-batches is the step in one: losses, figures, gradients and what objectives keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PLAIN = (
    "encoder.drop_path=0.0", "train.length=3 steps", "train.batch_size=8", "train.log_every=1", "optimizer.clip=null",
    "checkpoints.every=1000 steps",
)  # fmt: skip
UNEVEN = "masking={probability: 0.3, ratio: [0.1, 0.9], min_patches: 1}"
"""Some micro-batches of two samples have no masked row."""
LAYERS = "{prototypes: null, hidden: 16, bottleneck: 16, layers: 2, activation: relu}"
OBJECTIVES = {
    "dino and ibot": ("objectives=[{name: dino}, {name: ibot, divide_by: masked_rows}, {name: ibot, over: all}]",),
    "ibot of its own rows": ("objectives=[{name: dino}, {name: ibot, centre_over: all}]",),
    "reconstruction": ("objectives=[{name: reconstruction, distance: l1}, {name: reconstruction, over: all}]",),
    "byol": (
        f"heads={{projector: {LAYERS}}}",
        f"objectives=[{{name: byol, other_views: [local], predictor: {LAYERS}}}, "
        f"{{name: byol, token: masked, pairs: same, predictor: {LAYERS}}}]",
    ),
    "masked_dino": ("objectives=[{name: masked_dino, student_view: global}]",),
}  # fmt: skip
SHARES = ("explained", "std_student", "std_teacher", "prototypes")
"""Figures that are no means over items: that of all is not the mean of those of the parts."""


def learnt(
    train: Any, recipe: Any, folder: Path, metrics: Any
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    trainer = train(recipe, folder)
    return metrics(folder), {name: value.detach().clone() for name, value in trainer.learner.state_dict().items()}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_losses_figures_and_weights_are_those_of_one_batch(
    tiny_recipe: Callable[..., Any], train: Any, metrics: Any, tmp_path: Path, case: str
) -> None:
    words = (*PLAIN, UNEVEN, *OBJECTIVES[case])
    whole, weights = learnt(train, tiny_recipe(*words), tmp_path / "one", metrics)
    parts, others = learnt(train, tiny_recipe(*words, "train.accumulate=4"), tmp_path / "several", metrics)
    compared = [
        key for key in whole[0]
        if key.startswith(("loss", "gradient")) or ("/" in key and key.partition("/")[0].split("-")[0] in case.split())
        if not key.endswith(SHARES)
    ]  # fmt: skip
    assert len(compared) >= 3
    for one, several in zip(whole, parts, strict=True):
        for key in compared:
            assert several[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key
    if case == "dino and ibot":
        assert {"dino/entropy", "dino/kl", "ibot/entropy", "ibot/kl", "ibot/masked"} <= set(compared)
    for name, value in weights.items():  # AdamW's first steps turn the rounding of a tiny gradient into a whole step
        assert torch.allclose(value.float(), others[name].float(), rtol=1e-3, atol=2e-3), name


def test_the_queue_is_the_same_however_a_batch_is_dealt_out(
    tiny_recipe: Callable[..., Any], train: Any, tmp_path: Path
) -> None:
    words = (*PLAIN, "masking=null", "train.length=1 steps", "objectives=[{name: contrast, queue: 24}]", "heads={}")
    found = []
    for rounds in (1, 2, 4):
        trainer = train(tiny_recipe(*words, f"train.accumulate={rounds}"), tmp_path / str(rounds))
        contrast = trainer.learner.objectives["contrast"]
        found.append((contrast.queue_ids, contrast.queue))
    assert len(set(found[0][0].tolist())) == 9  # 8 samples with two views each, and places that are still empty
    for ids, queue in found[1:]:
        assert torch.equal(ids, found[0][0]) and torch.allclose(queue, found[0][1], atol=1e-6)
