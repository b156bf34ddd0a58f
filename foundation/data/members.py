"""Members of a raw sample, as every modality's decoder asks for them: the file itself, the label, the facts beside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from foundation.errors import Note, SampleError

Label: TypeAlias = int | str | list[int | str]
"""What a sample may be labelled with: a class number, a name, or several of these."""

_NUMBERS = 1 << 31  # class numbers fit into 32 bits
_LONGEST = 1_000  # characters of a name
_SEVERAL = 10_000  # labels of one sample
_DIGITS = 300  # of a number that is read at all
_NUMBER = re.compile(r"[+-]?[0-9]+")


def origin_of(raw: Mapping[str, Any]) -> tuple[str, str]:
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
        shard, key = origin_of(raw)
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
        raise SampleError(*origin_of(raw), "decode", f"json: {error}") from error
    if not isinstance(values, dict):
        raise SampleError(*origin_of(raw), "decode", f"json: a mapping is expected, not {type(values).__name__}")
    return values


def put_label(sample: dict[str, Any], raw: Mapping[str, Any], field: str = "label") -> None:
    """Give a decoded sample its label, where it has one, and a note where it has something that is none.

    Args:
        sample: decoded so far.
        raw: members by extension.
        field: of the ``json`` member, used where there is no ``cls`` member.
    """
    value, problem = label_of(raw, field)
    if value is not None:
        sample["label"] = value
    if problem:
        note(sample, Note("label", problem))


def note(sample: dict[str, Any], *notes: Note) -> None:
    """Add to what there is to say about a sample, each thing once."""
    if notes:
        sample["__notes__"] = tuple(dict.fromkeys((*sample.get("__notes__", ()), *notes)))


def label_of(raw: Mapping[str, Any], field: str = "label") -> tuple[Label | None, str]:
    """Label of a sample: its ``cls`` member, else a field of its ``json`` member. It never makes a sample bad.

    Returns:
        A class number in [0, 2^31), a name (text of at most 1,000 characters), a list of these where a sample has
        several, or None; and why what stands there is no label (a number out of range, a mapping, damaged JSON), empty
        where nothing does.
    """
    if "cls" in raw:
        return as_label(raw["cls"].decode("utf-8-sig", "backslashreplace"))
    if "json" not in raw:
        return None, ""
    try:
        values = json.loads(raw["json"])
    except (ValueError, RecursionError) as error:
        return None, f"json: {error}"
    value = values.get(field) if isinstance(values, dict) else None
    if not isinstance(value, list):
        return as_label(value)
    if len(value) > _SEVERAL:
        return None, f"{len(value):,} labels of one sample, more than {_SEVERAL:,}"
    several: list[int | str] = []
    for part in value:
        one, problem = as_label(part)
        if problem or not isinstance(one, (int, str)):
            return None, problem or f"{part!r} among several labels is none"
        several.append(one)
    return several or None, ""


def as_label(value: Any) -> tuple[Label | None, str]:
    """What stands in the place of one label: a number or a name, or why it is neither; None for nothing at all."""
    if value is None:
        return None, ""
    if isinstance(value, str):
        text = value.strip()
        if not text or len(text) > _LONGEST:
            return None, f"a text of {len(text):,} characters is no label (1 to {_LONGEST:,} are)"
        if not text.isprintable():
            return None, "a text with control characters is no label"
        if not _NUMBER.fullmatch(text):
            return text, ""
        if len(text) > _DIGITS:
            return None, f"a number of {len(text):,} digits is no class number"
        value = int(text)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < _NUMBERS:
        return int(value), ""
    if isinstance(value, (int, float)):
        return None, f"{value:g} is no class number (whole numbers from 0 to {_NUMBERS - 1:,} are)"
    return None, f"{type(value).__name__} in the place of a label"
