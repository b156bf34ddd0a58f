"""The shipped recipes as their heads describe them, read without building or importing any part of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foundation import paths


@dataclass(frozen=True)
class Entry:
    """What a shipped recipe says of itself.

    Attributes:
        name: as it is given to ``foundation pretrain``.
        modality: of its samples.
        summary: a sentence or two.
        samples: of the data set that its settings suit; None: any.
        hardware: that it is made for.
        minutes: on that hardware; None where it was not measured.
    """

    name: str
    modality: str
    summary: str
    samples: int | None
    hardware: str
    minutes: float | None


def entries() -> list[Entry]:
    """All shipped recipes, in alphabetical order."""
    from foundation import config

    return [_entry(name, config.read_plain(file)) for name, file in paths.recipes().items()]


def of_modality(modality: str) -> list[str]:
    """Names of the shipped recipes for a modality."""
    return [entry.name for entry in entries() if entry.modality == modality]


def _entry(name: str, content: dict[str, Any]) -> Entry:
    about: dict[str, Any] = content.get("about") or {}
    return Entry(
        name,
        str(content["views"]["name"]),
        str(about.get("summary", "")),
        about.get("samples"),
        str(about.get("hardware", "")),
        about.get("minutes"),
    )
