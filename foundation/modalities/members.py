"""Members of a raw sample, as every modality's decoder asks for them: the file itself, the label, the facts beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.errors import SampleError


def place_of(raw: Mapping[str, Any]) -> tuple[str, str]:
    """Shard and key of a raw sample, for messages."""
    return str(raw.get("__shard__", "")), str(raw.get("__key__", ""))


def find(raw: Mapping[str, Any], extensions: Sequence[str]) -> str | None:
    """Name of the first member with one of some extensions.

    Args:
        raw: members by extension.
        extensions: in the order in which they are preferred. A member may have a prefix (``rgb.jpg``); plain ones go
            before.

    Returns:
        The name, or None.
    """
    for extension in extensions:
        if extension in raw:
            return extension
    for name in sorted(raw):
        if not name.startswith("__") and name.lower().rpartition(".")[2] in extensions:
            return name
    return None


def required(raw: Mapping[str, Any], wanted: str | None, extensions: Sequence[str], what: str) -> str:
    """Name of the member that a decoder reads.

    Args:
        raw: members by extension.
        wanted: name that the recipe gives; None takes the first with one of the extensions.
        extensions: see :func:`find`.
        what: for the message, such as ``image``.

    Raises:
        SampleError: reason ``missing``, naming the members there are.
    """
    name = wanted or find(raw, extensions)
    if name is None or name not in raw:
        shard, key = place_of(raw)
        members = ", ".join(k for k in raw if not k.startswith("__")) or "none"
        raise SampleError(shard, key, "missing", f"no {wanted or what} member (members: {members})")
    return name


def facts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping in a sample's ``json`` member; empty without one.

    Raises:
        SampleError: reason ``decode``: not JSON, or no mapping.
    """
    if "json" not in raw:
        return {}
    try:
        values = json.loads(raw["json"])
    except (ValueError, RecursionError) as error:
        raise SampleError(*place_of(raw), "decode", f"json: {error}") from error
    if not isinstance(values, dict):
        raise SampleError(*place_of(raw), "decode", f"json: a mapping is expected, not {type(values).__name__}")
    return values


def label(raw: Mapping[str, Any], field: str = "label") -> int | None:
    """Class number of a sample: its ``cls`` member, else a field of its ``json`` member, else None.

    Raises:
        SampleError: reason ``decode``: no whole number.
    """
    try:
        if "cls" in raw:
            return int(raw["cls"])
        if "json" in raw:
            value = json.loads(raw["json"]).get(field)
            return None if value is None else int(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise SampleError(*place_of(raw), "decode", f"label: {error}") from error
    return None
