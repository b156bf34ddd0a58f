"""How a person looks at a point cloud and at what an encoder makes of it: three sides of it, in colours.

Points are drawn as small discs, near ones over far ones and brighter, without perspective. Tokens lie on no grid here:
maps of numbers come with the places of their tokens, and every point takes the colour of the tokens around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.drawing import Picture, heat_rgb, pca_colours
from foundation.modalities.points.decode import decode as by_default
from foundation.modalities.points.neighbours import per_point
from foundation.types import Sample

__all__ = ["heat_rgb", "mask_overlay", "overlay", "pca_colours", "render", "to_rgb"]

SIDE = 160
"""Pixels of one of the three drawings."""
LEGEND = "Each cloud from three directions: two from above an edge, one from the top; colour is height."
"""What the axes and colours of its pictures mean, for a person."""
CELL = (288, 96)
"""Width and height of a sample on a contact sheet, pixels."""
_PAPER, _HIDDEN = (250, 250, 250), (190, 190, 200)
# Angles in degrees: about the upright axis, then towards the one who looks.
_LOOKS = ((35.0, 25.0), (125.0, 25.0), (35.0, 90.0))


def of_raw(
    raw: Mapping[str, Any], decode: Callable[[Any], Sample] | None = None, up: Literal["x", "y", "z"] = "z"
) -> Picture:
    """A sample of a shard as a person looks at it: up to 4096 of its points.

    Args:
        raw: members by extension.
        decode: reads it, as a recipe's views say; None: the decoder with its defaults.
        up: axis that points upwards.

    Returns:
        uint8 [H, W, 3], of any size.

    Raises:
        SampleError: it cannot be read.
    """

    return of_sample((decode or by_default)(raw), up)


def of_sample(sample: Sample, up: Literal["x", "y", "z"] = "z") -> Picture:
    """A decoded sample as :func:`of_raw` draws it."""
    points = sample["points"]
    return to_rgb(points[:: max(1, len(points) // 4096)].T, up)


def to_rgb(view: Tensor | NDArray[Any], up: Literal["x", "y", "z"] = "z", side: int = SIDE) -> Picture:
    """A cloud from three directions, coloured by height.

    Args:
        view: float [channels, P]; or a decoded cloud, float [N, channels] with N > channels.
        up: axis that points upwards.
        side: pixels of one drawing.

    Returns:
        uint8 [side, 3 side, 3].

    Raises:
        ValueError: another shape.
    """
    points = _points(view)
    height = points[:, "xyz".index(up)]
    return render(points, heat_rgb(torch.from_numpy(height[None].copy()))[0], up, side)


def overlay(
    view: Tensor | NDArray[Any],
    values: Tensor | NDArray[Any],
    coordinates: Tensor,
    up: Literal["x", "y", "z"] = "z",
    side: int = SIDE,
) -> Picture:
    """A cloud coloured by what its tokens say.

    Args:
        view: see :func:`to_rgb`.
        values: [N] numbers of the tokens (attention of one head), dark is low; or their colours, uint8 [N, 3].
        coordinates: [N, 3] of the tokens, in the coordinates of the view.
        up: axis that points upwards.
        side: pixels of one drawing.
    """
    tensor = torch.as_tensor(values).detach().cpu()
    colours = torch.from_numpy(heat_rgb(tensor[None])[0]) if tensor.ndim == 1 else tensor
    points = _points(view)
    spread = per_point(colours.float()[None], coordinates.detach().cpu()[None], torch.from_numpy(points)[None])[0]
    return render(points, spread.round().clamp(0, 255).to(torch.uint8).numpy(), up, side)


def mask_overlay(
    view: Tensor | NDArray[Any],
    masked: Tensor | NDArray[np.bool_],
    coordinates: Tensor,
    up: Literal["x", "y", "z"] = "z",
    side: int = SIDE,
) -> Picture:
    """Which groups a mask hides: points whose nearest group is hidden are grey.

    Args:
        view: see :func:`to_rgb`.
        masked: [N] bool.
        coordinates: [N, 3] of the groups.
        up: axis that points upwards.
        side: pixels of one drawing.
    """
    points = _points(view)
    height = points[:, "xyz".index(up)]
    colours = heat_rgb(torch.from_numpy(height[None].copy()))[0]
    hidden = torch.as_tensor(masked).cpu().float()[None, :, None]
    near = per_point(hidden, coordinates.detach().cpu()[None], torch.from_numpy(points)[None], neighbours=1)[0, :, 0]
    return render(points, np.where(near.numpy()[:, None] > 0.5, np.array(_HIDDEN, np.uint8), colours), up, side)


def render(points: NDArray[np.float32], colours: NDArray[np.uint8], up: str = "z", side: int = SIDE) -> Picture:
    """Three drawings of coloured points, side by side: two from above an edge, one from the top.

    Args:
        points: [P, 3].
        colours: [P, 3] uint8.
        up: axis that points upwards.
        side: pixels of one drawing.

    Returns:
        uint8 [side, 3 side, 3].
    """
    axis = "xyz".index(up)
    xyz = points[:, [(axis + 1) % 3, (axis + 2) % 3, axis]].astype(np.float64)
    xyz = xyz - (xyz.min(axis=0) + xyz.max(axis=0)) / 2
    xyz /= max(float(np.sqrt((xyz**2).sum(axis=1)).max()), 1e-12)
    radius = max(1, round(0.45 * side / len(points) ** 0.5))  # few points are drawn larger, so that surfaces close
    drawings = [_draw(xyz, colours, np.deg2rad(turn), np.deg2rad(tilt), side, radius) for turn, tilt in _LOOKS]
    return np.concatenate(drawings, axis=1)


def _draw(
    xyz: NDArray[np.float64], colours: NDArray[np.uint8], turn: float, tilt: float, side: int, radius: int
) -> Picture:
    """One drawing [side, side, 3] of points inside the unit sphere."""
    right = xyz[:, 1] * np.cos(turn) - xyz[:, 0] * np.sin(turn)
    towards = xyz[:, 0] * np.cos(turn) + xyz[:, 1] * np.sin(turn)
    above = xyz[:, 2] * np.cos(tilt) - towards * np.sin(tilt)
    depth = towards * np.cos(tilt) + xyz[:, 2] * np.sin(tilt)
    order = np.argsort(depth, kind="stable")  # near points are written last
    shade = (0.72 + 0.28 * (depth + 1) / 2)[order, None]
    ink = (colours[order] * shade).round().astype(np.uint8)
    half = (side - 1) / 2
    reach = half - radius - 1
    columns = np.rint(half + reach * right[order]).astype(np.int64)
    rows = np.rint(half - reach * above[order]).astype(np.int64)
    canvas = np.full((side, side, 3), _PAPER, np.uint8)
    disc = [
        (y, x) for y in range(-radius, radius + 1) for x in range(-radius, radius + 1) if y * y + x * x <= radius**2
    ]
    # All pixels of a point before those of the next nearer one: the last value written to a pixel stays.
    down = (rows[:, None] + [y for y, _ in disc]).reshape(-1)
    across = (columns[:, None] + [x for _, x in disc]).reshape(-1)
    canvas[down, across] = np.repeat(ink, len(disc), axis=0)
    return canvas


def _points(view: Tensor | NDArray[Any]) -> NDArray[np.float32]:
    """[P, 3] coordinates."""
    tensor = torch.as_tensor(view).detach().cpu().float()
    if tensor.ndim == 2 and tensor.shape[0] < tensor.shape[1]:
        tensor = tensor.T
    if tensor.ndim != 2 or tensor.shape[1] < 3 or not len(tensor):
        raise ValueError(f"a view of points is [channels, points] with 3 or more channels, not {list(tensor.shape)}")
    return np.ascontiguousarray(tensor[:, :3].numpy())
