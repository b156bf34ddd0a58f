"""The supervised objective against what torch and scikit-learn say, sample by sample; labels as numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score

from foundation.branches.base import Offer
from foundation.data.extras.target import UNKNOWN
from foundation.data.extras.target import Config as Target
from foundation.errors import UserError
from foundation.heads.linear import Config as Linear
from foundation.objectives.base import ObjectiveContext
from foundation.objectives.supervised import Config
from foundation.probes.supervised import Answers, scores
from foundation.schedules import Clock
from foundation.types import Batch, View

WIDTH = 6


def objective(outputs=3, **settings):
    heads = {"cls": Linear(outputs=outputs), "patches": Linear(outputs=outputs)}
    return Config(**settings).build(ObjectiveContext(Clock(10, 10.0), {"student": Offer(WIDTH, heads)}))


def batch(target, count=2, valid=None):
    size = len(target)
    view = View(torch.zeros(count * size, 1), "x", "global", count, torch.arange(size).repeat(count),
                torch.zeros(count * size, 1, 2), valid)  # fmt: skip
    labels = torch.full((size,), -1)
    return Batch({"global": view}, {}, ("k",) * size, labels, 0, size, extras={"target": target})


def test_classes_are_cross_entropy_over_the_samples_that_have_one():
    target = torch.tensor([0, 2, -1, 1])
    answers = torch.randn(8, 3)
    made = objective(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1)
    (request,) = made.requests
    result = made({request: answers}, batch(target), 0)
    rows = [0, 1, 3, 4, 5, 7]
    wanted = F.cross_entropy(
        answers[rows], target.repeat(2)[rows], torch.tensor([1.0, 2.0, 0.5]), reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(result.loss, wanted.mean())
    assert float(result.metrics["labelled"]) == 0.75
    right = (answers.argmax(dim=1) == target.repeat(2))[rows].float().mean()
    torch.testing.assert_close(result.metrics["accuracy"], right)


def test_without_any_label_nothing_is_learnt():
    made = objective()
    answers = torch.randn(4, 3, requires_grad=True)
    result = made({made.requests[0]: answers}, batch(torch.tensor([-1, -1])), 0)
    result.loss.backward()
    assert result.loss.item() == 0 and (answers.grad == 0).all()


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_numbers_and_labels_are_averaged_over_outputs_and_samples(task):
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [math.nan] * 3])
    answers = torch.randn(3, 3, requires_grad=True)
    made = objective(task=task)
    result = made({made.requests[0]: answers}, batch(target, count=1), 0)
    loss = F.binary_cross_entropy_with_logits if task == "labels" else F.mse_loss
    torch.testing.assert_close(result.loss, loss(answers[:2], target[:2]))
    result.loss.backward()
    assert answers.grad.isfinite().all() and (answers.grad[2] == 0).all()


def test_both_tokens_add_up_and_padding_does_not_count():
    made = objective(outputs=2, tokens="both", task="regression")
    cls, patches = made.requests
    of_class, of_patches = torch.randn(2, 2), torch.randn(2, 4, 2)
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    target = torch.zeros(2, 2)
    result = made({cls: of_class, patches: of_patches}, batch(target, count=1, valid=valid), 0)
    mean = torch.stack([of_patches[0].mean(dim=0), of_patches[1, :2].mean(dim=0)])
    torch.testing.assert_close(result.loss, (of_class + mean).square().mean())


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="2 class_weights for 3 outputs"):
        objective(class_weights=(1.0, 1.0))
    with pytest.raises(UserError, match="no classes that could be weighted"):
        Config(task="regression", class_weights=(1.0,))
    for wrong in ({"task": "regression"}, {}, {"classes": ("a",), "mean": (0.0,), "std": (1.0,)}):
        with pytest.raises(UserError, match=r"data\.extras"):
            Target(**wrong)


def raw(**members):
    made = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in members.items()}
    return {"__key__": "k", **made}


def test_labels_become_numbers():
    classes = Target(classes=("0", "cat")).build("target")
    assert [classes.decode(raw(cls=b"0")), classes.decode(raw(json={"label": "cat"}))] == [0, 1]
    assert [classes.decode(raw(cls=b"7")), classes.decode(raw(json={"label": ["cat", 0]})), classes.decode(raw())] == [
        UNKNOWN, -1, -1
    ]  # fmt: skip
    tags = Target(task="labels", fields=("tags",), classes=("a", "b")).build("target")
    assert tags.decode(raw(json={"tags": ["b", "other"]})) == [0.0, 1.0]
    assert tags.decode(raw(json={"tags": []})) == [0.0, 0.0] and np.isnan(tags.decode(raw(json={}))).all()
    numbers = Target(task="regression", fields=("x", "y"), mean=(1.0, 0.0), std=(2.0, 1.0)).build("target")
    assert numbers.decode(raw(json={"x": 5, "y": "0.5"})) == [2.0, 0.5]
    for bad in (
        {"x": 5},
        {"x": 5, "y": "tall"},
        {"x": float("inf"), "y": 1},
        {"x": True, "y": 1},
        [1],
        {"x": [1, 2], "y": 0},
    ):
        assert np.isnan(numbers.decode(raw(json=bad))).all()


def test_scores_are_those_of_scikit_learn():
    random = torch.Generator().manual_seed(0)
    answers, labels = torch.randn(50, 4, generator=random), torch.rand(50, 4, generator=random) > 0.6
    found = scores(
        Answers(answers, labels.float(), ("k",) * 50), Target(task="labels", classes=tuple("abcd")).build("t")
    )
    assert found.value == pytest.approx(average_precision_score(labels.numpy(), answers.numpy(), average="macro"))
    assert found.figures["F1"] == pytest.approx(f1_score(labels.numpy(), (answers > 0).numpy(), average="micro"))
    truth = answers[:, :2] + 0.3 * torch.randn(50, 2, generator=random)
    target = Target(task="regression", mean=(0.0, 5.0), std=(1.0, 3.0)).build("t")
    found = scores(Answers(answers[:, :2], truth, ("k",) * 50), target)
    assert found.value == pytest.approx(r2_score(truth.numpy(), answers[:, :2].numpy()), abs=1e-5)
    unit = torch.tensor([1.0, 3.0])
    assert found.figures["MAE"] == pytest.approx(
        mean_absolute_error((truth * unit).numpy(), (answers[:, :2] * unit).numpy()), abs=1e-5
    )
    with pytest.raises(UserError, match="nothing to score"):
        scores(Answers(answers[:0], truth[:0], (), unlabelled=3), target)
