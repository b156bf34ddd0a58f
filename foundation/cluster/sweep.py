"""Sweeps: the runs that come of several values for some settings of a recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from foundation.config_nodes import TAG, compose, is_null
from foundation.errors import UserError

_MOST = 1000  # elements that SLURM's arrays have unless its administrator says otherwise (MaxArraySize)


@dataclass(frozen=True)
class Variant:
    """One run of a sweep.

    Attributes:
        name: of its folder, ``optimizer.learning_rate.start=1e-3,seed=0``.
        overrides: settings of the recipe, ``key=value``.
    """

    name: str
    overrides: tuple[str, ...]


def variants(sweeps: Sequence[str]) -> list[Variant]:
    """All combinations of the values.

    Args:
        sweeps: ``key=a,b,c`` each; a comma within brackets does not part values.

    Raises:
        UserError: one has no values, or there are too many combinations.
    """
    axes: list[list[str]] = []
    keys: list[str] = []
    for text in sweeps:
        key, sign, values = text.partition("=")
        found = _parted(values)
        if not sign or not key or not found or not all(found):
            raise UserError(f"--sweep {text}: write a key and its values, such as --sweep seed=0,1,2")
        if key in keys:
            raise UserError(f"--sweep: {key} is given twice")
        _refuse_equal(text, key, found)
        keys.append(key)
        axes.append([f"{key}={value}" for value in found])
    combinations = list(product(*axes))
    if len(combinations) > _MOST:
        raise UserError(f"--sweep: {len(combinations):,} runs; at most {_MOST:,} at once")
    found_variants = [Variant(_name(overrides), overrides) for overrides in combinations]
    if len({variant.name for variant in found_variants}) < len(found_variants):
        raise UserError("--sweep: two runs would have the same folder: use plain values")
    return found_variants


def chosen(found: Sequence[Variant], most: int) -> list[Variant]:
    """Some of the runs of a sweep, in their order, for a look at it: those in which as many values as possible occur.

    Args:
        found: all of them.
        most: how many, at most; where there are no more, all are chosen.
    """
    if len(found) <= most:
        return list(found)
    kept: set[int] = set()
    seen: set[str] = set()
    while len(kept) < most:
        new = [len(set(variant.overrides) - seen) for variant in found]
        best = max(range(len(found)), key=new.__getitem__)
        if not new[best]:
            break
        kept.add(best)
        seen.update(found[best].overrides)
    return [found[place] for place in sorted(kept)]


def _refuse_equal(text: str, key: str, values: Sequence[str]) -> None:
    """Two runs with the same values would be one run twice; ``1e-3`` and ``0.001`` are the same."""
    seen: dict[str, str] = {}
    for value in values:
        meant = _meant(key, value)
        if meant in seen:
            raise UserError(f"--sweep {text}: two values are the same: {seen[meant]} and {value}")
        seen[meant] = value


def _meant(key: str, value: str) -> str:
    """What a value stands for, whatever way it is written, as text that can be compared."""
    node = compose(value, f"override {key}={value}")
    return "null" if node is None else _canonical(node)


def _canonical(node: Node) -> str:
    if isinstance(node, MappingNode):
        pairs = sorted(f"{_canonical(name)}: {_canonical(inner)}" for name, inner in node.value)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(node, SequenceNode):
        return f"[{', '.join(map(_canonical, node.value))}]"
    if isinstance(node, ScalarNode) and node.style is None:  # not in quotes
        if is_null(node):
            return "null"
        number = _number(node.value)
        if number is not None:
            return repr(number)
        if node.tag == f"{TAG}bool":
            return str(node.value).lower()
    return repr(node.value)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            number: int | float = kind(text)
        except ValueError:
            continue
        return int(number) if isinstance(number, float) and number.is_integer() else number
    return None


def _parted(text: str) -> list[str]:
    """Values between commas; those within brackets or quotes stay together."""
    parts, depth, quote, current = [], 0, "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        elif sign == "," and not depth:
            parts.append(current.strip())
            current = ""
            continue
        current += sign
    return [*parts, current.strip()]


def _name(overrides: Sequence[str]) -> str:
    return re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", ",".join(overrides))[:200]
