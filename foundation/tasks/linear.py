"""A grid of linear classifiers trained by stochastic gradient descent; see :mod:`foundation.probes.linear`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from foundation.errors import UserError
from foundation.probes import linear
from foundation.probes.features import depth_of
from foundation.probes.treatments import TREATMENTS, Treatment
from foundation.ranges import Count, Depth, Length, Positive, check
from foundation.tasks.accuracy import confusion, no_test, of_predictions
from foundation.tasks.base import Chart, Outcome, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Linear classification, the head chosen on training samples that are kept back."""

    learning_rates: Annotated[tuple[Positive, ...], Length(1, 100)] = linear.LEARNING_RATES
    """For a batch of 256."""
    blocks: Annotated[tuple[Depth, ...], Length(1, 16)] = (1, 4)
    """Numbers of last blocks whose class tokens are put side by side; more than the encoder has count as all."""
    treatments: Annotated[tuple[Treatment, ...], Length(1, 3)] = ("as is", "standardised")
    """Of the features, to choose from."""
    epochs: Count | None = None
    """Passes over the training split; None: 50, or on a small split as many as make 2,000 steps."""

    def __post_init__(self) -> None:
        check(self, "linear")
        if unknown := set(self.treatments) - set(TREATMENTS):
            raise UserError(f"linear: treatments must be some of {', '.join(TREATMENTS)}, got {sorted(unknown)}")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs test shards."""
        return no_test(subject)

    def run(self, subject: Subject) -> Outcome:
        """top-1 and balanced accuracy."""
        depth = depth_of(subject.loaded.encoder)
        blocks = tuple(sorted({min(count, depth) for count in self.blocks}))
        train, test = subject.labelled(max(blocks))
        own = train.patches.shape == train.cls[-1].shape and torch.equal(train.patches, train.cls[-1])
        settings = linear.Settings(
            learning_rates=self.learning_rates, blocks=blocks, pooling=(False,) if own else (False, True),
            epochs=self.epochs, seed=subject.settings.seed,
        )  # fmt: skip
        best: linear.LinearResult | None = None
        lines: dict[str, list[tuple[float, float]]] = {}
        chosen: Treatment = self.treatments[0]
        for treatment in self.treatments:
            result = linear.fit(
                train, test, replace(settings, treatment=treatment), device=subject.settings.device,
                what=f"linear, {treatment}",
            )  # fmt: skip
            if best is None or _kept(result) > _kept(best):
                best, chosen = result, treatment
            rates = sorted({head.learning_rate for head in result.heads})
            places = {rate: place for place, rate in enumerate(rates)}
            most = [0.0] * len(rates)
            for head, accuracy in zip(result.heads, result.validation or (), strict=True):
                most[places[head.learning_rate]] = max(most[places[head.learning_rate]], accuracy)
            lines[treatment] = [(float(torch.tensor(rate).log10()), y) for rate, y in zip(rates, most, strict=True)]
        assert best is not None
        chart = Chart(
            title="Choice on samples kept back", x_label="log10 of the learning rate",
            y_label="top-1 of the best head (%)", lines=lines, percent=True,
        )  # fmt: skip
        return Outcome(
            scores=of_predictions(best.predictions, test, f"{best.chosen.name}, {chosen}"),
            protocol=(
                "Linear heads trained at once by SGD over learning rates, last blocks and with or without the mean "
                "patch token (DINOv2, Oquab et al. 2023); head and treatment are chosen on a tenth of the training "
                "samples, which is kept back."
            ),
            pictures=(chart, *confusion(best.predictions, test)),
        )


def _kept(result: linear.LinearResult) -> float:
    """Accuracy of the chosen head on the samples kept back."""
    return (result.validation or (0.0,))[result.heads.index(result.chosen)]
