"""Sweeps: the runs that come of several values for some settings of a recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

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
        if len(set(found)) < len(found):
            raise UserError(f"--sweep {text}: two values are the same")
        keys.append(key)
        axes.append([f"{key}={value}" for value in found])
    combinations = list(product(*axes))
    if len(combinations) > _MOST:
        raise UserError(f"--sweep: {len(combinations):,} runs; at most {_MOST:,} at once")
    found_variants = [Variant(_name(overrides), overrides) for overrides in combinations]
    if len({variant.name for variant in found_variants}) < len(found_variants):
        raise UserError("--sweep: two runs would have the same folder: use plain values")
    return found_variants


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
