"""Frame-level linear probe: what is there in every moment, from the tokens of a frozen encoder.

The protocol of ATST-Frame (Li, Shao and Li 2024) with linear heads: tokens of one moment are averaged, features are
standardised, one sigmoid for each class is trained by binary cross-entropy, scores are smoothed by a median, and what
exceeds one half counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.parallel.collective import on_first_rank
from foundation.probes import events as measures
from foundation.probes.frame_features import FrameSet, number_events, of_shards, read_events
from foundation.probes.linear import split
from foundation.ranges import LARGEST, Count, Range, Seconds, Side, check
from foundation.schedules import Duration

LEARNING_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the heads train and how scores become events."""

    learning_rates: tuple[float, ...] = LEARNING_RATES
    """All are trained at once; the one to report is chosen on recordings kept back."""
    epochs: int = 30
    """Passes over the training frames."""
    batch_size: int = 1024
    """Frames per step."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    median: int = 7
    """Frames of the median that smooths the scores; odd."""
    validation_share: float = 0.1
    """Share of the training recordings kept back to choose a head."""
    seed: int = 0
    """Of the split, the order and the intervals."""

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(f"learning_rates must be positive numbers, got {list(self.learning_rates)}")
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if self.median < 1 or self.median % 2 == 0:
            raise UserError(f"median must be an odd number of frames, got {self.median}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Detection of events by linear classifiers of the teacher's frames while it trains."""

    every: Annotated[Duration, Range(0, 1e9, above=True)] = Duration(10, "epochs")
    """Distance between two measurements; one more is made at the end of the run."""
    train: tuple[str, ...]
    """Shards with events to learn from."""
    test: tuple[str, ...]
    """Shards with events to measure on."""
    seconds: Seconds | None = None
    """Length of the views; None: that of the global views."""
    epochs: Count = 10
    """Passes over the training frames."""
    median: Annotated[int, Range(1, 100_001)] = 7
    """Frames of the median that smooths the scores; odd."""
    limit: Annotated[int, Range(2, LARGEST)] | None = None
    """At most so many recordings of each split, spread evenly over its shards; None: all."""
    batch_size: Side = 64
    """Recordings per forward pass."""

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if not getattr(self, name):
                raise UserError(f"probes: frames.{name} is empty: name shards with events")
        check(self, "frames")
        Settings(epochs=self.epochs, median=self.median)

    def build(self) -> Config:
        """The probe is its settings: nothing has to be made."""
        return self

    def look_ahead(self, *, modality: str, evaluation: Any) -> list[str]:
        """See :class:`foundation.run.probing.LooksAhead`."""
        from foundation.probes.beforehand import check_each

        check_each((self.train, self.test), self.limit, read_events, "'events' in its json")
        return []

    def measure(
        self, encoder: nn.Module, *, modality: str, evaluation: Any, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """Measure an encoder in the middle of training; arguments as for :meth:`foundation.probes.knn.Config.measure`.

        Returns:
            ``probe/frame_f1`` and ``probe/event_f1``, in [0, 1].

        Raises:
            UserError: when shards are missing or hold no events.
        """
        where = {"modality": modality, "evaluation": evaluation, "device": device}
        return on_first_rank(lambda: self._measure(encoder, **where))

    def _measure(
        self, encoder: nn.Module, modality: str, evaluation: Any, device: torch.device | str
    ) -> dict[str, float]:
        train, test = (
            of_shards(
                encoder,
                shards,
                modality=modality,
                evaluation=evaluation,
                seconds=self.seconds,
                limit=self.limit,
                device=device,
                batch_size=self.batch_size,
                what=f"frames: {split}",
            )
            for split, shards in (("train", self.train), ("test", self.test))
        )
        result = fit(train, test, Settings(epochs=self.epochs, median=self.median), device)
        return {"probe/frame_f1": result.frame_f1, "probe/event_f1": result.event_f1}


@dataclass(frozen=True)
class FrameResult:
    """What the heads found.

    Attributes:
        learning_rate: of the head that is reported.
        frame_f1: mean over classes of F1 over frames, in [0, 1].
        frame_interval: 95 % interval over recordings.
        event_f1: the same over events, onset within 0.2 s.
        event_interval: 95 % interval over recordings.
        validation: frame F1 on the recordings kept back, by learning rate.
    """

    learning_rate: float
    frame_f1: float
    frame_interval: tuple[float, float]
    event_f1: float
    event_interval: tuple[float, float]
    validation: dict[float, float]


@dataclass(frozen=True)
class Heads:
    """One linear layer for all classes, chosen among those of several learning rates.

    Attributes:
        weight: [D, C].
        bias: [C].
        learning_rate: that it was trained with.
        validation: frame F1 on the recordings kept back, by learning rate.
    """

    weight: Tensor
    bias: Tensor
    learning_rate: float
    validation: dict[float, float]

    def scores(self, features: Tensor, median: int) -> NDArray[np.float32]:
        """[T, C] in [0, 1], smoothed over ``median`` frames; features [T, D]."""
        return measures.median(torch.addmm(self.bias, features, self.weight).sigmoid().numpy(), median)


def fit_heads(train: FrameSet, classes: int, settings: Settings, device: torch.device | str = "cpu") -> Heads:
    """Train the heads and choose the one that does best on recordings kept back.

    Args:
        train: recordings whose events are numbered from 0.
        classes: C.
        settings: of the training.
        device: where they train.

    Raises:
        UserError: too few recordings, or no event.
    """
    if classes < 1:
        raise UserError("none of the samples has an event: there is nothing to learn")
    rows, kept = split(len(train), settings.validation_share, settings.seed)
    features = train.features[rows].flatten(0, 1)
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    truth = np.concatenate([_truth(train, row, classes) for row in rows.tolist()])
    trained = _train((features - mean) / deviation, torch.from_numpy(truth).float(), settings, device)
    # As one layer on the features as they come.
    folded = [(w[:-1] / deviation[:, None], w[-1] - (mean / deviation) @ w[:-1]) for w in trained]
    heads = [Heads(*layer, rate, {}) for layer, rate in zip(folded, settings.learning_rates, strict=True)]
    held = [
        measures.f1(np.sum([_frames(train, row, head, classes, settings)[0] for row in kept.tolist()], axis=0))
        for head in heads
    ]
    best = int(np.nanargmax(held)) if not np.isnan(held).all() else 0
    return replace(heads[best], validation=dict(zip(settings.learning_rates, held, strict=True)))


def fit(train: FrameSet, test: FrameSet, settings: Settings, device: torch.device | str = "cpu") -> FrameResult:
    """Train the heads and measure the one that does best on recordings kept back.

    Raises:
        UserError: too few recordings.
    """
    classes, (train, test) = number_events(train, test)
    head = fit_heads(train, classes, settings, device)
    both = [_frames(test, row, head, classes, settings) for row in range(len(test))]
    frames, events = (np.stack([counts[kind] for counts in both]) for kind in (0, 1))
    return FrameResult(
        learning_rate=head.learning_rate,
        frame_f1=measures.f1(frames.sum(0)),
        frame_interval=measures.f1_interval(frames, settings.seed),
        event_f1=measures.f1(events.sum(0)),
        event_interval=measures.f1_interval(events, settings.seed),
        validation=head.validation,
    )


def _truth(frames: FrameSet, row: int, classes: int) -> NDArray[np.bool_]:
    return measures.active(frames.events[row], frames.timelines[row], classes)


def _frames(
    frames: FrameSet, row: int, head: Heads, classes: int, settings: Settings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts [C, 3] of frames and of events of one recording."""
    there = head.scores(frames.features[row], settings.median) > 0.5
    found = measures.events_of(there, frames.timelines[row])
    return (
        measures.frame_agreement(_truth(frames, row, classes), there),
        measures.agreement(frames.events[row], found, classes),
    )


def _train(features: Tensor, truth: Tensor, settings: Settings, device: torch.device | str) -> Sequence[Tensor]:
    """One weight [D + 1, C] (bias last) for each learning rate, all trained at once on [F, D] and [F, C]."""
    rates = torch.tensor(settings.learning_rates, device=device)
    count, width, classes = len(rates), features.shape[1], truth.shape[1]
    features, truth = features.to(device), truth.to(device)
    weight = torch.zeros(width + 1, count * classes, device=device)
    # A class is rare among all frames: the bias starts at its share, so that no step is spent on learning that.
    share = truth.mean(0).clamp(1e-4, 1 - 1e-4)
    weight[-1] = torch.log(share / (1 - share)).repeat(count)
    velocity, scale = torch.zeros_like(weight), rates.repeat_interleave(classes)
    generator = torch.Generator().manual_seed(settings.seed)
    steps = settings.epochs * -(-len(features) // settings.batch_size)
    done = 0
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(features), generator=generator).to(device).split(settings.batch_size):
            x = features[batch]
            # The gradient of binary cross-entropy, written out.
            error = torch.addmm(weight[-1], x, weight[:-1]).sigmoid_() - truth[batch].repeat(1, count)
            error /= len(x)
            velocity *= settings.momentum
            velocity[:-1].addmm_(x.T, error)
            velocity[-1] += error.sum(0)
            weight.addcmul_(velocity, scale[None], value=-0.5 * (1 + np.cos(np.pi * done / steps)))
            done += 1
    return [part.cpu() for part in weight.split(classes, dim=1)]
