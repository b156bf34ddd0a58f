"""``foundation.evaluate``: the tasks of a suite put to a model, as values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.api.command import settings as changes
from foundation.errors import UserError
from foundation.files import replace_file, require_new
from foundation.plugins import near
from foundation.probe_command import usable_device
from foundation.report.evaluation import render
from foundation.tasks import suites
from foundation.tasks.base import Score, Settings, Subject
from foundation.tasks.evaluation import Evaluation
from foundation.tasks.evaluation import evaluate as ask
from foundation.tasks.results import RESULT, save
from foundation.tasks.values import interval, shown
from foundation.zoo.load import LoadedEncoder, load_encoder
from foundation.zoo.model import Model


@dataclass(frozen=True)
class Report:
    """A model's scores.

    Attributes:
        suite: whose tasks were asked.
        evaluation: all that came of them: every score, protocols, pictures.
        folder: with the result file and the page; None where nothing was written.
    """

    suite: str
    evaluation: Evaluation
    folder: Path | None

    def __repr__(self) -> str:
        """Every score on a line, as a notebook shows it."""
        lines = [f"{self.evaluation.subject.loaded.description}, suite {self.suite}"]
        for one in self.evaluation.answers:
            for score in one.outcome.scores if one.outcome is not None else ():
                beside = "" if score.features == "model" else f" ({score.features})"
                span = f"  [{interval(score)}]" if score.interval else ""
                lines.append(f"  {one.name:<14} {score.metric:<20} {shown(score)}{span}  n = {score.n:,}{beside}")
        lines += [f"  left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])

    @property
    def scores(self) -> dict[str, Score]:
        """Headline of each task that could be asked: ``report.scores["knn"].value``, ``.interval``, ``.n``."""
        return {one.name: one.outcome.scores[0] for one in self.evaluation.answers if one.outcome is not None}

    @property
    def left_out(self) -> dict[str, str]:
        """Tasks that could not be asked, and why."""
        return {one.name: one.reason for one in self.evaluation.answers if one.outcome is None}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where a score says nothing, or less than it seems to."""
        of_tasks = (w for one in self.evaluation.answers if one.outcome is not None for w in one.outcome.warnings)
        return tuple(dict.fromkeys((*self.evaluation.warnings, *of_tasks)))


def evaluate(
    model: str | Path | Model,
    *,
    train: str | Sequence[str],
    test: str | Sequence[str],
    tasks: str | Sequence[str],
    suite: str | None,
    outside: str | Sequence[str],
    baselines: bool,
    device: str,
    out: str | Path | None,
    overwrite: bool,
    set: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> Report:
    """See :func:`foundation.evaluate`."""
    known = [item.name for item in dataclasses.fields(Settings) if item.name != "device"]
    for name in settings:
        if name not in known:
            raise UserError(f"evaluate has no setting {name!r}{near(name, known)}; there are: {', '.join(known)}")
    place = usable_device(device)
    loaded = _loaded(model, place)
    name = suite or suites.suite_of(loaded.own[0])
    chosen = suites.tasks_of(name, _several(tasks), changes(set, {}))
    folder = None if out is None else Path(out)
    if folder is not None:
        require_new(folder / RESULT, overwrite, "choose another folder", "overwrite=True")
    subject = Subject(
        loaded,
        loaded.evaluation,
        _several(train),
        _several(test),
        Settings(device=place, **settings),
        outside=_several(outside),
    )
    found = ask(subject, chosen, baselines=baselines)
    if folder is not None:
        save(found, name, folder)
        replace_file(folder / "index.html", render(found, name).encode())
    return Report(name, found, folder)


def _loaded(model: str | Path | Model, device: Any) -> LoadedEncoder:
    if not isinstance(model, Model):
        return load_encoder(model, device)
    model.encoder.to(device)
    return model.loaded


def _several(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
