"""Audio events: what is heard when, by linear classifiers of the frames of a frozen encoder (F1, PSDS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foundation.data.shards import open_shards
from foundation.errors import SampleError, UserError
from foundation.probes import events as measures
from foundation.probes import frame_features, frames, psds
from foundation.probes.dense_prediction.refusals import of_tokens
from foundation.probes.events import Event
from foundation.probes.frame_features import FrameSet
from foundation.ranges import Count, Positive, Range, Seconds, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.beside import outdone
from foundation.types import Sample
from foundation.voice import plural


@runtime_checkable
class _Timed(Protocol):
    """An evaluation whose views run along time."""

    def timeline(self, sample: Sample, columns: int) -> NDArray[np.float64]: ...


@dataclass(frozen=True, kw_only=True)
class Config:
    """Audio events: event-based and segment-based F1, and the polyphonic sound detection score."""

    seconds: Seconds | None = None
    """Length of the views; None: that of the evaluation views."""
    epochs: Count = 30
    """Passes over the training frames."""
    median: Annotated[int, Range(1, 100_001)] = 7
    """Frames of the median that smooths the scores; odd."""
    segment: Positive = 1.0
    """Seconds of a segment of the segment-based F1."""
    thresholds: Annotated[int, Range(1, 1000)] = 50
    """Thresholds of the polyphonic sound detection score, evenly between 0 and 1."""

    def __post_init__(self) -> None:
        check(self, "events")
        frames.Settings(epochs=self.epochs, median=self.median)

    def build(self) -> Events:
        """The task."""
        return Events(self)


class Events:
    """See :class:`Config`."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        if not isinstance(subject.evaluation.build(), _Timed):
            return f"events in time are asked for, and the views of {subject.loaded.modality} have no timeline"
        both: tuple[Split, ...] = ("train", "test")
        for split in both:
            try:
                shards = open_shards(list(subject.shards(split)))
                frame_features.read_events(shards.read(*shards.locate(0)))
            except SampleError as error:
                return f"{error} ({split} shards)"
            except UserError as error:
                return str(error)
        return of_tokens(subject)

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"events: {reason}")
        config = self.config
        settings = frames.Settings(epochs=config.epochs, median=config.median, seed=subject.settings.seed)
        both: tuple[Split, ...] = ("train", "test")
        scores: list[Score] = []
        warnings: list[str] = []
        for kind in ("model", "raw"):
            train, test = (self._frames(subject, split, kind == "raw") for split in both)
            classes, (train, test) = frame_features.number_events(train, test)
            head = frames.fit_heads(train, classes, settings, subject.settings.device)
            scored = [head.scores(row, config.median) for row in test.features]
            setting = f"learning rate {head.learning_rate:g}"
            scores += self._scores(test, scored, classes, kind, setting, settings.seed)
            if kind == "model":
                warnings = _warnings(train, test)
        return Outcome(
            scores=tuple(scores),
            protocol=(
                "Tokens of one moment are averaged, one linear sigmoid for each class is trained on the frames; the "
                f"learning rate is chosen on training recordings kept back; a median over {config.median} frames. "
                "F1 at threshold 0.5, means over the classes: of events (onset within 0.2 s, offset within 0.2 s or "
                f"half the length), of segments of {config.segment:g} s, of frames (Mesaros et al. 2016). PSDS at "
                f"{config.thresholds} thresholds, the two scenarios of DCASE (Bilen et al. 2020)."
            ),
            warnings=(*outdone(scores), *warnings),
            settings={
                "seconds": config.seconds,
                "epochs": config.epochs,
                "median": config.median,
                "segment": config.segment,
                "thresholds": config.thresholds,
            },
        )

    def _frames(self, subject: Subject, split: Split, raw: bool) -> FrameSet:
        settings = subject.settings
        return frame_features.of_shards(
            subject.loaded.encoder,
            subject.shards(split),
            modality=subject.loaded.modality,
            evaluation=subject.evaluation,
            seconds=self.config.seconds,
            limit=settings.limit,
            raw=raw,
            device=settings.device,
            batch_size=min(settings.batch_size, 64),
            what=split,
        )

    def _scores(
        self, test: FrameSet, scored: Sequence[NDArray[Any]], classes: int, kind: str, setting: str, seed: int
    ) -> list[Score]:
        config = self.config
        found = [measures.events_of(row > 0.5, line) for row, line in zip(scored, test.timelines, strict=True)]
        ends = [float(line[-1, 1]) for line in test.timelines]
        counted = {
            "event F1": [measures.agreement(real, own, classes) for real, own in zip(test.events, found, strict=True)],
            "segment F1": [
                measures.segment_agreement(real, own, classes, end, config.segment)
                for real, own, end in zip(test.events, found, ends, strict=True)
            ],
            "frame F1": [
                measures.frame_agreement(measures.active(real, line, classes), row > 0.5)
                for real, line, row in zip(test.events, test.timelines, scored, strict=True)
            ],
        }
        scores = []
        for metric, parts in counted.items():
            table = np.stack(parts)
            value, interval = measures.f1(table.sum(0)), measures.f1_interval(table, seed)
            scores.append(
                Score(metric=metric, value=value, interval=interval, n=len(test), setting=setting, features=kind)
            )
        levels = (np.arange(config.thresholds) + 0.5) / config.thresholds
        curves: list[list[list[Event]]] = [
            [measures.events_of(row > level, line) for row, line in zip(scored, test.timelines, strict=True)]
            for level in levels
        ]
        seconds = float(sum(line[-1, 1] - line[0, 0] for line in test.timelines))
        for name, scenario in (("PSDS1", psds.FAST), ("PSDS2", psds.SURE)):
            points = [psds.count(test.events, one, classes, scenario) for one in curves]
            value = psds.score(points, test.events, classes, seconds, scenario)
            scores.append(Score(metric=name, value=value, n=len(test), setting=setting, features=kind))
        return scores


def _warnings(train: FrameSet, test: FrameSet) -> list[str]:
    said = []
    for what, part in (("training", train), ("test", test)):
        if part.unseen:
            said.append(f"{plural(part.unseen, 'event')} of the {what} split lie outside of the views: name seconds")
        if part.skipped:
            said.append(
                f"{plural(sum(part.skipped.values()), f'{what} sample')} left out, the first: {part.messages[0]}"
            )
    both = {event.label for events in test.events for event in events}
    unknown = both - {event.label for events in train.events for event in events}
    if unknown:
        said.append(f"{plural(len(unknown), 'class', 'classes')} occur in the test split alone: no head can find them")
    return said
