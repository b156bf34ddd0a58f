"""Retrieval by class: mean average precision and recall at k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from foundation.errors import UserError
from foundation.probes import knn
from foundation.probes.ranking import ranked
from foundation.ranges import Count, Length, check
from foundation.tasks.accuracy import mean_of
from foundation.tasks.base import Chart, Outcome, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Are the samples most like a test sample of its class?"""

    k: Annotated[tuple[Count, ...], Length(1, 20)] = (1, 5, 10)
    """Of recall at k."""

    def __post_init__(self) -> None:
        check(self, "retrieval")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Asks for labels only."""
        return None

    def run(self, subject: Subject) -> Outcome:
        """mAP, then R@k."""
        settings = subject.settings
        gallery, queries = subject.labelled()
        alone = gallery is queries
        found = ranked(
            knn.vectors(gallery, settings.tokens), gallery.labels, knn.vectors(queries, settings.tokens),
            queries.labels, self.k, leave_one_out=alone, groups=gallery.groups if alone else None,
            device=settings.device,
        )  # fmt: skip
        rows = found.known.nonzero().flatten()
        if not len(rows):
            raise UserError("no sample of the gallery is of a query's class")
        keys = tuple(queries.keys[row] for row in rows.tolist())
        scores = [mean_of("mAP", found.precision[rows], keys)]
        scores += [mean_of(f"R@{k}", hit[rows].float(), keys) for k, hit in found.hits.items() if k <= len(gallery)]
        missing = len(queries) - len(rows)
        told = f"{missing:,} queries have no sample of their class in the gallery: left out"
        points = [(float(k), float(hit[rows].float().mean())) for k, hit in sorted(found.hits.items())]
        chart = Chart(
            title="Recall", x_label="k", y_label="a hit among the first k (%)", lines={"recall": points}, percent=True
        )
        return Outcome(
            scores=tuple(scores),
            protocol=(
                f"{'All samples' if alone else 'Training samples'} are ranked by cosine for each "
                f"{'of them, itself left out' if alone else 'test sample'}; average precision of the whole ranking, "
                "and whether one of the first k is of the query's class. Nothing is learned or chosen."
            ),
            warnings=(told,) if missing else (),
            pictures=(chart,) if len(points) > 1 else (),
        )
