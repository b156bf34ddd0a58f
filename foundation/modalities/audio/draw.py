"""The random numbers of the views of one role, and the stretches of sound that they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws, bits
from foundation.modalities.audio.segments import Recording, starts
from foundation.modalities.audio.view_config import AudioViewsConfig, ViewConfig
from foundation.types import Sample

Rows = dict[str, NDArray]

_KNOTS = 4
"""Frequencies at which the equaliser's gain is drawn, evenly over the mel bands."""


@dataclass(frozen=True)
class PreparedRole:
    """One role of a batch between the two halves; R rows.

    Attributes:
        waveforms: float32 [R, T] at the front end's rate.
        gains: float32 [R] factors.
        response: float32 [R, mels] gain of each band in decibels.
        noise: float32 [R] root mean square of the noise over the recording's; 0 for none.
        noise_keys: int64 [R].
        partners: int64 [R] rows that are mixed in.
        shares: float32 [R] share of the partner; 0 for none.
        boxes: int64 [R, 4] top, left, height, width of the resized crop on its canvas.
        canvas: int64 [R, 2] first band and frame of the spectrogram on the canvas.
        hidden: int64 [R, 2, stretches, 2] start and width of hidden stretches, of bands and of frames.
        sample_ids: int64 [R].
        geometry: float32 [R, 2, 3].
    """

    waveforms: Tensor
    gains: Tensor
    response: Tensor
    noise: Tensor
    noise_keys: Tensor
    partners: Tensor
    shares: Tensor
    boxes: Tensor
    canvas: Tensor
    hidden: Tensor
    sample_ids: Tensor
    geometry: Tensor


def draw_role(
    config: AudioViewsConfig,
    role: str,
    crop: ViewConfig,
    samples: Sequence[Sample],
    draws: Draws,
    spans: NDArray[np.float64] | None = None,
) -> PreparedRole:
    """All that the device half needs of one role.

    Args:
        config: of the views.
        role: its name.
        crop: its views.
        samples: B samples.
        draws: random numbers of these samples.
        spans: [R, 2] begin and seconds of the views, seconds; None: drawn here.
    """
    recordings = [Recording.of(sample, config.front_end.rate) for sample in samples]
    given = [None] * crop.count if spans is None else list(spans[:, 0].reshape(crop.count, len(samples)))
    parts = [_draw_view(config, role, crop, view, recordings, draws, given[view]) for view in range(crop.count)]
    rows = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return PreparedRole(**rows)


def _draw_view(
    config: AudioViewsConfig,
    role: str,
    crop: ViewConfig,
    view: int,
    recordings: list[Recording],
    draws: Draws,
    begins: NDArray[np.float64] | None,
) -> Rows:
    """One view of each sample: the fields of a PreparedRole; ``begins`` [B] seconds says where, if it is given."""
    front, stream, count = config.front_end, f"audio.{role}.{view}.", len(recordings)
    length = front.samples(crop.frames)
    place = f"audio.{role}.0." if config.same_segment and role == "global" else stream
    chance = draws.uniform(place + "crop", 2)
    lengths = np.array([recording.length for recording in recordings], np.int64)
    first = starts(chance[:, 0], lengths, length)
    rolled = chance[:, 1] < config.roll
    repeated = (lengths < length) if config.short == "repeat" else np.zeros(count, bool)
    anywhere = np.floor(chance[:, 0] * lengths).astype(np.int64)
    first = np.where(rolled | repeated, anywhere, first)
    if begins is not None:
        first, rolled = np.rint(begins * front.rate).astype(np.int64), np.zeros(count, bool)
    waveforms = (
        np.stack([r.cut(int(s), length, bool(w)) for r, s, w in zip(recordings, first, rolled | repeated, strict=True)])
        if count
        else np.zeros((0, length), np.float32)
    )

    augmented = draws.uniform(stream + "augment", 1)[:, 0] < crop.augment[view % len(crop.augment)]
    level = draws.uniform(stream + "level", 3)
    gain = config.gain[0] + (config.gain[1] - config.gain[0]) * level[:, 0]
    ratio = config.noise_ratio[0] + (config.noise_ratio[1] - config.noise_ratio[0]) * level[:, 2]
    noisy = augmented & (level[:, 1] < config.noise)
    partners, shares = mixed_with(config, role, crop, view, draws)
    boxes, canvas = _boxes(config, crop, draws.uniform(stream + "resize", 4), augmented)
    return {
        "waveforms": waveforms,
        "gains": np.where(augmented, 10.0 ** (gain / 20.0), 1.0).astype(np.float32),
        "response": _response(config, draws, stream, augmented),
        "noise": np.where(noisy, 10.0 ** (-ratio / 20.0), 0.0).astype(np.float32),
        "noise_keys": bits(draws.seed, draws.epochs, draws.ids, stream + "noise", 1)[:, 0].astype(np.int64),
        "partners": partners,
        "shares": shares,
        "boxes": boxes,
        "canvas": canvas,
        "hidden": _hidden(config, crop, draws, stream, augmented),
        "sample_ids": draws.ids.astype(np.int64),
        "geometry": _geometry(config, crop, first, boxes, canvas),
    }


def mixed_with(
    config: AudioViewsConfig, role: str, crop: ViewConfig, view: int, draws: Draws
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Row that is mixed into each row of a view [B], and its share [B]; depends on the whole batch, not on its data."""
    stream, count = f"audio.{role}.{view}.", len(draws.ids)
    augmented = draws.uniform(stream + "augment", 1)[:, 0] < crop.augment[view % len(crop.augment)]
    mix = draws.uniform(stream + "mixup", 2)
    others = 1 + np.floor(mix[:, 0] * max(count - 1, 1)).astype(np.int64)  # someone else, all alike
    partners = view * count + (np.arange(count) + others) % max(count, 1)
    return partners, np.where(augmented & (count > 1), config.mixup * mix[:, 1], 0.0).astype(np.float32)


def _response(config: AudioViewsConfig, draws: Draws, stream: str, augmented: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[B, mels] gain of each band, decibels: straight lines between gains at a few frequencies."""
    mels = config.front_end.mels
    if not config.equalise:
        return np.zeros((len(augmented), mels), np.float32)
    gains = config.equalise * (2.0 * draws.uniform(stream + "equalise", _KNOTS) - 1.0) * augmented[:, None]
    where = np.linspace(0, _KNOTS - 1, mels)
    left = np.minimum(where.astype(np.int64), _KNOTS - 2)
    share = where - left
    return (gains[:, left] * (1.0 - share) + gains[:, left + 1] * share).astype(np.float32)


def _boxes(
    config: AudioViewsConfig, crop: ViewConfig, chance: NDArray[np.float64], augmented: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Crops [B, 4] on the canvas, and the spectrogram's place on it [B, 2]; the whole spectrogram where there is none.

    BYOL-A's rule: height and width uniform between the two factors, rounded down and cut at the canvas; any place.
    """
    size = np.array([config.front_end.mels, crop.frames])
    if config.resize is None:
        return np.tile(np.concatenate([np.zeros(2, np.int64), size]), (len(chance), 1)), np.zeros(
            (len(chance), 2), np.int64
        )
    rule = config.resize
    canvas = np.floor(size * np.array(rule.canvas)).astype(np.int64)
    inside = (canvas - size) // 2
    low, high = np.array([rule.frequency, rule.time]).T
    extent = np.clip(np.floor(size * (low + (high - low) * chance[:, :2])).astype(np.int64), 1, canvas)
    begin = np.floor(chance[:, 2:] * (canvas - extent + 1)).astype(np.int64)
    whole = np.concatenate([inside, size])
    boxes = np.where(augmented[:, None], np.concatenate([begin, extent], 1), whole)
    return boxes, np.tile(inside, (len(chance), 1))


def _hidden(
    config: AudioViewsConfig, crop: ViewConfig, draws: Draws, stream: str, augmented: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """[B, 2, stretches, 2] starts and widths of the hidden bands and frames."""
    rule = config.spec_augment
    most = max(rule.bands, rule.times, 1)
    chance = draws.uniform(stream + "hidden", 4 * most).reshape(-1, 2, most, 2)
    size = np.array([config.front_end.mels, crop.frames])[None, :, None]
    widest = np.floor(size * np.array([rule.band_width, rule.time_width])[None, :, None])
    widths = np.floor(chance[..., 0] * (widest + 1)) * augmented[:, None, None]
    begin = np.floor(chance[..., 1] * (size - widths + 1))
    return np.stack([begin, widths], -1).astype(np.int64)


def _geometry(
    config: AudioViewsConfig,
    crop: ViewConfig,
    first: NDArray[np.int64],
    boxes: NDArray[np.int64],
    canvas: NDArray[np.int64],
) -> NDArray[np.float32]:
    """[B, 2, 3] from (x, y) = (time, frequency) in [0, 1]^2 of the view to seconds of the file and mel bands.

    Band k covers [k, k + 1]; a frame lies at the middle of its window. The corners of a resized crop are the middles
    of its outermost cells.
    """
    front = config.front_end
    maps = np.zeros((len(first), 2, 3))
    for row, (axis, size) in enumerate(((1, crop.frames), (0, front.mels))):
        step = (boxes[:, 2 + axis] - 1) / max(size - 1, 1)  # source cells per cell of the view
        # Middle of the view's cell c is u = (c + 0.5) / size, and lies on source cell begin + c * step.
        scale = size * step
        origin = boxes[:, axis] - canvas[:, axis] - 0.5 * step
        if axis == 1:
            hop = front.hop_samples / front.rate
            scale, origin = scale * hop, first / front.rate + front.centre(0) + origin * hop
        else:
            origin = origin + 0.5
        maps[:, row, row], maps[:, row, 2] = scale, origin
    return maps.astype(np.float32)
