"""What a run folder holds, read so that a missing or damaged part is an empty one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foundation import config, schema
from foundation.errors import UserError
from foundation.finetuning.scores import TESTED, Tested
from foundation.probes.results import read_results
from foundation.redact import redact
from foundation.run.lines import read_lines, said_of
from foundation.run.origin import STARTS, Start
from foundation.run.runs import Status
from foundation.zoo.export import Card, export_of

_MOST_STARTS = 16 * schema.MEBIBYTE


@dataclass
class Run:
    """What a run folder holds, as far as it exists.

    Attributes:
        path: of the folder.
        recipe: text of the resolved recipe, or empty.
        plain: the recipe as plain values.
        metrics: lines of ``metrics.jsonl``.
        probes: probe results, oldest first.
        tested: what a fine-tuned model scored on its test shards; empty for other runs.
        status: of ``status.json``.
        card: of the exported branch that the run is measured by.
        starts: of the run, each with its code, machine and processes; empty for a run of an older version.
        problems: what is damaged and left out, with the reason.
    """

    path: Path
    recipe: str = ""
    plain: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    tested: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    starts: list[Mapping[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        name = self.plain.get("name")
        return name if isinstance(name, str) and name else self.path.resolve().name

    def series(self, key: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of one metric."""
        lines = [line for line in self.metrics if key in line and not isinstance(line[key], str)]
        return [line["step"] for line in lines], [line[key] for line in lines]

    @property
    def seconds(self) -> float | None:
        """Time spent in steps that count, over all starts; None where the metrics do not say."""
        total, last = 0.0, 0.0
        values = [value for value in self.series("time/seconds")[1] if value is not None]
        for value in values:
            if value < last:  # the clock of a start begins at 0
                total += last
            last = value
        return total + last if values else None

    def figures(self) -> list[str]:
        """Names of all numeric metrics, in order of appearance."""
        found: dict[str, None] = {}
        for line in self.metrics:
            found.update({key: None for key, value in line.items() if not isinstance(value, str)})
        return [key for key in found if key not in ("step", "epoch", "time")]


def read_run(path: Path) -> Run:
    """Read a run folder; parts that are missing or damaged stay empty.

    Raises:
        UserError: the folder does not exist or holds nothing of a run.
    """

    if not path.is_dir():
        raise UserError(f"no run folder {path}")
    run = Run(path)
    try:
        run.recipe = schema.read_bytes(path / "recipe.yaml", config.MOST_BYTES).decode("utf-8", "replace")
        run.recipe = redact(run.recipe)  # an older version wrote it as it was given
        run.plain = config.read_plain(path / "recipe.yaml")
    except FileNotFoundError:
        pass
    except UserError as error:
        run.problems.append(str(error))
    try:
        run.metrics, damaged = read_lines(path / "metrics.jsonl")
        run.problems += said_of(damaged, path / "metrics.jsonl")
    except schema.FormError as error:
        run.problems.append(str(error))
    run.probes = read_results(path / "probes", run.problems.append)
    run.tested = _json(Tested, path / TESTED, run.problems)
    run.status = _json(Status, path / "status.json", run.problems)
    run.starts = _starts(path / STARTS, run.problems)
    try:
        if (found := export_of(path / "export")) is not None:
            run.card = dict(schema.read_json(Card, found.with_suffix(".json")))
    except schema.FormError as error:
        run.problems.append(str(error))
    if not (run.recipe or run.metrics or run.probes or run.card or (path / "checkpoints").is_dir()):
        raise UserError(f"{path} is no run folder: it has no recipe.yaml, metrics.jsonl, checkpoints, probes or export")
    return run


def _starts(path: Path, problems: list[str]) -> list[Mapping[str, Any]]:
    try:
        texts = schema.read_bytes(path, _MOST_STARTS).splitlines()
    except FileNotFoundError:
        return []
    except schema.FormError as error:
        problems.append(str(error))
        return []
    found: list[Mapping[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        try:
            found.append(schema.check(Start, schema.parse(text, str(path)), str(path)))
        except schema.FormError:
            if text:
                problems.append(f"{path.name}: line {number} is damaged")
    return found


def _json(form: Any, path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = schema.read_json(form, path)
        return found
    except FileNotFoundError:
        return {}
    except schema.FormError as error:
        problems.append(str(error))
        return {}
