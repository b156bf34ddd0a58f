"""What a run folder holds, read so that a missing or damaged part is an empty one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundation.errors import UserError


@dataclass
class Run:
    """What a run folder holds, as far as it exists.

    Attributes:
        path: of the folder.
        recipe: text of the resolved recipe, or empty.
        plain: the recipe as plain values.
        metrics: lines of ``metrics.jsonl``.
        probes: probe results, oldest first.
        status: of ``status.json``.
        card: of the exported teacher (or student).
    """

    path: Path
    recipe: str = ""
    plain: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.plain.get("name") or self.path.resolve().name)

    def series(self, key: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of one metric."""
        lines = [line for line in self.metrics if key in line]
        return [line["step"] for line in lines], [line[key] for line in lines]

    def keys(self) -> list[str]:
        """Names of all numeric metrics, in order of appearance."""
        found: dict[str, None] = {}
        for line in self.metrics:
            found.update({key: None for key, value in line.items() if isinstance(value, (int, float)) or value is None})
        return [key for key in found if key not in ("step", "epoch", "time")]


def read_run(path: Path) -> Run:
    """Read a run folder; parts that are missing or damaged stay empty.

    Raises:
        UserError: the folder does not exist or holds nothing of a run.
    """
    import yaml

    from foundation.probes.results import read_results

    if not path.is_dir():
        raise UserError(f"no run folder {path}")
    run = Run(path)
    if (path / "recipe.yaml").is_file():
        run.recipe = (path / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
        try:
            plain = yaml.safe_load(run.recipe)
            run.plain = plain if isinstance(plain, dict) else {}
        except yaml.YAMLError:
            pass
    if (path / "metrics.jsonl").is_file():
        for text in (path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the last line of a killed run
            if isinstance(line, dict) and isinstance(line.get("step"), (int, float)):
                run.metrics.append(line)
    if (path / "probes").is_dir():
        run.probes = read_results(path / "probes")
    run.status = _json(path / "status.json")
    for branch in ("teacher", "student"):
        run.card = run.card or _json(path / "export" / f"{branch}.json")
    if not (run.recipe or run.metrics or run.probes or run.card or (path / "checkpoints").is_dir()):
        raise UserError(f"{path} is no run folder: it has no recipe.yaml, metrics.jsonl, checkpoints, probes or export")
    return run


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
