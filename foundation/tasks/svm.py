"""A support vector machine; see :mod:`foundation.probes.svm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from foundation.errors import UserError
from foundation.probes import svm
from foundation.probes.treatments import TREATMENTS, Treatment
from foundation.ranges import Length, Positive, check
from foundation.tasks.accuracy import confusion, no_test, of_predictions
from foundation.tasks.base import Outcome, Subject


@dataclass(frozen=True, kw_only=True)
class Config:
    """Support vector machine, its cost chosen on training samples."""

    kernel: svm.Kernel = "linear"
    """``linear``, or ``rbf`` on features of length 1."""
    costs: Annotated[tuple[Positive, ...], Length(1, 50)] = (0.01, 0.1, 1.0)
    """Cost C of a sample on the wrong side, to choose from."""
    treatment: Treatment = "standardised"
    """What is done to the features first."""

    def __post_init__(self) -> None:
        check(self, "svm")
        if self.treatment not in TREATMENTS:
            raise UserError(f"svm: treatment must be one of {', '.join(TREATMENTS)}, got {self.treatment!r}")

    def build(self) -> Config:
        """The task is its settings."""
        return self

    def refusal(self, subject: Subject) -> str | None:
        """Needs test shards."""
        return no_test(subject)

    def run(self, subject: Subject) -> Outcome:
        """top-1 and balanced accuracy."""
        train, test = subject.labelled()
        settings = svm.Settings(
            kernel=self.kernel, costs=self.costs, tokens=subject.settings.tokens, treatment=self.treatment,
            seed=subject.settings.seed,
        )  # fmt: skip
        result = svm.fit(train, test, settings)
        how = "on training samples kept back" if self.kernel == "linear" else "by cross-validation of training samples"
        return Outcome(
            scores=of_predictions(result.predictions, test, f"C = {result.cost:g}"),
            protocol=(
                f"{self.kernel} support vector machine, features {self.treatment} (the ModelNet40 protocol of point "
                f"clouds: Achlioptas et al. 2018); its cost is chosen {how}."
            ),
            pictures=confusion(result.predictions, test),
        )
