"""A learned query over the patch tokens; see :mod:`foundation.probes.attentive`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from foundation.probes import attentive
from foundation.probes.labels import number_classes
from foundation.probes.linear import split
from foundation.ranges import Bytes, Count, Length, Positive, check
from foundation.tasks.accuracy import confusion, no_test, of_predictions
from foundation.tasks.base import Chart, Outcome, Split, Subject

_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Classification by one learned query on the patch tokens."""

    learning_rates: Annotated[tuple[Positive, ...], Length(1, 20)] = attentive.LEARNING_RATES
    """To choose from."""
    epochs: Count | None = None
    """Passes over the training split; None: 20, or on a small split as many as make 500 steps."""
    most_bytes: Bytes = 1 << 30
    """Memory for the patch tokens of a split; more samples are thinned, spread evenly."""

    def __post_init__(self) -> None:
        check(self, "attentive")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs test shards."""
        return no_test(subject)

    def run(self, subject: Subject) -> Outcome:
        """top-1 and balanced accuracy."""
        settings = subject.settings
        train, test = number_classes(*(subject.patch_tokens(one, self.most_bytes).labelled() for one in _SPLITS))
        rows, kept = split(len(train), 0.1, settings.seed, subject.groups_of(train))
        found = attentive.fit(
            train.cls[0], train.labels, test.cls[0], len(train.classes), rows=rows, kept=kept,
            learning_rates=self.learning_rates, epochs=self.epochs, seed=settings.seed, device=settings.device,
        )  # fmt: skip
        line = sorted(zip(map(math.log10, self.learning_rates), found.validation, strict=True))
        chart = Chart(
            title="Choice on samples kept back", x_label="log10 of the learning rate", y_label="top-1 (%)",
            lines={"kept back": line}, percent=True,
        )  # fmt: skip
        tokens = train.cls[0].shape[1]
        middle = " Tokens are those of the middle view of a recording, whatever --pieces says." if (
            subject.pieces > 1
        ) else ""  # fmt: skip
        return Outcome(
            scores=of_predictions(found.predictions, test, f"learning rate {found.learning_rate:g}"),
            protocol=(
                f"Cross-attention of one learned query with {tokens} frozen patch tokens, then a linear layer (AIM, "
                f"El-Nouby et al. 2024; V-JEPA, Bardes et al. 2024), trained on {len(rows):,} samples; the learning "
                f"rate is chosen on a tenth of the training samples, which is kept back.{middle}"
            ),
            pictures=(*((chart,) if len(line) > 1 else ()), *confusion(found.predictions, test)),
            settings={"train": len(train), "test": len(test), "tokens": tokens},
        )
