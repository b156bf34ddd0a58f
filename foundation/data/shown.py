"""Findings and statistics as lines for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foundation.data.verify import Findings
from foundation.data.verify_shard import Problem
from foundation.errors import REASONS
from foundation.printable import printable
from foundation.voice import plural

NAMED = 5
"""Samples of one cause that are named; the rest is counted."""
_CAUSES = 10  # different causes of one reason that are listed


def findings(found: Findings) -> Iterator[str]:
    """What ``foundation data verify`` has found: by reason, below it each cause once with the first few samples."""
    for counts, severity in ((found.errors, "error"), (found.warnings, "warning")):
        word = "problem" if severity == "error" else "warning"
        for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            yield f"{plural(number, word)}, {reason}: {REASONS[reason]}"
            causes: dict[str, list[Problem]] = {}
            for problem in found.problems:
                if (problem.severity, problem.reason) == (severity, reason):
                    causes.setdefault(_cause(problem), []).append(problem)
            most_first = sorted(causes.values(), key=len, reverse=True)
            named = most_first[:_CAUSES]
            left = number - sum(map(len, named))  # problems beyond a limit are counted without their cause
            for alike in named:
                yield f"  {printable(' '.join(alike[0].detail.split()))}"
                yield f"    {_places(alike, left if len(named) == 1 else 0)}"
            if left and len(named) != 1:
                yield f"  and {left:,} more"


def _cause(problem: Problem) -> str:
    """What is wrong without the numbers in it, which differ from sample to sample."""
    return re.sub(r"\d+", "#", problem.detail.replace(problem.key, "") if problem.key else problem.detail)


def _places(alike: list[Problem], further: int) -> str:
    """``train-000000.tar: a, b, c; test-000000.tar: d (and 21 more)``."""
    by_shard: dict[str, list[str]] = {}
    for problem in alike[:NAMED]:
        by_shard.setdefault(Path(problem.shard).name, []).append(problem.key or problem.member)
    named = "; ".join(
        f"{printable(shard)}: {', '.join(map(printable, keys))}" if any(keys) else printable(shard)
        for shard, keys in by_shard.items()
    )
    left = max(0, len(alike) - NAMED) + further
    return named + (f" (and {left:,} more)" if left else "")


def facts(values: Mapping[str, Any]) -> Iterator[str]:
    """What ``foundation data statistics`` says beside the words of a recipe, a line each."""
    for name, value in values.items():
        yield f"{name}: {_fact(value)}"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        counted = all(str(key).isdigit() for key in value)  # what is counted, by a number
        return ", ".join(f"{key} ({plural(n, 'sample')})" if counted else f"{key} {n}" for key, n in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
