"""Out-of-distribution detection: does the model find samples of another data set strange?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.probes.labels import number_classes
from foundation.probes.outliers import Separation, knn_distance, mahalanobis, separation
from foundation.ranges import Count, check
from foundation.tasks.base import Chart, Outcome, Score, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Another data set told from the test samples (--out-of-distribution): AUROC of two scores."""

    k: Count = 50
    """Which neighbour's distance counts, at most a tenth of the training samples."""

    def __post_init__(self) -> None:
        check(self, "outliers")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs test shards and those of another distribution."""
        if not subject.test or not subject.outside:
            missing = "--test" if not subject.test else "--out-of-distribution"
            return f"it tells test samples from those of another distribution: give {missing} SHARDS"
        return None

    def run(self, subject: Subject) -> Outcome:
        """AUROC and FPR95 by the distance to a neighbour and by Mahalanobis's distance."""
        tokens = subject.settings.tokens
        train, test, outside = (subject.features(split) for split in ("train", "test", "outside"))
        x, known, others = (
            nn.functional.normalize(torch.cat(part.tokens(tokens), dim=1), dim=1) for part in (train, test, outside)
        )
        k = max(1, min(self.k, len(x) // 10))
        distances = [knn_distance(x, part, k, subject.settings.device) for part in (known, others)]
        near = separation(*distances)
        labels = _labels(subject)
        both = mahalanobis(x, labels, torch.cat([known, others]))
        far = separation(both[: len(known)], both[len(known) :])
        of_classes = "one class" if labels is None else "class means"
        ways = (("kNN", near, f"k = {k}"), ("Mahalanobis", far, of_classes))
        scores = [_auroc(name, found, test.keys, setting) for name, found, setting in ways]
        scores += [
            Score(metric=f"FPR95 {name}", value=found.fpr95, n=len(outside), better="less", setting=setting)
            for name, found, setting in ways
        ]
        same = int(torch.isin(outside.prints, torch.cat([train.prints, test.prints])).sum())
        told = f"{same:,} of the {len(outside):,} out-of-distribution samples are among the others too"
        return Outcome(
            scores=tuple(scores),
            protocol=(
                "Features of length 1; a sample is as strange as its k-th nearest training sample is far (Sun et al. "
                "2022), or by Mahalanobis's distance to the nearest class mean (Lee et al. 2018). AUROC: the "
                f"probability that one of {len(outside):,} samples of the other data set is stranger than a test "
                "sample (interval: DeLong et al. 1988). Nothing is chosen."
            ),
            warnings=(told,) if same else (),
            pictures=(
                Chart(
                    title="How far the neighbours are",
                    x_label="distance to the k-th nearest training sample",
                    y_label="samples that are nearer (%)",
                    lines={"test": _nearer(distances[0]), "other data set": _nearer(distances[1])},
                    percent=True,
                ),
            ),
        )


def _auroc(name: str, found: Separation, keys: tuple[str, ...], setting: str) -> Score:
    return Score(
        metric=f"AUROC {name}", value=found.auroc, n=len(keys), interval=found.interval, setting=setting, chance=0.5,
        each=found.each, keys=keys,
    )  # fmt: skip


def _nearer(distances: Tensor) -> list[tuple[float, float]]:
    """The distribution of distances [n] at 50 places."""
    shares = torch.linspace(0, 1, 50, dtype=torch.float64)
    return list(zip(distances.double().quantile(shares).tolist(), shares.tolist(), strict=True))


def _labels(subject: Subject) -> Tensor | None:
    """[S] of the training samples, where all have one."""
    try:
        (train,) = number_classes(subject.features("train").labelled())
    except UserError:
        return None
    return train.labels if len(train) == len(subject.features("train")) else None
