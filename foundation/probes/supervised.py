"""How good the answers of trained heads are: the evaluation view of each sample, and scores for each kind of label.

Letters: S samples, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.branches.base import EncoderBranch
from foundation.data.extras.target import UNKNOWN, Target, Task
from foundation.data.shards import RawSample, ShardSet
from foundation.data.stream import build_eval_loader
from foundation.errors import UserError
from foundation.modalities.parts import Pieces
from foundation.objectives.supervised import Tokens, answers_of
from foundation.probes.road import Some, share_of
from foundation.probes.scores import score
from foundation.types import Sample


@dataclass(frozen=True)
class Answers:
    """What heads say of samples, beside what is right.

    Attributes:
        answers: [S, K] float32 before softmax, sigmoid or units.
        targets: [S] int64 of classes (``UNKNOWN`` for those that were not trained), or [S, K] float32, as
            :class:`foundation.data.extras.target.Target` gives them.
        keys: of the samples.
        unlabelled: samples that were left out because they have no label.
        skipped: samples that could not be read, by reason.
    """

    answers: Tensor
    targets: Tensor
    keys: tuple[str, ...]
    unlabelled: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def unknown(self) -> int:
        """Samples of classes that were not trained."""
        return 0 if self.targets.ndim > 1 else int((self.targets == UNKNOWN).sum())


@dataclass(frozen=True)
class Scores:
    """Of answers.

    Attributes:
        metric: the headline: ``top1``, ``mAP`` or ``R2``.
        figures: by name, the headline and ``loss`` among them; shares in [0, 1], errors in the labels' own unit.
        interval: 95 % interval of ``top1`` (Wilson 1927); None for other metrics.
        n: samples.
    """

    metric: str
    figures: Mapping[str, float]
    interval: tuple[float, float] | None
    n: int

    @property
    def value(self) -> float:
        """Of the headline."""
        return self.figures[self.metric]


class _WithTarget:
    """A decoder whose samples carry the label as numbers in the place of what the shards say."""

    def __init__(self, decode: Callable[[RawSample], Sample], target: Target) -> None:
        self.decode, self.target = decode, target

    def __call__(self, raw: RawSample) -> Sample:
        sample = self.decode(raw)
        sample["label"] = self.target.value(raw)
        return sample


def kept_back(shards: ShardSet, target: Target, wanted: bool = True) -> Any:
    """The samples of some shards that a target keeps back (or the others), by their keys alone."""
    keys = (key for shard in range(len(shards.counts)) for key in shards.table(shard).keys)
    return Some(shards, np.flatnonzero([target.is_kept_back(key) == wanted for key in keys]))


def answers(
    branch: EncoderBranch,
    samples: Any,
    *,
    decode: Callable[[RawSample], Sample],
    evaluation: Any,
    target: Target,
    tokens: Tokens,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str = "cpu",
    autocast: bool = False,
    shared: bool = False,
    views: Any = None,
) -> Answers:
    """What the heads of a branch say of one evaluation view of each labelled sample.

    Args:
        branch: in evaluation mode or not; it is left as it was.
        samples: a ShardSet, or a part of one.
        decode: raw sample -> sample.
        evaluation: the modality's ``EvaluationConfig``.
        target: what the labels mean.
        tokens: what stands for a sample.
        batch_size: samples per forward pass.
        workers: loader processes.
        device: where the branch is.
        autocast: compute in bfloat16.
        shared: each process of a run looks at a share.
        views: from samples to views in the place of those of the evaluation: with one axis more,
            :class:`foundation.modalities.parts.Pieces`, over which answers are averaged.
    """
    samples = share_of(samples) if shared else samples
    outputs = target.config.outputs
    if not samples.num_samples:
        return _joined([], [], [], outputs, target.config.task, {})
    make = evaluation.build() if views is None else views
    loader = build_eval_loader(samples, make, _WithTarget(decode, target), batch_size, workers=workers)
    found: list[Tensor] = []
    labels: list[Any] = []
    keys: list[str] = []
    skipped: dict[str, int] = {}
    modes = {module: module.training for module in branch.modules()}
    kind = torch.device(device).type
    branch.eval()
    try:
        for batch in loader:
            for reason, count in batch.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
            if not len(batch.keys):
                continue
            with torch.no_grad(), torch.autocast(kind, torch.bfloat16) if autocast else nullcontext():
                pieces = batch.data.unbind(dim=1) if isinstance(make, Pieces) else (batch.data,)
                said = [answers_of(branch, piece.to(device), tokens).cpu() for piece in pieces]
                found.append(torch.stack(said).mean(dim=0))
            labels += batch.names
            keys += batch.keys
    finally:
        loader.close()
        for module, mode in modes.items():
            module.training = mode
    return _joined(found, labels, keys, outputs, target.config.task, skipped)


def _joined(
    found: Sequence[Tensor],
    labels: Sequence[Any],
    keys: Sequence[str],
    outputs: int,
    task: Task,
    skipped: Mapping[str, int],
) -> Answers:
    said = torch.cat([*found]) if found else torch.empty(0, outputs)
    if task == "classification":
        targets = torch.tensor(list(labels), dtype=torch.int64)
        known = (targets >= 0) | (targets == UNKNOWN)
    else:
        targets = torch.tensor(list(labels), dtype=torch.float32).reshape(len(labels), outputs)
        known = targets.isfinite().all(dim=1)
    rows = known.nonzero().flatten()
    kept = tuple(keys[row] for row in rows.tolist())
    return Answers(said[rows], targets[rows], kept, len(known) - len(rows), dict(skipped))


def scores(found: Answers, target: Target) -> Scores:
    """Score answers. Samples of a class that was not trained count as wrong, and together as one class more.

    Raises:
        UserError: there are none.
    """
    if not len(found.answers):
        why = f": {found.unlabelled:,} samples have no label of the kind" if found.unlabelled else ""
        raise UserError(f"nothing to score{why} (task {target.config.task}, {', '.join(target.config.fields)})")
    answers, targets, n = found.answers.float(), found.targets, len(found.answers)
    if target.config.task == "classification":
        known = targets >= 0
        one = score(answers.argmax(dim=1), targets.where(known, answers.shape[1]))
        loss = float(F.cross_entropy(answers[known], targets[known]))
        figures = {"top1": one.top1, "balanced": one.balanced, "loss": loss}
        return Scores("top1", figures, one.interval, n)
    if target.config.task == "labels":
        return Scores("mAP", _of_labels(answers, targets), None, n)
    return Scores("R2", _of_numbers(answers, targets, target), None, n)


def _of_labels(answers: Tensor, targets: Tensor) -> dict[str, float]:
    """``mAP``, the mean over the labels that occur of the average precision; ``F1`` of all decisions at 0.5."""
    truth, said = targets > 0.5, answers > 0
    precisions = list(_average_precisions(answers, truth))
    hits = int((truth & said).sum())
    wrong = int((truth ^ said).sum())
    return {
        "mAP": sum(precisions) / len(precisions) if precisions else math.nan,
        "F1": 2 * hits / (2 * hits + wrong) if hits or wrong else math.nan,
        "loss": float(F.binary_cross_entropy_with_logits(answers, targets)),
    }


def _average_precisions(answers: Tensor, truth: Tensor) -> Iterator[float]:
    from sklearn.metrics import average_precision_score

    for column in range(truth.shape[1]):
        if truth[:, column].any():
            yield float(average_precision_score(truth[:, column].numpy(), answers[:, column].numpy()))


def _of_numbers(answers: Tensor, targets: Tensor, target: Target) -> dict[str, float]:
    """``R2``, the mean over the outputs of the share of the variance that is explained; ``MAE`` in the labels' unit."""
    wrong = (answers - targets).double()
    total = (targets - targets.mean(dim=0)).double().square().sum(dim=0)
    explained = 1 - wrong.square().sum(dim=0) / total
    unit = torch.tensor(target.config.std, dtype=torch.float64)
    figures = {
        "R2": float(explained[total > 0].mean()) if (total > 0).any() else math.nan,
        "MAE": float((wrong.abs() * unit).mean()),
        "loss": float(wrong.square().mean()),
    }
    if len(unit) > 1:
        figures |= {f"MAE.{place}": value for place, value in enumerate((wrong.abs() * unit).mean(dim=0).tolist())}
    return figures
