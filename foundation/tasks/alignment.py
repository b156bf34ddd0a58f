"""Alignment of two views of a sample and uniformity of all samples on the sphere; needs no labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from foundation.errors import UserError
from foundation.probes.uniformity import alignment, uniformity
from foundation.ranges import Count, check
from foundation.tasks.accuracy import mean_of
from foundation.tasks.base import Outcome, Score, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Views of a sample near each other, samples spread out: alignment and uniformity; no labels."""

    view_samples: Count = 2000
    """Training samples of which two augmented views are made, at most."""
    most: Count = 10_000
    """Samples for uniformity, at most, spread evenly."""

    def __post_init__(self) -> None:
        check(self, "alignment")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Can always be asked."""
        return None

    def run(self, subject: Subject) -> Outcome:
        """Uniformity, and alignment where the modality has augmented views."""
        tokens = subject.settings.tokens
        split = subject.scored
        x = subject.vectors(split, self.most)
        if len(x) < 2:
            raise UserError(f"{len(x)} {split} sample has no pair: uniformity is a mean over pairs")
        scores = [Score(metric="uniformity", share=False, value=uniformity(x), n=len(x), better="less")]
        warnings = []
        try:
            views = [subject.augmented(epoch, self.view_samples) for epoch in (0, 1)]
            if views[0].keys != views[1].keys:
                raise UserError("some samples cannot be read in both views")
            one, two = (torch.cat(view.tokens(tokens), dim=1) for view in views)
            score = mean_of("alignment", alignment(one, two), views[0].keys, bounds=(0.0, 4.0))
            scores.append(replace(score, better="less", share=False))
        except UserError as error:
            warnings.append(f"no alignment: {error}")
        return Outcome(
            scores=tuple(scores),
            protocol=(
                f"Features of length 1 (Wang and Isola 2020): uniformity of {split} samples, log of the mean of "
                "exp(-2 d^2) over pairs, and mean squared distance of two augmented views of a training sample. A "
                "collapsed encoder aligns perfectly: read both together."
            ),
            warnings=tuple(warnings),
        )
