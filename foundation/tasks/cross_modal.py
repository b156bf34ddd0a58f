"""Retrieval from one sensor to another: is a sample's own recording the most like it?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from foundation.checkpoints.manifest import name_of
from foundation.data.shards import open_shards
from foundation.errors import FoundationError, SampleError, UserError
from foundation.jobs.retrieval import embedded, of_one_view, pair_of, recalls_of, said_of
from foundation.ranges import Count, Length, check
from foundation.run import build
from foundation.run.model_recipe import recipe_of
from foundation.run.reload import reload
from foundation.schedules import Clock
from foundation.tasks.accuracy import mean_of
from foundation.tasks.base import Chart, Outcome, Score, Subject
from foundation.voice import plural


@dataclass(frozen=True, kw_only=True)
class Config:
    """Do two sensors of one sample find each other?"""

    k: Annotated[tuple[Count, ...], Length(1, 20)] = (1, 5, 10)
    """Of recall at k."""

    def __post_init__(self) -> None:
        check(self, "cross_modal")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs a run whose objective compares two sensors."""
        if subject.baseline:
            return "a baseline of one sensor has no second one"
        recipe = recipe_of(subject.loaded)
        if recipe is None or _checkpoint(subject) is None:
            return "it compares two branches of a run: give a run folder with its checkpoints"
        try:
            with torch.device("meta"):
                learner = build.learner(recipe, Clock(1, 1.0))
            pair = pair_of(learner)
        except FoundationError as error:
            return str(error).removeprefix("retrieval: ")
        if of_one_view(recipe, learner, pair):
            return f"both branches of its run see the same sensor ({subject.loaded.modality})"
        return None

    def run(self, subject: Subject) -> Outcome:
        """R@k from the first sensor to the second, and back."""
        folder, settings = _checkpoint(subject), subject.settings
        assert folder is not None, "see refusal"
        recipe, learner, _ = reload(folder, settings.device)
        pair, split = pair_of(learner), subject.scored
        bad: list[SampleError] = []
        seen = embedded(
            recipe, learner, pair, open_shards(list(subject.shards(split))),
            limit=settings.limit, batch_size=settings.batch_size, device=settings.device, bad=bad,
        )  # fmt: skip
        found = recalls_of(seen)
        one, two = (said_of(request, learner.named_branches[request.branch]) for request in pair)
        scores: list[Score] = []
        lines = {}
        for ranks, way in ((found.ranks_forth, f"{one} -> {two}"), (found.ranks_back, f"{two} -> {one}")):
            own = [
                mean_of(f"R@{k}", (ranks <= k).float(), seen.keys, setting=way, chance=k / found.samples)
                for k in self.k
                if k <= found.samples
            ]
            lines[way] = [(float(k), score.value) for k, score in zip(self.k, own, strict=False)]
            back = "" if ranks is found.ranks_forth else " back"
            scores += [replace(score, metric=f"{score.metric}{back}") for score in own]
        if not scores:
            raise UserError(f"{plural(found.samples, 'pair')}: too few for R@{min(self.k)}")
        chart = Chart(
            title="Recall", x_label="k", y_label="the own one among the first k (%)", lines=lines, percent=True
        )
        return Outcome(
            scores=tuple(scores),
            protocol=(
                f"Of all {split} samples as one sensor recorded them, is the sample's own among the k nearest by "
                "cosine to what the other recorded (Frome et al. 2013)? Embeddings of the first objective that "
                "compares two branches of the run; nothing is learned or chosen."
            ),
            warnings=(f"{plural(len(bad), 'sample')} left out; the first: {bad[0]}",) if bad else (),
            pictures=(chart,) if len(self.k) > 1 else (),
        )


def _checkpoint(subject: Subject) -> Path | None:
    """The checkpoint that the model is of; None where it is of none that is there."""
    run = subject.loaded.folder
    folder = None if run is None else run / "checkpoints" / name_of(subject.loaded.step)
    return folder if folder is not None and folder.is_dir() else None
