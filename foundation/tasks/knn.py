"""Weighted nearest neighbours, their number and the features' treatment chosen on training samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from foundation.errors import UserError
from foundation.probes import knn, neighbours
from foundation.probes.treatments import TREATMENTS, Treatment, treated
from foundation.ranges import Count, Length, Temperature, check
from foundation.tasks.accuracy import confusion, of_predictions
from foundation.tasks.base import Chart, Outcome, Score, Subject

USUAL_K = 20
"""What counts where every sample is left out of its own neighbours: there are no others to choose on."""
_PROTOCOL = "Neighbours vote with weight exp(cosine / {t:g}) (Wu et al. 2018; DINO, Caron et al. 2021)."


@dataclass(frozen=True, kw_only=True)
class Config:
    """Weighted k-nearest-neighbour classification."""

    k: Annotated[tuple[Count, ...], Length(1, 100)] = knn.DEFAULT_K
    """Numbers of neighbours to choose from; those that the training split does not have are left out."""
    treatments: Annotated[tuple[Treatment, ...], Length(1, 3)] = TREATMENTS
    """Of the features, to choose from."""
    temperature: Temperature = knn.TEMPERATURE
    """Of the votes."""
    choice_samples: Count = 10_000
    """Training samples that both are chosen on, spread evenly, each left out of its own neighbours."""

    def __post_init__(self) -> None:
        check(self, "knn")
        if unknown := set(self.treatments) - set(TREATMENTS):
            raise UserError(f"knn: treatments must be some of {', '.join(TREATMENTS)}, got {sorted(unknown)}")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Asks for labels only."""
        return None

    def run(self, subject: Subject) -> Outcome:
        """top-1, balanced accuracy and, for more than five classes, top-5."""
        settings = subject.settings
        train, test = subject.labelled()
        tokens, alone = settings.tokens, train is test
        groups = train.groups if len(train.groups) else None
        chart: tuple[Chart, ...] = ()
        if alone:
            k, treatment = min(USUAL_K, neighbours.neighbours_of(len(train), True, groups)), self.treatments[0]
            chosen = f"k = {k}, features {treatment}: there are no samples to choose them on."
        else:
            k, treatment, chart = self._choice(subject)
            chosen = "k and treatment are those of most training samples named rightly, each left out of its own."
        bank, queries = treated(treatment, train, test, blocks=1, patches=tokens != "cls")
        near = knn.search(
            knn.vectors(bank, tokens), knn.vectors(queries, tokens), k, leave_one_out=alone,
            groups=groups if alone else None, device=settings.device, what="knn: search",
        )  # fmt: skip
        found = knn.classify(near, bank.labels, queries.labels, [k], temperature=self.temperature)[k]
        setting = f"k = {k}, {treatment}"
        scores: tuple[Score, ...] = of_predictions(found.predictions, test, setting)
        if found.top5 is not None:
            scores += (Score(metric="top5", value=found.top5, n=len(test), setting=setting),)
        left = " Every sample is classified by all others." if alone else ""
        return Outcome(
            scores=scores,
            protocol=f"{_PROTOCOL.format(t=self.temperature)} {chosen}{left}",
            pictures=(*chart, *confusion(found.predictions, test)),
        )

    def _choice(self, subject: Subject) -> tuple[int, Treatment, tuple[Chart, ...]]:
        """By leaving one out of the training samples."""
        train, _ = subject.labelled()
        tokens = subject.settings.tokens
        if len(train) > self.choice_samples:
            train = train.take(torch.linspace(0, len(train) - 1, self.choice_samples, dtype=torch.float64).long())
        groups = train.groups if len(train.groups) else None
        most = neighbours.neighbours_of(len(train), True, groups)
        if most < 1:
            return 1, self.treatments[0], ()
        ks = sorted(k for k in set(self.k) if k <= most) or [most]
        lines: dict[str, list[tuple[float, float]]] = {}
        best: tuple[float, int, Treatment] = (-1.0, ks[0], self.treatments[0])
        for treatment in self.treatments:
            (x,) = treated(treatment, train, blocks=1, patches=tokens != "cls")
            vectors = knn.vectors(x, tokens)
            near = knn.search(
                vectors, vectors, max(ks), leave_one_out=True, groups=groups, device=subject.settings.device
            )
            found = knn.classify(near, train.labels, train.labels, ks, temperature=self.temperature)
            lines[treatment] = [(float(k), found[k].top1) for k in ks]
            for k in ks:
                if found[k].top1 > best[0]:
                    best = found[k].top1, k, treatment
        chart = Chart(
            title="Choice on training samples", x_label="neighbours k", y_label="top-1, left out (%)", lines=lines,
            percent=True,
        )  # fmt: skip
        return best[1], best[2], (chart,) if len(ks) > 1 else ()
