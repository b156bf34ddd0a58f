"""What a fine-tuned model scored on its test shards: the file beside its run."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from foundation.data.extras.target import Target
from foundation.probes.supervised import Answers, Scores
from foundation.tasks.accuracy import mean_of, widened

TESTED = "finetune.json"


class Tested(TypedDict):
    """Contents of the file.

    Attributes:
        metric: the headline's name, one of ``figures``.
        value: of it; None where so few samples do not define it.
        interval: 95 %, where one can be given.
        n: test samples.
        figures: all of them, by name.
        test: patterns of the test shards.
        task: ``classification``, ``labels`` or ``regression``.
        classes: names, in the order of the head's outputs.
        pieces: views of a sample that were averaged.
        unlabelled: samples that were left out, without a label.
        unknown: samples of classes that training had none of; all count as wrong.
        skipped: samples that could not be read, by reason.
    """

    metric: str
    value: float | None
    interval: tuple[float, float] | None
    n: int
    figures: dict[str, float | None]
    test: list[str]
    task: str
    classes: NotRequired[list[str]]
    pieces: NotRequired[int]
    unlabelled: NotRequired[int]
    unknown: NotRequired[int]
    skipped: NotRequired[dict[str, int]]


def interval_of(found: Scores, answers: Answers, target: Target) -> tuple[float, float] | None:
    """The interval of the headline, in which samples of a group (``--group``) count together.

    Args:
        found: figures of the answers.
        answers: of the test samples.
        target: what was asked, and the rule of groups.
    """
    if found.interval is None or target.config.group is None:
        return found.interval
    names = [target.group_of(key) or key for key in answers.keys]
    numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
    right = (answers.answers.argmax(dim=1) == answers.targets).float()
    score = mean_of(found.metric, right, answers.keys)
    groups = {key: numbers[name] for key, name in zip(answers.keys, names, strict=True)}
    return widened(score, groups).interval
