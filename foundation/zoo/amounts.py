"""Amounts as a person writes them: parameters (``20M``) and times (``5ms``)."""

from __future__ import annotations

import argparse
import re

_FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parameters(word: str) -> int:
    """``20M`` as a number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGB]?)", word)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of parameters such as 20M, 1.5M or 300k")
    return int(float(found[1]) * _FACTORS[found[2]])


def seconds(word: str) -> float:
    """``5ms`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", word)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{word!r} is no time such as 5ms, 800us or 0.1s")
    return float(found[1]) * _SECONDS[found[2]]
