"""Whether the class token of a model means anything: some objectives never ask for it."""

from __future__ import annotations

from typing import Any

import torch

from foundation.errors import FoundationError
from foundation.probes.features import Tokens, has_class_token
from foundation.run import build
from foundation.run.model_recipe import recipe_of
from foundation.schedules import Clock
from foundation.zoo.load import LoadedEncoder


def untrained_class_token(loaded: LoadedEncoder, tokens: Tokens | None) -> list[str]:
    """Whether a class token is scored that no loss of the run ever asked for, as in masked autoencoders.

    Args:
        loaded: the model.
        tokens: that are scored; None for a probe that has no choice (class tokens, with and without patch tokens).
    """
    recipe = recipe_of(loaded)
    if recipe is None or recipe.initial is not None or tokens == "patches" or not has_class_token(loaded.encoder):
        return []
    try:
        with torch.device("meta"):
            learner = build.learner(recipe, Clock(1, 1.0))
    except FoundationError:  # a branch of weights that are not there any more
        return []
    objectives: Any = learner.objectives
    if any(request.token == "cls" for objective in objectives.values() for request in objective.requests):
        return []
    instead = "foundation knn and svm have" if tokens is None else "give"
    return [
        "no loss of this recipe trains the class token, which is scored here: "
        f"{instead} --tokens patches (mean of the patch tokens)"
    ]
