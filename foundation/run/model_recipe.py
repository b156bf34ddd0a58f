"""The recipe behind a model that was loaded: what it was trained on, and how."""

from __future__ import annotations

from foundation import config
from foundation.errors import UserError
from foundation.run.recipe import Recipe
from foundation.zoo.load import LoadedEncoder


def recipe_of(loaded: LoadedEncoder) -> Recipe | None:
    """The recipe that a model was trained with, flat: that of its stage; None where it is not known or is one that this
    version cannot read."""
    try:
        if not loaded.recipe:
            return None
        return config.load(Recipe, loaded.recipe + "\n", name="its recipe").stage(loaded.stage)
    except UserError:
        return None
