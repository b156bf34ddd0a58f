"""What recipes are for: the section ``about`` of each, and the list of the shipped ones. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from foundation import paths
from foundation.ranges import Range, check


@dataclass(frozen=True, kw_only=True)
class About:
    """What a recipe is for. The run itself does not depend on it; ``foundation recipes list`` shows it."""

    summary: str = ""
    """What is learnt, from what: a sentence or two."""
    samples: Annotated[int, Range(1, 10**12)] | None = None
    """Samples of the data set that the settings suit. A dry run without the data takes it for the length of an epoch;
    with the data, what the shards hold counts."""
    hardware: str = ""
    """Machine that it is made for."""
    minutes: Annotated[float, Range(0, 1e7)] | None = None
    """How long it takes there; null: not measured."""

    def __post_init__(self) -> None:
        check(self, "about")


@dataclass(frozen=True)
class Entry:
    """A shipped recipe.

    Attributes:
        name: as it is given to ``foundation pretrain``.
        modality: of its samples.
        about: what it says of itself.
    """

    name: str
    modality: str
    about: About


def entries() -> list[Entry]:
    """All shipped recipes in alphabetical order; none of their parts is imported."""
    from foundation import config

    found = []
    for name, file in paths.recipes().items():
        content = config.read_plain(file)
        about = config.from_plain(About, content.get("about") or {}, name=str(file))
        found.append(Entry(name, str(content["views"]["name"]), about))
    return found


def of_modality(modality: str) -> list[str]:
    """Names of the shipped recipes for a modality."""
    return [entry.name for entry in entries() if entry.modality == modality]
