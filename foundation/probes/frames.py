"""Frame-level linear probe: what is there in every moment, from the tokens of a frozen encoder.

The protocol of ATST-Frame (Li, Shao and Li 2024) with linear heads: tokens of one moment are averaged, features are
standardised, one sigmoid for each class is trained by binary cross-entropy, scores are smoothed by a median, and what
exceeds one half counts. Labels are events with onset and offset in each sample's ``json`` member::

    {"events": [{"label": 3, "onset": 0.42, "offset": 0.91}, ...]}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import SampleError, UserError
from foundation.modalities import members
from foundation.probes import events as measures
from foundation.probes.events import Event
from foundation.probes.features import check_finite, depth_of
from foundation.probes.linear import split
from foundation.probes.results import progress

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


@dataclass(frozen=True)
class FrameSet:
    """Features of the frames of S recordings, T frames each.

    Attributes:
        features: [S, T, D] float32.
        timelines: [S, T, 2] begin and end of each frame, seconds in its file.
        events: of each recording.
        keys: of the recordings.
        unseen: events that lie outside the frames for the most part.
        skipped: samples that could not be used, by reason.
        messages: what was wrong with the first of them.
    """

    features: Tensor
    timelines: NDArray[np.float64]
    events: tuple[tuple[Event, ...], ...]
    keys: tuple[str, ...]
    unseen: int
    skipped: dict[str, int]
    messages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def classes(self) -> int:
        """Largest class number, plus 1."""
        return 1 + max((event.label for part in self.events for event in part), default=-1)


def read_events(raw: Any) -> tuple[Event, ...]:
    """Events of a raw sample.

    Raises:
        SampleError: reason ``missing``: its json has none; ``decode``: not events.
    """
    place, values = members.place_of(raw), members.facts(raw).get("events")
    if values is None:
        raise SampleError(*place, "missing", "no 'events' in its json: frame-level labels are needed")
    try:
        found = tuple(Event(int(e["label"]), float(e["onset"]), float(e["offset"])) for e in values)
    except (TypeError, KeyError, ValueError) as error:
        raise SampleError(*place, "decode", f"events: {error!r}; label, onset and offset are expected") from error
    for event in found:
        if event.label < 0 or not 0 <= event.onset < event.offset:
            raise SampleError(*place, "decode", f"events: {event} (0 <= onset < offset, label >= 0 is expected)")
    return found


def _batches(
    shards: Any, decode: Any, size: int, note: dict[str, Any]
) -> Iterator[list[tuple[Any, tuple[Event, ...]]]]:
    """Good samples with their events, ``size`` at a time; what is wrong goes to ``note``."""
    batch = []
    for number in range(shards.num_samples):
        try:
            raw = shards.read(*_locate(shards, number))
            batch.append((decode(raw), read_events(raw)))
        except SampleError as error:
            note["skipped"][error.reason] = note["skipped"].get(error.reason, 0) + 1
            if len(note["messages"]) < 8:
                note["messages"].append(str(error))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _locate(shards: Any, number: int) -> tuple[int, int]:
    return shards.locate(number) if hasattr(shards, "locate") else (0, number)


def _columns(encoder: nn.Module | None, view: Tensor) -> tuple[NDArray[np.int64], int]:
    """Time of each token [N] as a column, and how many columns there are."""
    config: Any = getattr(encoder, "config", None)
    coordinates = np.asarray(config.coordinates(tuple(view.shape[2:])))[:, -1]
    return coordinates, int(coordinates.max()) + 1


def _tokens(encoder: Any, view: Tensor, blocks: int) -> Tensor:
    """Patch tokens of the last blocks side by side, [B, N, blocks x D]."""
    depth = depth_of(encoder)
    names = tuple(f"block.{index}" for index in range(depth - blocks, depth - 1))
    features = encoder([view], taps=names)[0]
    norm = encoder.trunk.norm if names else None
    earlier = [norm(features.taps[name])[:, encoder.prefix :] for name in names] if norm is not None else []
    return torch.cat([*earlier, features.patches], dim=2)


def extract(
    encoder: Any,
    shards: Any,
    decode: Any,
    evaluate: Any,
    *,
    raw: bool = False,
    blocks: int = 1,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    what: str = "frames",
) -> FrameSet:
    """Features of all frames.

    Args:
        encoder: of the model; with ``raw`` it says only how long a frame is.
        shards: opened.
        decode: raw sample -> sample.
        evaluate: of the modality: samples -> views, and ``timeline``.
        raw: the numbers of the view themselves, in place of features.
        blocks: last blocks whose tokens are put side by side.
        device: where the encoder runs.
        batch_size: recordings per forward pass.
        what: said in front of the progress bar.

    Raises:
        UserError: a modality without a timeline, or no sample with events.
    """
    if not hasattr(evaluate, "timeline"):
        raise UserError("frames are measured along time, and views of this modality have no timeline")
    note: dict[str, Any] = {"skipped": {}, "messages": []}
    parts, timelines, found, keys = [], [], [], []
    unseen = 0
    total = -(-shards.num_samples // batch_size)
    with torch.inference_mode():
        for batch in progress(_batches(shards, decode, batch_size, note), total, what):
            samples = [sample for sample, _ in batch]
            view = evaluate(samples).to(device)
            places, columns = _columns(encoder, view)
            if raw:
                wide = view.shape[-1] // columns
                cut = view[..., : wide * columns].flatten(1, -2).unflatten(2, (columns, wide))
                parts.append(cut.permute(0, 2, 1, 3).flatten(2).float().cpu())
            else:
                tokens = _tokens(encoder, view, blocks).float()
                mean = tokens.new_zeros(len(samples), columns, tokens.shape[2])
                mean.index_add_(1, torch.from_numpy(places).to(device), tokens)
                parts.append((mean * (columns / len(places))).cpu())
            for sample, own in batch:
                timelines.append(evaluate.timeline(sample, columns))
                begin, end = timelines[-1][0, 0], timelines[-1][-1, 1]
                unseen += sum(not begin <= (event.onset + event.offset) / 2 <= end for event in own)
                found.append(own)
                keys.append(sample["__key__"])
    if not keys:
        lines = "".join(f"\n  {line}" for line in note["messages"])
        raise UserError(f"{what}: no sample with events could be read{lines}")
    features = torch.cat(parts).clone()
    check_finite(features.flatten(1), what)
    return FrameSet(
        features, np.stack(timelines), tuple(found), tuple(keys), unseen, note["skipped"], tuple(note["messages"])
    )


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


def fit(train: FrameSet, test: FrameSet, settings: Settings, device: torch.device | str = "cpu") -> FrameResult:
    """Train the heads and measure the one that does best on recordings kept back.

    Raises:
        UserError: too few recordings.
    """
    classes = max(train.classes, test.classes)
    if classes < 1:
        raise UserError("none of the samples has an event: there is nothing to learn")
    rows, kept = split(len(train), settings.validation_share, settings.seed)
    features = train.features[rows].flatten(0, 1)
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    truth = np.concatenate([_truth(train, row, classes) for row in rows.tolist()])
    heads = _train((features - mean) / deviation, torch.from_numpy(truth).float(), settings, device)
    # As one layer on the features as they come.
    weights = [(w[:-1] / deviation[:, None], w[-1] - (mean / deviation) @ w[:-1]) for w in heads]
    held = [
        measures.f1(np.sum([_frames(train, row, head, classes, settings)[0] for row in kept.tolist()], axis=0))
        for head in weights
    ]
    best = int(np.nanargmax(held)) if not np.isnan(held).all() else 0
    both = [_frames(test, row, weights[best], classes, settings) for row in range(len(test))]
    frames, events = (np.stack([counts[kind] for counts in both]) for kind in (0, 1))
    return FrameResult(
        learning_rate=settings.learning_rates[best],
        frame_f1=measures.f1(frames.sum(0)),
        frame_interval=measures.f1_interval(frames, settings.seed),
        event_f1=measures.f1(events.sum(0)),
        event_interval=measures.f1_interval(events, settings.seed),
        validation=dict(zip(settings.learning_rates, held, strict=True)),
    )


def _truth(frames: FrameSet, row: int, classes: int) -> NDArray[np.bool_]:
    return measures.active(frames.events[row], frames.timelines[row], classes)


def _frames(
    frames: FrameSet, row: int, head: tuple[Tensor, Tensor], classes: int, settings: Settings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts [C, 3] of frames and of events of one recording."""
    scores = torch.addmm(head[1], frames.features[row], head[0]).sigmoid().numpy()
    there = measures.median(scores, settings.median) > 0.5
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
