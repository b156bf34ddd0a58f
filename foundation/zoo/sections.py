"""What the zoo reads of the recipe that stands, as text, beside weights: enough to build encoder and views again.

The other sections say how training went. They are not read here, so that weights stay usable when those change.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from foundation import config
from foundation.errors import UserError
from foundation.plugins import Plugin


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Sections of a recipe; see the recipe's own for what they mean."""

    name: str
    """Of the run."""
    views: Annotated[Any, Plugin("foundation.modalities.{name}.views")]
    """Views of a sample; ``name`` is the modality."""
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]
    """The student's encoder."""


def sections(recipe: str, source: str) -> Sections:
    """Read them.

    Args:
        recipe: its text.
        source: of it, for messages.

    Raises:
        UserError: it is no YAML, or one of the sections cannot be understood.
    """
    plain = config.plain_of(recipe, source)
    wanted = {item.name: plain[item.name] for item in dataclasses.fields(Sections) if item.name in plain}
    return config.from_plain(Sections, wanted, name=source)


def of_stage(recipe: str, source: str, stage: int) -> str:
    """The recipe of one stage: its keys in place of the whole recipe's, as ``Recipe.stage`` makes it.

    Args:
        recipe: text of the whole.
        source: of it, for messages.
        stage: number of the stage.

    Raises:
        UserError: it is no YAML, or has no such stage.
    """
    plain = config.plain_of(recipe, source)
    stages = plain.pop("stages", None)
    if not stages:
        return recipe
    if not 0 <= stage < len(stages):
        raise UserError(f"{source}: there is no stage {stage} in a recipe of {len(stages)}")
    own = {key: value for key, value in stages[stage].items() if key != "name"}
    train = {key: own.pop(key) for key in ("length", "batch_size", "accumulate") if own.get(key) is not None}
    train["only"] = own.pop("train", None)
    first = {} if stage == 0 else {"initial": None}
    return config.dump({**plain, **first, **own, "train": {**plain["train"], **train}})


def branches(recipe: str, source: str) -> tuple[str, ...]:
    """Names of a recipe's branches beside the student; older recipes call them teachers.

    Raises:
        UserError: it is no YAML.
    """
    plain = config.plain_of(recipe, source)
    named = plain.get("branches", plain.get("teachers"))
    return ("teacher",) if named is None else tuple(named)
