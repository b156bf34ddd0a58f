"""The temporal half of the views: where a clip begins, how long it is, and which frames it shows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.image import geometry
from foundation.modalities.video.selection import frames_at
from foundation.types import Sample, View

SPAN_DRAWS = 2
"""Uniform numbers that one clip needs."""


def spans(
    uniforms: NDArray[np.float64], begins: NDArray[np.float64], ends: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where clips lie in time.

    Args:
        uniforms: [B] in [0, 1).
        begins: [B] first moment of each video, seconds.
        ends: [B] last moment.
        wanted: [B] length of each clip; a video that is shorter gives all of itself, so its clip is faster in frames
            but never leaves the video.

    Returns:
        [B, 2] begin and length, seconds.
    """
    length = np.minimum(wanted, ends - begins)
    return np.stack([begins + uniforms * (ends - begins - length), length], axis=1)


def span_times(begin: float, seconds: float, frames: int) -> NDArray[np.float64]:
    """[frames] moments in the middle of equal parts of a span, seconds."""
    return begin + seconds * (np.arange(frames) + 0.5) / frames


def sample_frames(sample: Sample, times: NDArray[np.float64]) -> Tensor:
    """The frames that a video shows at some moments.

    Args:
        sample: with ``video`` uint8 [T, 3, H, W] and ``video_times`` [T] seconds.
        times: [n] seconds.

    Returns:
        uint8 [n, 3, H, W], memory [n, H, W, 3]; a frame is repeated where the video has too few.
    """
    places = torch.from_numpy(frames_at(sample["video_times"], times))
    return sample["video"].permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)


def affine(boxes: NDArray[np.int64], flips: NDArray[np.bool_], placed: NDArray[np.float64]) -> Tensor:
    """Maps from view coordinates in [0, 1]^3 (x, y, time; after the flip) to the source: pixels, pixels, seconds.

    Args:
        boxes: [R, 4] top, left, height, width.
        flips: [R].
        placed: [R, 2] begin and length, seconds.

    Returns:
        [R, 3, 4] float32.
    """
    matrix = torch.zeros(len(boxes), 3, 4)
    plane = geometry.affine(boxes, flips)
    matrix[:, :2, :2], matrix[:, :2, 3] = plane[:, :, :2], plane[:, :, 2]
    matrix[:, 2, 2] = torch.from_numpy(placed[:, 1].astype(np.float32))
    matrix[:, 2, 3] = torch.from_numpy(placed[:, 0].astype(np.float32))
    return matrix


def copies(view: View, count: int, role: str) -> View:
    """The same views several times, for masks that differ: row ``c * R + r`` is copy c of row r."""
    return View(
        data=torch.cat([view.data] * count),
        modality=view.modality,
        role=role,
        count=view.count * count,
        sample_ids=view.sample_ids.repeat(count),
        geometry=view.geometry.repeat(count, 1, 1),
    )


def frames_of(view: View, every: int, role: str) -> View:
    """Frames of clips as images.

    Args:
        view: clips [V B, 3, T, S, S].
        every: distance between two frames.
        role: of the result.

    Returns:
        [V F B, 3, S, S], F frames of each clip: row ``(v * F + f) * B + b`` is frame ``f * every`` of clip v of sample
        b. The geometry keeps x and y.
    """
    from einops import rearrange, repeat

    shown = view.data[:, :, ::every]
    frames = shown.shape[2]
    plane = view.geometry[:, :2][:, :, [0, 1, 3]]  # [V B, 2, 3]
    return View(
        data=rearrange(shown, "(v b) c f h w -> (v f b) c h w", v=view.count),
        modality="image",
        role=role,
        count=view.count * frames,
        sample_ids=repeat(view.sample_ids, "(v b) -> (v f b)", v=view.count, f=frames),
        geometry=repeat(plane, "(v b) i j -> (v f b) i j", v=view.count, f=frames),
    )
