"""Which tasks are asked of a model of each modality, as plain data, and how a person asks for others.

A suite is a list of task names with the settings that differ from the tasks' own. A task that cannot be asked of a
model or of the shards at hand says why, and is left out.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from foundation import config
from foundation.errors import UserError
from foundation.plugins import Plugin, available, near, resolve
from foundation.tasks.base import Task

PATTERN = "foundation.tasks.{name}"

POOLED: tuple[Mapping[str, Any], ...] = (
    {"name": "knn"},
    {"name": "linear"},
    {"name": "logistic"},
    {"name": "low_shot"},
    {"name": "svm"},
    {"name": "attentive"},
    {"name": "retrieval"},
    {"name": "clustering"},
    {"name": "rank"},
    {"name": "alignment"},
    {"name": "outliers"},
)
"""One vector for each sample, or its patch tokens: the same for every modality."""

PLANES: tuple[Mapping[str, Any], ...] = (
    {"name": "segmentation"},
    {"name": "depth"},
    {"name": "discovery"},
    {"name": "correspondence"},
    {"name": "propagation"},
)
"""Patches of pictures; all but correspondence need labels of them beside each sample."""

EVENTS: tuple[Mapping[str, Any], ...] = ({"name": "events"},)
"""Frames of recordings, with labels in time."""

PAIRED: tuple[Mapping[str, Any], ...] = ({"name": "cross_modal"},)
"""Of runs that compare two sensors."""

SUITES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "image": (*POOLED, *PLANES),
    "audio": (*POOLED, *EVENTS, *PAIRED),
    "points": (*POOLED, {"name": "parts"}),
    "video": (*POOLED, {"name": "propagation"}, *PAIRED),
    "imu": (
        *POOLED[:4],
        {"name": "svm", "kernel": "rbf", "costs": [0.1, 1.0, 10.0, 100.0]},
        *POOLED[5:],
        *EVENTS,
        *PAIRED,
    ),
}


@dataclass(frozen=True, kw_only=True)
class _One:
    task: Annotated[Any, Plugin(PATTERN)]


def names() -> list[str]:
    """All tasks that there are."""
    return available(PATTERN)


def about(name: str) -> str:
    """What a task asks: the first line of the docstring of its ``Config``."""
    said = inspect.getdoc(resolve(PATTERN, name).Config) or ""
    return said.partition("\n")[0].rstrip(".")


def suite_of(modality: str) -> str:
    """The suite of a modality; that of images for one which has none of its own."""
    return modality if modality in SUITES else "image"


def tasks_of(suite: str, wanted: Sequence[str] = (), overrides: Sequence[str] = ()) -> dict[str, Task]:
    """The tasks of a suite, by name, in its order.

    Args:
        suite: name of it.
        wanted: only these; those that the suite does not have are asked with their own settings. Empty: all.
        overrides: ``TASK.key=value``, such as ``knn.k=[5]``.

    Raises:
        UserError: there is no such suite, task or setting.
    """
    if suite not in SUITES:
        raise UserError(f"no suite {suite!r}{near(suite, SUITES)} (there are: {', '.join(SUITES)})")
    plain = {str(entry["name"]): entry for entry in SUITES[suite]}
    chosen = {name: plain.get(name, {"name": name}) for name in (wanted or plain)}
    of: dict[str, list[str]] = {name: [] for name in chosen}
    for override in overrides:
        name, dot, rest = override.partition(".")
        if not dot or "=" not in rest:
            raise UserError(f"settings of a task are written TASK.key=value, such as knn.k=[5]; got {override!r}")
        if name not in of:
            raise UserError(f"{override!r}: no task {name!r} is asked{near(name, of)} (asked: {', '.join(of)})")
        of[name].append(f"task.{rest}")
    found: dict[str, Task] = {}
    for name, entry in chosen.items():
        text = json.dumps({"task": entry}) + "\n"  # JSON is YAML
        found[name] = config.load(_One, text, of[name], name=f"task {name}", own=name in wanted).task.build()
    return found
