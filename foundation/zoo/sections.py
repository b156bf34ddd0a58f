"""What the zoo reads of the recipe that stands, as text, beside weights: enough to build encoder and views again.

The other sections say how training went. They are not read here, so that weights stay usable when those change.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from foundation import config
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


def branches(recipe: str, source: str) -> tuple[str, ...]:
    """Names of a recipe's branches beside the student; older recipes call them teachers.

    Raises:
        UserError: it is no YAML.
    """
    plain = config.plain_of(recipe, source)
    named = plain.get("branches", plain.get("teachers"))
    return ("teacher",) if named is None else tuple(named)
