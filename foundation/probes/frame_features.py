"""Features of every moment: the tokens of a frozen encoder along time, and what was there, for the frame-level probe.

Labels are events with onset and offset in each sample's ``json`` member::

    {"events": [{"label": 3, "onset": 0.42, "offset": 0.91}, ...]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.data import members
from foundation.data.boundary import decoded, good_views
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import evaluation_config
from foundation.probes import road
from foundation.probes.events import Event
from foundation.probes.features import check_finite, depth_of
from foundation.probes.results import progress


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
        """Classes that occur."""
        return len({event.label for part in self.events for event in part})


def read_events(raw: Any) -> tuple[Event, ...]:
    """Events of a raw sample.

    Raises:
        SampleError: reason ``missing``: its json has none; ``decode``: not events.
    """
    origin, values = members.origin_of(raw), members.facts(raw).get("events")
    if values is None:
        raise SampleError(*origin, "missing", "no 'events' in its json: frame-level labels are needed")
    found = []
    try:
        for one in values:
            label, problem = members.as_label(one["label"])
            if problem or not isinstance(label, (int, str)):
                raise ValueError(problem or "an event without a label")
            found.append(Event(label, float(one["onset"]), float(one["offset"])))
    except Exception as error:  # whatever stands there in the place of a list of events
        raise SampleError(*origin, "decode", f"events: {error!r}; label, onset and offset are expected") from error
    for event in found:
        if not 0 <= event.onset < event.offset < math.inf:
            raise SampleError(*origin, "decode", f"events: {event} (0 <= onset < offset is expected)")
    return tuple(found)


def number_events(*sets: FrameSet) -> tuple[int, tuple[FrameSet, ...]]:
    """Classes that occur in any of the sets, and the same recordings with labels of events numbered among those."""
    labels = {event.label for frames in sets for part in frames.events for event in part}
    places = {label: index for index, label in enumerate(sorted(labels, key=lambda x: (isinstance(x, str), x)))}

    def numbered(frames: FrameSet) -> FrameSet:
        events = tuple(tuple(replace(event, label=places[event.label]) for event in part) for part in frames.events)
        return replace(frames, events=events)

    return len(places), tuple(map(numbered, sets))


def _batches(
    shards: Any, decode: Any, size: int, note: dict[str, Any]
) -> Iterator[list[tuple[Any, tuple[Event, ...]]]]:
    """Good samples with their events, ``size`` at a time; what is wrong goes to ``note``."""
    batch = []
    for number in range(shards.num_samples):
        try:
            raw = shards.read(*shards.locate(number))
            batch.append((decoded(decode, raw), read_events(raw)))
        except SampleError as error:
            _note(note, error)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _note(note: dict[str, Any], error: SampleError) -> None:
    note["skipped"][error.reason] = note["skipped"].get(error.reason, 0) + 1
    if len(note["messages"]) < 8:
        note["messages"].append(str(error))


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
            view, samples, bad = good_views(evaluate, [sample for sample, _ in batch])
            for _, error in bad:
                _note(note, error)
            if view is None:
                continue
            view = view.to(device)
            events = {id(sample): own for sample, own in batch}
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
            for sample in samples:
                own = events[id(sample)]
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


def of_shards(
    encoder: Any,
    patterns: Sequence[str],
    *,
    modality: str,
    evaluation: Any,
    seconds: float | None = None,
    limit: int | None = None,
    **options: Any,
) -> FrameSet:
    """Features of all frames of some shards.

    Args:
        encoder: see :func:`extract`.
        patterns: paths, globs or brace patterns of shards.
        modality: folder name in ``foundation/modalities``.
        evaluation: that modality's ``EvaluationConfig`` or its values as a mapping.
        seconds: length of the views; None: the evaluation's own.
        limit: at most so many recordings, spread evenly; None: all.
        options: of :func:`extract`.

    Raises:
        UserError: no such shards, a modality without a time, or no sample with events.
    """

    evaluation = evaluation_config(modality, evaluation)
    evaluate = evaluation.build()
    if seconds is not None:
        if not hasattr(evaluate, "lasting"):
            raise UserError(f"views of {modality!r} have no length in seconds: leave seconds out")
        evaluate = evaluate.lasting(seconds)
    decode = road.decoder(modality, evaluation)
    return extract(encoder, road.open_limited(patterns, limit), decode, evaluate, **options)
