"""Accuracy with few labels: 1 % or 10 % of the training samples, or a few of each class, drawn several times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from foundation.errors import UserError
from foundation.probes import logistic
from foundation.probes.draws import Amount, drawn
from foundation.probes.results import progress
from foundation.probes.scores import wilson_interval
from foundation.ranges import Count, Length, Positive, PositiveShare, Range, check
from foundation.tasks.accuracy import no_test, standardised
from foundation.tasks.base import Chart, Outcome, Score, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Logistic regression on few labels: 1 %, 10 %, 1 and 5 of each class."""

    shares: Annotated[tuple[PositiveShare, ...], Length(0, 20)] = (0.01, 0.1)
    """Of the samples of each class, at least one."""
    per_class: Annotated[tuple[Count, ...], Length(0, 20)] = (1, 5)
    """Samples of each class."""
    draws: Annotated[int, Range(2, 1000)] = 5
    """Of each amount."""
    strength: Positive = 1e-3
    """Of the L2 penalty; fixed, because there are no samples to choose it on."""

    def __post_init__(self) -> None:
        check(self, "low_shot")
        if not self.shares and not self.per_class:
            raise UserError("low_shot: give shares or per_class: there is nothing to draw")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs test shards."""
        return no_test(subject)

    def run(self, subject: Subject) -> Outcome:
        """Mean top-1 over the draws of each amount."""
        settings = subject.settings
        train, test, x, queries = standardised(subject)
        width = math.sqrt(x.shape[1])
        x, queries, labels = x / width, queries / width, train.labels
        counts = torch.bincount(test.labels).float()
        scores, warnings, line = [], [], []
        wanted = [*(Amount(share=share) for share in self.shares), *(Amount(count=count) for count in self.per_class)]
        sizes = {amount: len(drawn(labels, amount, settings.seed)) for amount in wanted}
        for amount in progress(wanted, len(wanted), "low_shot", "amount"):
            if sizes[amount] >= len(labels):
                warnings.append(f"{amount} would take all {len(labels):,} training samples: left out")
                continue
            right = []
            for draw in range(self.draws):
                rows = drawn(labels, amount, settings.seed + draw)
                (found,) = logistic.fit(
                    x[rows], labels[rows], len(train.classes), [self.strength], device=settings.device
                )
                right.append((found.predict(queries) == test.labels).float())
            each = torch.stack(right)
            low, high = _interval(each.double())
            value = float(each.mean())
            scores.append(
                Score(
                    metric=f"top1 at {amount}", value=value, n=len(test), interval=(low, high),
                    setting=f"{sizes[amount]} labels, {self.draws} draws", each=each.mean(dim=0), keys=test.keys,
                    chance=float(counts.max() / counts.sum()),
                )
            )  # fmt: skip
            line.append((math.log10(sizes[amount]), value))
        if not scores:
            raise UserError(f"{len(labels):,} training samples are too few to draw from")
        chart = Chart(
            title="Accuracy by labels", x_label="log10 of labelled samples", y_label="top-1 (%)",
            lines={"mean over draws": sorted(line)}, percent=True,
        )  # fmt: skip
        return Outcome(
            scores=tuple(scores),
            protocol=(
                f"Logistic regression on {self.draws} draws of labelled training samples (as MSN, Assran et al. 2022), "
                "L2 strength fixed; 95 % interval of the mean over draws (Student's t) and over test samples together."
            ),
            warnings=tuple(warnings),
            pictures=(chart,) if len(line) > 1 else (),
        )


def _interval(right: torch.Tensor) -> tuple[float, float]:
    """95 % interval of the mean of [draws, samples]: of draws by Student's t, of samples by the normal distribution,
    both variances added."""
    from scipy.stats import t

    draws, samples = right.mean(dim=1), right.mean(dim=0)
    by_draw = float(t.ppf(0.975, len(draws) - 1)) * float(draws.std()) / math.sqrt(len(draws))
    low, high = wilson_interval(float(samples.sum()), len(samples))
    value = float(right.mean())
    return max(0.0, value - math.hypot(by_draw, value - low)), min(1.0, value + math.hypot(by_draw, high - value))
