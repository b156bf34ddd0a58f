"""Outcomes to look at: label maps, depths and boxes beside the picture that the encoder saw."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.drawing import Picture, resize

SIDE = 160
"""Height of a picture, pixels: three side by side fit into a card of a page."""
_UNKNOWN = (128, 128, 128)


def seen(view: Tensor, evaluation: Any) -> Picture:
    """A view [3, H, W] as pixels, uint8 [H, W, 3]."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (evaluation.mean, evaluation.std))
    pixels = (view.detach().cpu().float() * std + mean) * 255
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def palette(count: int) -> NDArray[np.uint8]:
    """[count, 3] colours that differ: the first black, the others around the circle of hues, light and dark."""
    colours = [(0.0, 0.0, 0.0)]
    for place in range(max(count - 1, 0)):
        hue, saturation, value = (place * 0.61803) % 1, 0.65 + 0.3 * (place % 2), 1.0 - 0.15 * (place % 3)
        colours.append(colorsys.hsv_to_rgb(hue, saturation, value))
    return (np.array(colours[:count]) * 255).round().astype(np.uint8)


def coloured(classes: Tensor, count: int) -> Picture:
    """A map of class numbers [H, W] as colours; -1 (unknown) is grey."""
    table = np.concatenate([palette(count), np.array([_UNKNOWN], np.uint8)])
    return table[classes.cpu().numpy()]


def outlined(picture: Picture, boxes: Sequence[Sequence[float]], colour: tuple[int, int, int]) -> Picture:
    """A picture with boxes (left, top, right, bottom; pixels) drawn into it."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for left, top, right, bottom in boxes:
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour)
    return np.asarray(image)


def side_by_side(parts: Sequence[Picture], side: int = SIDE) -> Picture:
    """Pictures of one form, each ``side`` high, with a white line between them."""
    line = np.full((side, 4, 3), 255, np.uint8)
    large = [resize(part, side, round(part.shape[1] * side / part.shape[0]), smooth=False) for part in parts]
    return np.concatenate([piece for part in large for piece in (line, part)][1:], axis=1)


def png(picture: Picture) -> bytes:
    """The bytes of a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()
