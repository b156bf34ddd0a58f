"""What the probes of a run say before its first step."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from foundation.jobs import probe
from foundation.run.recipe import Recipe


@runtime_checkable
class LooksAhead(Protocol):
    """A probe that can say before the first step whether its data will do."""

    def look_ahead(self, *, modality: str, evaluation: Any) -> list[str]:
        """Warnings, a sentence each.

        Args:
            modality: folder name in ``foundation/modalities``.
            evaluation: that modality's ``EvaluationConfig``.

        Raises:
            UserError: the probe could not be measured.
        """


def look_ahead(recipe: Recipe) -> list[str]:
    """What the recipe's probes warn of; those that cannot tell are left out.

    Raises:
        UserError: one of them could not be measured, hours later.
    """
    modality, evaluation = recipe.views.modality, recipe.views.evaluation()
    probes = [job.probe.build() for job in recipe.all_jobs if isinstance(job, probe.Config)]
    able = [one for one in probes if isinstance(one, LooksAhead)]
    return [f"probes: {line}" for one in able for line in one.look_ahead(modality=modality, evaluation=evaluation)]
