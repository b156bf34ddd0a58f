"""Put the tasks of a suite to a model: every sample is encoded once, and what cannot be asked is left out and named."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from foundation.errors import UserError
from foundation.probes import cautions
from foundation.probes.beforehand import unseen
from foundation.probes.candidates import candidates, describe_data
from foundation.probes.groups import groups_of_keys, names_of_groups
from foundation.probes.labels import class_names
from foundation.probes.road import open_limited
from foundation.run.class_token import untrained_class_token
from foundation.tasks.accuracy import widened
from foundation.tasks.base import Confusion, Outcome, Score, Split, Subject, Task
from foundation.tasks.beside import outdone
from foundation.voice import duration, plural, to_stderr

_SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Answer:
    """Of one task.

    Attributes:
        name: of the task.
        task: with its settings.
        outcome: None where it was left out.
        reason: why it was left out; empty where it was not.
        seconds: that it took, the pass over the data with it where it was the first to ask.
    """

    name: str
    task: Task
    outcome: Outcome | None
    reason: str
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """A model's answers.

    Attributes:
        subject: model, shards and settings.
        answers: in the order of the tasks.
        warnings: of the model and the shards, a sentence each.
        data: what the result file says of the splits, by name.
        baselines: labels of what was scored beside the model.
        groups: of the samples that figures are means over, by key; empty where each stands for itself.
        seconds: that all took.
    """

    subject: Subject
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...]
    data: Mapping[str, Any]
    baselines: tuple[str, ...]
    groups: Mapping[str, int]
    seconds: float

    @property
    def conditions(self) -> tuple[str, ...]:
        """What holds of all figures, in words: views of recordings, groups of samples."""
        pieces, rule = self.subject.pieces, self.subject.settings.group
        count = len(set(self.groups.values()))
        averaged = [f"features are means over {pieces} views of each recording"] if pieces > 1 else []
        together = (
            [f"intervals count the samples of each of {plural(count, 'group')} ({rule}) together"] if count else []
        )
        return (*averaged, *together)


def evaluate(
    subject: Subject,
    tasks: Mapping[str, Task],
    *,
    baselines: bool = False,
    say: Callable[[str], None] = to_stderr,
) -> Evaluation:
    """Ask all tasks.

    Args:
        subject: the model and its shards.
        tasks: by name.
        baselines: ask them of the untrained encoder, of the raw input and of simple features too.
        say: is told what goes on.

    Raises:
        UserError: no task could be asked.
    """
    begun = time.monotonic()
    answers = {name: _asked(name, task, subject, say) for name, task in tasks.items()}
    warnings = _looked(subject)
    for warning in warnings:
        say(f"warning: {warning}")
    settings = subject.settings
    others = candidates(
        subject.loaded, subject.evaluation, device=settings.device, seed=settings.seed, baselines=baselines
    )
    for candidate in list(others)[1:]:
        other = subject.with_encoder(candidate.encoder, candidate.sha256, candidate.label)
        for name, task in tasks.items():
            outcome = answers[name].outcome
            if outcome is None or task.refusal(other):
                continue
            found = _asked(name, task, other, say, candidate.label).outcome
            if found is not None:
                own = [score for score in found.scores if score.features == "model"]  # a task may score its baselines
                more = tuple(dataclasses.replace(score, features=candidate.label) for score in own)
                told = outdone([headline(outcome), *more])
                whole = dataclasses.replace(
                    outcome, scores=(*outcome.scores, *more), warnings=(*outcome.warnings, *told)
                )
                answers[name] = dataclasses.replace(answers[name], outcome=whole)
    if not any(answer.outcome for answer in answers.values()):
        reasons = "".join(f"\n  {answer.name}: {answer.reason}" for answer in answers.values())
        raise UserError(f"no task could be asked:{reasons}")
    groups = _groups(subject, answers.values())
    index = open_limited(subject.test or subject.train, None).classes
    answers = {name: _with_names(_with_groups(answer, groups), index) for name, answer in answers.items()}
    kinds = [score.features for answer in answers.values() if answer.outcome for score in answer.outcome.scores]
    return Evaluation(
        subject=subject,
        answers=tuple(answers.values()),
        warnings=tuple(warnings),
        data=_data(subject),
        baselines=tuple(dict.fromkeys(kind for kind in kinds if kind != "model")),
        groups=groups,
        seconds=time.monotonic() - begun,
    )


def _with_names(answer: Answer, index: Sequence[str]) -> Answer:
    """Confusions under the names that the shards' index gives class numbers."""
    if answer.outcome is None:
        return answer
    pictures = tuple(
        dataclasses.replace(picture, classes=class_names(picture.classes, index))
        if isinstance(picture, Confusion)
        else picture
        for picture in answer.outcome.pictures
    )
    return dataclasses.replace(answer, outcome=dataclasses.replace(answer.outcome, pictures=pictures))


def headline(outcome: Outcome) -> Score:
    """The first figure of the model."""
    return outcome.scores[0]


def _asked(name: str, task: Task, subject: Subject, say: Callable[[str], None], of: str = "") -> Answer:
    begun = time.monotonic()
    outcome = None
    try:
        reason = task.refusal(subject) or ""
        if not reason:
            outcome = task.run(subject)
    except UserError as error:
        reason = str(error)
    seconds = time.monotonic() - begun
    whose = f" ({of})" if of else ""
    if outcome is None:
        say(f"{name}{whose}: left out: {reason}")
    else:
        first = headline(outcome)
        say(f"{name}{whose}: {first.metric} {first.value:.4g}, {duration(seconds)}")
    return Answer(name, task, outcome, reason, seconds)


def _looked(subject: Subject) -> list[str]:
    """What a person should know before believing any figure, of the features that a task asked for."""
    told: list[str] = []
    for split in _SPLITS:
        found = subject.held(split)
        if found is not None:
            told += cautions.of_features(found, split)
    if any(subject.held(split) is not None for split in _SPLITS):
        told += filter(None, [unseen(subject.whole, subject.pieces)])
    if subject.held("train") is None or (subject.test and subject.held("test") is None):
        return told
    try:
        train, test = subject.labelled()
        told += cautions.of_splits(train, test)
        if subject.settings.group is not None and subject.test:
            rule = subject.settings.group
            told += cautions.of_groups(
                names_of_groups(train, rule, subject.train), names_of_groups(test, rule, subject.test)
            )
    except UserError as error:
        told.append(f"no task that needs labels can be asked: {error}")
    return [*told, *untrained_class_token(subject.loaded, subject.settings.tokens)]


def _data(subject: Subject) -> dict[str, Any]:
    """What the result file says of the splits; samples only where a task asked for features of them."""
    patterns = {"train": subject.train, "test": subject.test, "outside": subject.outside}
    return {split: describe_data(patterns[split], subject.held(split)) for split in _SPLITS if patterns[split]}


def _groups(subject: Subject, answers: Iterable[Answer]) -> dict[str, int]:
    """Of the samples that figures are means over, where a rule says which belong together."""
    rule = subject.settings.group
    if rule is None:
        return {}
    scores = [score for answer in answers if answer.outcome for score in answer.outcome.scores]
    wanted = {key for score in scores if score.each is not None for key in score.keys}
    names: dict[str, str] = {}
    for patterns in (subject.test, subject.train):  # alignment is one of training samples
        if wanted and patterns:
            names = groups_of_keys(wanted, rule, patterns) | names
    numbers = {name: place for place, name in enumerate(sorted(set(names.values())))}
    return {key: numbers[name] for key, name in names.items()}


def _with_groups(answer: Answer, groups: Mapping[str, int]) -> Answer:
    """Intervals that know that samples of a group are not independent."""
    if answer.outcome is None or not groups:
        return answer
    scores = tuple(widened(score, groups) for score in answer.outcome.scores)
    if all(new is old for new, old in zip(scores, answer.outcome.scores, strict=True)):
        return answer
    said = f"{answer.outcome.protocol} Intervals count the samples of a group together (--group)."
    return dataclasses.replace(answer, outcome=dataclasses.replace(answer.outcome, scores=scores, protocol=said))
