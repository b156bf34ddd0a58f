"""``foundation.list_models``: cards of the model zoo."""

from __future__ import annotations

from collections.abc import Callable

from foundation.zoo import registry
from foundation.zoo.entry import Entry


def list_models(filter: str | Callable[[Entry], bool], modality: str) -> list[Entry]:
    """See :func:`foundation.list_models`."""
    if isinstance(filter, str):
        return registry.list_models(filter, modality)
    return [entry for entry in registry.list_models("", modality) if filter(entry)]
