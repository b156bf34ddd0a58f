"""Retention: which checkpoints stay, and why. The policy and the probes' figures lie beside them as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from foundation import schema
from foundation.files import replace_json
from foundation.printable import printable

NAME = "retention.json"

Figures = dict[int, dict[str, float]]


class _Policy(TypedDict):
    keep_last: int
    keep_every: int | None
    keep_best: str | None


class _Form(TypedDict):
    policy: _Policy
    figures: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Policy:
    """What stays.

    Attributes:
        keep_last: newest valid checkpoints.
        keep_every: those at multiples of so many steps; None: none.
        keep_best: that with the highest figure of this name; None: none.
    """

    keep_last: int = 2
    keep_every: int | None = None
    keep_best: str | None = None

    def reasons(self, steps: Iterable[int], figures: Mapping[int, Mapping[str, float]]) -> dict[int, list[str]]:
        """Why each step stays; an empty list where it does not.

        Args:
            steps: of the valid checkpoints, in any order: an invalid one must not take the place of a valid one.
            figures: of the probes, by step.
        """
        ordered = sorted(steps)
        found: dict[int, list[str]] = {step: [] for step in ordered}
        for step in ordered[-max(1, self.keep_last) :]:
            found[step].append("newest" if step == ordered[-1] else f"last {self.keep_last}")
        for step in ordered:
            if self.keep_every and step and step % self.keep_every == 0:
                found[step].append(f"every {self.keep_every:,} steps")
        if self.keep_best is not None:
            name = self.keep_best
            measured = {step: figures[step][name] for step in ordered if name in figures.get(step, {})}
            if measured:
                best = max(measured, key=lambda step: (measured[step], step))
                found[best].append(f"best {name} ({measured[best]:.4g})")
        return found


def write(root: Path, policy: Policy, figures: Figures) -> None:
    """Keep policy and figures in the folder of the checkpoints.

    Raises:
        OSError: when it cannot be written.
    """
    plain = {str(step): values for step, values in sorted(figures.items())}
    replace_json(root / NAME, {"format": 1, "policy": asdict(policy), "figures": plain})


def read(root: Path) -> tuple[Policy, Figures]:
    """Policy and figures of a folder; the defaults and none where there is no such file.

    Raises:
        FormError: the file is damaged: what it said to keep is not known.
    """
    path = root / NAME
    try:
        content = schema.read_json(_Form, path)
    except FileNotFoundError:
        return Policy(), {}
    if bad := [step for step in content["figures"] if not (step.isascii() and step.isdigit() and len(step) < 19)]:
        raise schema.FormError(f"{path} is damaged: figures of {printable(bad[0])!r}, which is no step")
    policy = content["policy"]
    return (
        Policy(policy["keep_last"], policy["keep_every"], policy["keep_best"]),
        {int(step): finite(values) for step, values in content["figures"].items()},
    )


def figures_or_none(root: Path, say: Callable[[str], object]) -> Figures:
    """The figures of a folder for a run that goes on; where the file is damaged it says so and begins anew."""
    try:
        return read(root)[1]
    except schema.FormError as error:
        say(f"{error}; figures of earlier steps are not known any more, and no longer keep a checkpoint")
        return {}


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among some values: NaN is no best."""
    return {str(k): float(v) for k, v in values.items() if isinstance(v, (int, float)) and math.isfinite(v)}
