"""What a recipe wants to know of paired samples: what each of the modalities says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.data.moments import Facts
from foundation.data.statistics import collector_of
from foundation.errors import UserError
from foundation.types import Sample


class Statistics:
    """Collects; see :class:`foundation.data.moments.Collector`.

    Args:
        views: a recipe's.

    Raises:
        UserError: no recipe says what is paired.
    """

    def __init__(self, views: Any = None, decoding: Any = None) -> None:
        if views is None:
            raise UserError("paired samples: give --recipe, or name a single modality (--modality video)")
        self.members = {name: collector_of(member.modality, member) for name, member in views.members.items()}

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a decoded sample and its members."""
        for collector in self.members.values():
            collector.add(sample, raw)

    def facts(self) -> Facts:
        """What the modalities say, by the name that the recipe gives them."""
        found = Facts({"members": {}})
        for name, collector in self.members.items():
            own = collector.facts()
            found.views["members"][name] = own.views
            found.facts |= {f"{name}, {key}": value for key, value in own.facts.items()}
            found.warnings += [f"{name}: {text}" for text in own.warnings]
            found.misfits += [f"{name} (below views.members.{name}): {text}" for text in own.misfits]
        return found
