"""The geometric half of the views: where a crop lies, and how its pixels are resampled.

One set of drawn boxes, two executions: per image in uint8 on the CPU (:func:`resize_crops`), or as two batched matrix
products on an accelerator (:func:`resample_crops`). Both use the antialiased filter of Pillow and PyTorch.

Source frame: pixel (row i, column j) covers [j, j + 1] x [i, i + 1]; x runs to the right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

ATTEMPTS = 10
CROP_DRAWS = 2 * ATTEMPTS + 2
"""Uniform numbers that one crop needs."""


def crop_boxes(
    uniforms: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> NDArray[np.int64]:
    """Random resized crops by torchvision's rule.

    Ten attempts of (area uniform in ``scale`` x image area, aspect ratio log-uniform); the first box that fits is
    placed uniformly. Where none fits: the largest centred box within the aspect limits.

    Args:
        uniforms: [B, 22] in [0, 1).
        heights: [B] pixels.
        widths: [B] pixels.
        scale: smallest and largest share of the image's area.
        aspect: smallest and largest width / height.

    Returns:
        [B, 4] int64: top, left, height, width.
    """
    h, w = heights[:, None].astype(np.float64), widths[:, None].astype(np.float64)
    area = h * w * (scale[0] + (scale[1] - scale[0]) * uniforms[:, :ATTEMPTS])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = np.exp(low + (high - low) * uniforms[:, ATTEMPTS : 2 * ATTEMPTS])
    box_w, box_h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (box_w > 0) & (box_w <= w) & (box_h > 0) & (box_h <= h)  # [B, attempts]
    found: NDArray[np.bool_] = np.any(fits, axis=1)
    first, rows = fits.argmax(1), np.arange(len(heights))
    box_w, box_h = box_w[rows, first].astype(np.int64), box_h[rows, first].astype(np.int64)
    top = np.floor(uniforms[:, -2] * (heights - box_h + 1)).astype(np.int64)
    left = np.floor(uniforms[:, -1] * (widths - box_w + 1)).astype(np.int64)

    whole = widths / heights
    limited_w = np.where(whole > aspect[1], np.rint(heights * aspect[1]), widths).astype(np.int64)
    limited_h = np.where(whole < aspect[0], np.rint(widths / aspect[0]), heights).astype(np.int64)
    limited_w, limited_h = np.maximum(limited_w, 1), np.maximum(limited_h, 1)
    fallback = np.stack([(heights - limited_h) // 2, (widths - limited_w) // 2, limited_h, limited_w], 1)
    return np.where(found[:, None], np.stack([top, left, box_h, box_w], 1), fallback)


def affine(boxes: NDArray[np.int64], flips: NDArray[np.bool_]) -> Tensor:
    """Maps from view coordinates in [0, 1]^2 (x, y; after the flip) to source pixels.

    Args:
        boxes: [R, 4] top, left, height, width.
        flips: [R] mirrored left-right or not.

    Returns:
        [R, 2, 3] float32: source = matrix[:, :, :2] @ (x, y) + matrix[:, :, 2].
    """
    top, left, height, width = boxes.T.astype(np.float32)
    matrix = np.zeros((len(boxes), 2, 3), np.float32)
    matrix[:, 0, 0] = np.where(flips, -width, width)
    matrix[:, 0, 2] = np.where(flips, left + width, left)
    matrix[:, 1, 1] = height
    matrix[:, 1, 2] = top
    return torch.from_numpy(matrix)


def turn_boxes(
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    angles: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
) -> tuple[NDArray[np.int64], Tensor]:
    """Turns crops about their centres, within the image: no pixel is invented.

    A turned crop that would reach beyond an edge is moved inwards; one that has no room at its angle is made smaller.

    Args:
        boxes: [R, 4] top, left, height, width.
        flips: [R] mirrored left-right (before it is turned) or not.
        angles: [R] radians, clockwise as one sees it.
        heights: [R] pixels of the image.
        widths: [R] pixels of the image.

    Returns:
        [R, 4] int64, the upright boxes around the turned crops; and [R, 2, 3] float32, maps from view coordinates in
        [0, 1]^2 (x, y) to coordinates in [0, 1]^2 of those boxes.
    """
    top, left, height, width = boxes.T.astype(np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    around_h, around_w = height * abs(cos) + width * abs(sin), width * abs(cos) + height * abs(sin)
    fitting = np.minimum(1.0, np.minimum(heights / around_h, widths / around_w))
    half_h, half_w = fitting * around_h / 2, fitting * around_w / 2
    y = np.clip(top + height / 2, half_h, heights - half_h)
    x = np.clip(left + width / 2, half_w, widths - half_w)
    outer_top, outer_left = np.floor(y - half_h + 1e-6).clip(0), np.floor(x - half_w + 1e-6).clip(0)
    outer_h = np.minimum(np.ceil(y + half_h - 1e-6), heights) - outer_top
    outer_w = np.minimum(np.ceil(x + half_w - 1e-6), widths) - outer_left
    across = np.where(flips, -1.0, 1.0) * fitting * width
    down = fitting * height
    matrix = np.empty((len(boxes), 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = across * cos, -down * sin
    matrix[:, 1, 0], matrix[:, 1, 1] = across * sin, down * cos
    matrix[:, :, 2] = np.stack([x - outer_left, y - outer_top], 1) - matrix[:, :, :2].sum(2) / 2
    matrix /= np.stack([outer_w, outer_h], 1)[:, :, None]
    outer = np.stack([outer_top, outer_left, outer_h, outer_w], 1).astype(np.int64)
    return outer, torch.from_numpy(matrix.astype(np.float32))


def inside(boxes: NDArray[np.int64], turns: Tensor) -> Tensor:
    """Maps from view coordinates to source pixels, [R, 2, 3], of what :func:`turn_boxes` returns; as :func:`affine`."""
    outer = affine(boxes, np.zeros(len(boxes), np.bool_))
    maps = outer[:, :, :2] @ turns
    maps[:, :, 2] += outer[:, :, 2]
    return maps


def turned_side(size: int) -> int:
    """Pixels at which the box around a turned crop is resampled: a square of ``size`` fits in at every angle."""
    return math.ceil(size * math.sqrt(2.0))


def turn(pixels: Tensor, turns: Tensor, size: int, interpolation: str) -> Tensor:
    """Reads turned crops from the upright boxes around them.

    Args:
        pixels: uint8 or float32 [R, 3, P, P], boxes resampled to P pixels (:func:`turned_side`), values in [0, 255].
        turns: [R, 2, 3] from :func:`turn_boxes`.
        size: side of the result, pixels.
        interpolation: ``bicubic`` or ``bilinear``.

    Returns:
        [R, 3, size, size] of the same type, whole values in [0, 255].
    """
    place = (torch.arange(size, device=pixels.device, dtype=torch.float32) + 0.5) / size
    ones = torch.ones((size, size), device=pixels.device)
    view = torch.stack([place.expand(size, size), place[:, None].expand(size, size), ones]).flatten(1)  # [3, S S]
    grid = (2.0 * (turns @ view) - 1.0).transpose(1, 2).reshape(-1, size, size, 2)
    values = F.grid_sample(pixels.float(), grid, mode=interpolation, padding_mode="border", align_corners=False)
    return values.round_().clamp_(0.0, 255.0).to(pixels.dtype)


def resize_crops(
    images: Sequence[Tensor],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    size: int,
    interpolation: str,
) -> Tensor:
    """Crops, resizes and flips each image by itself, in uint8.

    Args:
        images: B images, uint8 [3, H, W] (fast when their memory is [H, W, 3]); or B clips, [T, 3, H, W] with the same
            T, all frames of which are cut alike.
        boxes: [R, 4] with R a multiple of B; row r cuts image r % B.
        flips: [R].
        size: side of the result, pixels.
        interpolation: ``bicubic`` or ``bilinear``, antialiased.

    Returns:
        uint8 [R, 3, size, size], or [R, T, 3, size, size], contiguous.
    """
    out = torch.empty((len(boxes), *images[0].shape[:-2], size, size), dtype=torch.uint8)
    for row, ((top, left, height, width), flip) in enumerate(zip(boxes.tolist(), flips.tolist(), strict=True)):
        crop = images[row % len(images)][..., top : top + height, left : left + width]
        if (height, width) != (size, size):
            stack = crop if crop.ndim == 4 else crop[None]
            crop = F.interpolate(stack, size=(size, size), mode=interpolation, antialias=True).view_as(out[row])
        out[row] = crop.flip(-1) if flip else crop
    return out


def pack(images: Sequence[Tensor]) -> Tensor:
    """All images of a batch in one tensor, each in the upper left corner.

    Args:
        images: B images, uint8 [3, H, W] of any size.

    Returns:
        uint8 [B, 3, largest H, largest W], zero elsewhere.
    """
    height, width = max(i.shape[1] for i in images), max(i.shape[2] for i in images)
    canvas = torch.zeros((len(images), 3, height, width), dtype=torch.uint8)
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas


def reduce(images: Sequence[Tensor], limit: int) -> tuple[list[Tensor], NDArray[np.float64]]:
    """Shrinks images whose longer side is above a limit, so that one huge photograph does not pad a whole batch.

    Args:
        images: B images, uint8 [3, H, W].
        limit: pixels.

    Returns:
        The images, and [B, 2] by how much each was reduced (down, across; 1 = untouched).
    """
    reduced, factors = [], np.ones((len(images), 2))
    for number, image in enumerate(images):
        height, width = image.shape[1:]
        if max(height, width) > limit:
            share = limit / max(height, width)
            size = max(1, round(height * share)), max(1, round(width * share))
            image = F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0]
            factors[number] = size[0] / height, size[1] / width
        reduced.append(image)
    return reduced, factors


def scale_boxes(boxes: NDArray[np.int64], factors: NDArray[np.float64], sizes: NDArray[np.int64]) -> Tensor:
    """Boxes of the original images as boxes of the reduced ones, at least a pixel large.

    Args:
        boxes: [R, 4] top, left, height, width, view-major.
        factors: [B, 2] from :func:`reduce`.
        sizes: [B, 2] height and width of the reduced images.

    Returns:
        [R, 4] float32.
    """
    views = len(boxes) // max(len(factors), 1)
    factor, size = np.tile(factors, (views, 1)), np.tile(sizes, (views, 1))
    extent = np.clip(boxes[:, 2:] * factor, 1.0, size)
    begin = np.clip(boxes[:, :2] * factor, 0.0, size - extent)
    return torch.from_numpy(np.concatenate([begin, extent], 1).astype(np.float32))


def filter_matrix(begin: Tensor, extent: Tensor, flips: Tensor | None, size: int, length: int, mode: str) -> Tensor:
    """Weights of the antialiased resize of an interval of a line to ``size`` pixels.

    The filter is stretched by the reduction factor (never shrunk), cut at the interval's ends and normalised;
    the cubic one has a = -0.5, as in Pillow.

    Args:
        begin: [R] first pixel of the interval (a fraction in an image that was reduced).
        extent: [R] its length in pixels, at least 1.
        flips: [R] bool, write the result backwards; or None.
        size: pixels of the result.
        length: pixels of the line.
        mode: ``bicubic`` or ``bilinear``.

    Returns:
        [R, size, length] float32.
    """
    device = begin.device
    extent_f = extent.to(torch.float32)[:, None]
    scale = extent_f / size  # [R, 1]
    stretch = scale.clamp(min=1.0)
    support = (2.0 if mode == "bicubic" else 1.0) * stretch
    place = torch.arange(size, device=device, dtype=torch.float32)[None]
    if flips is not None:
        place = torch.where(flips[:, None], size - 1 - place, place)
    centre = scale * (place + 0.5)  # [R, size]
    first = (centre - support + 0.5).floor().clamp(min=0.0)
    last = torch.minimum((centre + support + 0.5).floor(), extent_f)
    pixel = (torch.arange(length, device=device)[None] - begin[:, None]).to(torch.float32)[:, None]  # [R, 1, length]
    distance = ((pixel + 0.5 - centre[..., None]) / stretch[..., None]).abs()
    if mode == "bicubic":
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weight = torch.where(distance < 1.0, near, far)
        weight = torch.where(distance < 2.0, weight, 0.0)
    else:
        weight = (1.0 - distance).clamp(min=0.0)
    # Half a pixel of slack: intervals of a reduced image begin and end between pixels.
    weight = torch.where((pixel > first[..., None] - 0.5) & (pixel < last[..., None] - 0.5), weight, 0.0)
    return weight / weight.sum(-1, keepdim=True)


def resample_crops(canvas: Tensor, boxes: Tensor, flips: Tensor, size: int, interpolation: str) -> Tensor:
    """The same crops as :func:`resize_crops`, all at once: columns first, then rows, by matrix products.

    Rounds to whole levels after each pass, as the uint8 resize does; the two differ by one level at most in all but
    a few pixels. Never waits for the device.

    Args:
        canvas: uint8 [B, 3, H, W], see :func:`pack`.
        boxes: [R, 4] top, left, height, width, with R = views x B, view-major.
        flips: bool [R].
        size: side of the result, pixels.
        interpolation: ``bicubic`` or ``bilinear``.

    Returns:
        float32 [R, 3, size, size] with whole values in [0, 255].
    """
    batch, _, height, width = canvas.shape
    views = boxes.shape[0] // batch
    top, left, box_h, box_w = boxes.unbind(1)
    across = filter_matrix(left, box_w, flips, size, width, interpolation)  # [V B, size, W]
    down = filter_matrix(top, box_h, None, size, height, interpolation)  # [V B, size, H]
    across = rearrange(across, "(v b) size w -> b w (v size)", v=views)
    lines = torch.bmm(rearrange(canvas, "b c h w -> b (c h) w").to(torch.float32), across)
    lines = lines.round_().clamp_(0.0, 255.0)
    lines = rearrange(lines, "b (c h) (v size) -> (v b) h (c size)", c=3, v=views)
    result = torch.bmm(down, lines).round_().clamp_(0.0, 255.0)  # [V B, size, 3 size]
    return rearrange(result, "r size (c x) -> r c size x", c=3).contiguous()
