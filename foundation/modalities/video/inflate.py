"""Image weights as the start of a video encoder (Carreira and Zisserman 2017; ViViT, Arnab et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foundation.bicubic import resize_matrix
from foundation.errors import UserError

_PROJECTION, _TABLE, _FIRST = "tokenizer.projection.weight", "positions.table", "positions.first_axis"


@torch.no_grad()
def inflate(
    encoder: nn.Module,
    image: nn.Module | Mapping[str, Tensor],
    how: Literal["average", "centre"] = "average",
) -> nn.Module:
    """Load the weights of an image encoder into a video encoder of the same width and depth.

    The patch embedding becomes a tubelet embedding: ``average`` gives every frame of a tubelet 1 / frames of the image
    weights, ``centre`` gives all of them to the middle frame and 0 to the others. Either way a clip that stands still
    has the tokens of its frame. Learned positions of the image hold at all times (an own table of times stays 0), and
    are resized where the grids differ.

    Args:
        encoder: of videos; changed in place.
        image: encoder of images, or its state as ``state_dict()`` gives it.
        how: see above.

    Returns:
        ``encoder``.

    Raises:
        UserError: names every weight that does not fit.
    """
    if how not in ("average", "centre"):
        raise UserError(f"inflate: how is {how!r}; choose average or centre")
    source = dict(image.state_dict() if isinstance(image, nn.Module) else image)
    target = encoder.state_dict()
    if _PROJECTION not in source or target.get(_PROJECTION, torch.empty(0)).ndim != 5:
        raise UserError(
            f"inflate: an encoder of videos and the weights of an image encoder are needed, both with {_PROJECTION}"
        )
    source[_PROJECTION] = _tubelets(source[_PROJECTION], target[_PROJECTION].shape[2], how)
    if _TABLE in source and _TABLE in target:
        source[_TABLE] = _positions(source[_TABLE], encoder.get_submodule("positions"))
        if _FIRST in target:
            source[_FIRST] = torch.zeros_like(target[_FIRST])
    problems = [f"{name}: not in the image weights" for name in sorted(target.keys() - source.keys())]
    problems += [f"{name}: not in the video encoder" for name in sorted(source.keys() - target.keys())]
    problems += [
        f"{name}: {list(source[name].shape)} in the image weights, {list(target[name].shape)} in the video encoder"
        for name in sorted(source.keys() & target.keys())
        if source[name].shape != target[name].shape
    ]
    if problems:
        text = "\n  ".join(problems[:8]) + (f"\n  and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"inflate: these weights do not fit (same preset, patch size and positions needed):\n  {text}")
    encoder.load_state_dict(source)
    return encoder


def _tubelets(weight: Tensor, frames: int, how: str) -> Tensor:
    """[D, C, p, p] -> [D, C, frames, p, p]."""
    if how == "average":
        return weight[:, :, None].expand(-1, -1, frames, -1, -1) / frames
    inflated = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])
    inflated[:, :, frames // 2] = weight
    return inflated


def _positions(table: Tensor, positions: Any) -> Tensor:
    """[1, 1 + h w, D] of an image grid -> the table of a video grid."""
    times, rows, columns = positions.grid
    cls, places = table[:, :1], table[:, 1:]
    side = round(places.shape[1] ** 0.5)
    if (rows * columns) != places.shape[1]:
        if side * side != places.shape[1]:
            raise UserError(
                f"inflate: {places.shape[1]} image positions make no square; give encoder.size the image's proportions"
            )
        down = resize_matrix(side, rows, offset=0.0, antialias=False).to(places)
        across = resize_matrix(side, columns, offset=0.0, antialias=False).to(places)
        places = torch.einsum("hH,HWd,wW->hwd", down, places.view(side, side, -1), across).reshape(
            1, rows * columns, -1
        )
    return torch.cat([cls, places if positions.split else places.repeat(1, times, 1)], dim=1)
