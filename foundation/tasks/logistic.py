"""Logistic regression fitted to the end, its penalty chosen on training samples that are kept back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from foundation.probes import logistic
from foundation.probes.linear import split
from foundation.ranges import Count, Length, NonNegative, check
from foundation.tasks.accuracy import confusion, no_test, of_predictions, standardised
from foundation.tasks.base import Chart, Outcome, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Logistic regression of standardised features."""

    strengths: Annotated[tuple[NonNegative, ...], Length(1, 100)] = logistic.STRENGTHS
    """Of the L2 penalty, to choose from; see :func:`foundation.probes.logistic.fit`."""
    choice_samples: Count = 20_000
    """Training samples by which the strength is chosen, at most."""

    def __post_init__(self) -> None:
        check(self, "logistic")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs test shards."""
        return no_test(subject)

    def run(self, subject: Subject) -> Outcome:
        """top-1 and balanced accuracy."""
        settings = subject.settings
        train, test, x, queries = standardised(subject)
        classes, device = len(train.classes), settings.device
        strength, pictures = self.strengths[0], []
        if len(self.strengths) > 1:
            rest, kept = split(len(x), 0.1, settings.seed, train.groups)
            if len(rest) > self.choice_samples:
                order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(settings.seed))
                rest = rest[order[: self.choice_samples]]
            found = logistic.fit(x[rest], train.labels[rest], classes, self.strengths, device=device)
            shares = [float((one.predict(x[kept]) == train.labels[kept]).float().mean()) for one in found]
            # Of equals the strongest penalty.
            strength = max(zip(shares, self.strengths, strict=True))[1]
            line = sorted((math.log10(s), share) for s, share in zip(self.strengths, shares, strict=True) if s > 0)
            pictures.append(
                Chart(
                    title="Choice on samples kept back", x_label="log10 of the L2 strength", y_label="top-1 (%)",
                    lines={"kept back": line}, percent=True,
                )
            )  # fmt: skip
        (best,) = logistic.fit(x, train.labels, classes, [strength], device=device)
        predictions = best.predict(queries)
        return Outcome(
            scores=of_predictions(predictions, test, f"L2 strength {strength:g}"),
            protocol=(
                "Multinomial logistic regression of standardised features by L-BFGS (CLIP, Radford et al. 2021); the "
                "L2 strength is chosen on a tenth of the training samples, which is kept back and joins the last fit."
            ),
            pictures=(*pictures, *confusion(predictions, test)),
        )
