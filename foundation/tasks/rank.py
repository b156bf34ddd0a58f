"""How many directions the features use; needs no labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from foundation.errors import UserError
from foundation.probes import rank
from foundation.probes.results import progress
from foundation.ranges import Count, Range, check
from foundation.tasks.base import Chart, Outcome, Score, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many directions the features use: RankMe, alpha-ReQ and LiDAR; no labels."""

    most: Count = 25_600
    """Samples for RankMe and alpha-ReQ, at most, spread evenly (RankMe's number)."""
    views: Annotated[int, Range(0, 100)] = 10
    """Augmented views of each sample for LiDAR; 0 or 1: none."""
    view_samples: Count = 500
    """Training samples for LiDAR, at most."""

    def __post_init__(self) -> None:
        check(self, "rank")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Can always be asked."""
        return None

    def run(self, subject: Subject) -> Outcome:
        """The three figures; LiDAR where the modality has augmented views."""
        split = subject.scored
        x = subject.vectors(split, self.most)
        values, n = rank.spectrum(x), len(x)
        setting = f"of {x.shape[1]} numbers"
        scores = [Score(metric="RankMe", share=False, value=rank.rank_me(x), n=n, setting=setting)]
        alpha, warnings = rank.alpha_req(values), []
        if math.isnan(alpha):
            warnings.append(f"alpha-ReQ needs five or more eigenvalues above 0; {n:,} samples have fewer")
        else:
            scores.append(Score(metric="alpha-ReQ", share=False, value=alpha, n=n, better=None, setting="1 is best"))
        if n <= x.shape[1]:
            warnings.append(f"{n:,} samples of {x.shape[1]:,} numbers: no rank above {n:,} can be seen")
        if self.views > 1 and x.shape[1] > rank.WIDEST:
            warnings.append(f"no LiDAR: {x.shape[1]:,} numbers of a feature, of at most {rank.WIDEST:,}")
        elif self.views > 1:
            try:
                scores.append(self._lidar(subject))
            except UserError as error:
                warnings.append(f"no LiDAR: {error}")
        sizes = values[values > 1e-12 * values[0].clamp(min=1e-300)]
        line = [(math.log10(place), math.log10(size)) for place, size in enumerate(sizes.tolist(), start=1)]
        chart = Chart(
            title="Spectrum", x_label="log10 of the rank", y_label="log10 of the eigenvalue",
            lines={"covariance of the features": line},
        )  # fmt: skip
        return Outcome(
            scores=tuple(scores),
            protocol=(
                f"Of {split} features, without labels: RankMe (Garrido et al. 2023), alpha-ReQ (Agrawal et al. 2022; "
                f"ranks {rank.FIRST} to {rank.LAST}), and LiDAR (Thilak et al. 2024) of {self.views} augmented views "
                f"of at most {self.view_samples:,} training samples. They compare models of one width and data set."
            ),
            warnings=tuple(warnings),
            pictures=(chart,) if len(line) > 2 else (),
        )

    def _lidar(self, subject: Subject) -> Score:
        found = [
            torch.cat(subject.augmented(epoch, self.view_samples).tokens(subject.settings.tokens), dim=1)
            for epoch in progress(range(self.views), self.views, "rank: views", "view")
        ]
        if len({len(one) for one in found}) > 1:
            raise UserError("some samples cannot be read in every view")
        views = torch.stack(found, dim=1)
        return Score(
            metric="LiDAR",
            share=False,
            value=rank.lidar(views),
            n=len(views),
            setting=f"{self.views} views, {len(views)} samples",
        )
