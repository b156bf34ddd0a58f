"""Clusters found without labels, compared with classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foundation.probes.clustering import agreement, k_means
from foundation.probes.knn import vectors
from foundation.ranges import Count, check
from foundation.tasks.accuracy import mean_of
from foundation.tasks.base import Outcome, Score, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """k-means of the test samples, as many clusters as classes."""

    clusters: Count | None = None
    """None: as many as there are classes."""
    starts: Count = 10
    """Of k-means, the best of which counts."""
    most: Count = 20_000
    """Samples, at most, spread evenly."""

    def __post_init__(self) -> None:
        check(self, "clustering")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Asks for labels only."""
        return None

    def run(self, subject: Subject) -> Outcome:
        """NMI, ARI and the accuracy of the best assignment."""
        _, test = subject.labelled()
        if len(test) > self.most:
            test = test.take(torch.linspace(0, len(test) - 1, self.most, dtype=torch.float64).long())
        known = len(test.labels.unique())
        count = self.clusters or known
        clusters = k_means(
            vectors(test, subject.settings.tokens), count, seed=subject.settings.seed, starts=self.starts
        )
        found, setting = agreement(clusters, test.labels), f"{count} clusters"
        shares = torch.bincount(test.labels).float() / len(test)
        warnings = (f"{len(test):,} samples for {count:,} clusters",) if len(test) < 2 * count else ()
        return Outcome(
            scores=(
                Score(metric="NMI", share=False, value=found.nmi, n=len(test), setting=setting, chance=None),
                Score(metric="ARI", share=False, value=found.ari, n=len(test), setting=setting, chance=0.0),
                mean_of("accuracy", found.right.float(), test.keys, setting=setting, chance=float(shares.max())),
            ),
            protocol=(
                f"k-means (best of {self.starts} starts) of {'test' if subject.test else 'training'} features of "
                "length 1; labels only score it: normalised mutual information, adjusted Rand index, and accuracy of "
                "the best assignment of clusters to classes (Hungarian method), whose interval takes the clusters as "
                "given."
            ),
            warnings=warnings,
        )
