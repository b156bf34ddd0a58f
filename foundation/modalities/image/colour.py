"""Operations on the colours of views, in place: one formula for one view on a CPU and for a batch on an accelerator.

A value is a float for one view, a tensor [R, 1, 1, 1] for a batch (:mod:`~foundation.modalities.image.planes`).
"""

from __future__ import annotations

from typing import Any

from foundation.modalities.image.planes import BLUE, GREEN, RED, Planes

_SIGN = -(2**31)  # the bit of the sign in a float32


def brightness(x: Planes, factor: Any) -> None:
    """Mixes with black."""
    x.mix(factor, 0.0)


def contrast(x: Planes, factor: Any) -> None:
    """Mixes with the mean grey value of the whole view."""
    x.mix(factor, x.mean_grey() * (1.0 - factor))


def saturation(x: Planes, factor: Any) -> None:
    """Mixes with the grey image."""
    x.mix_grey(factor)


def hue(x: Planes, shift: Any) -> None:
    """Turns the hue in HSV space; exact, in closed form.

    Let m <= d <= M be the three channels of a pixel by size. A turn of up to a sixth of the circle moves d alone, by
    shift (M - m), until it meets M or m; from there on what it met moves, the other way. So a channel x, followed by y
    and preceded by z in the circle red, green, blue, becomes ``clip(2 x - d - sign(y - z) shift (M - m), m, M)``: the
    sign is the same for the smallest and the largest channel, and the other one for d, of which ``2 x - d`` is d. No
    case distinction, no division, no trip to HSV and back. (Where y = z, the channel is at its limit either way.)

    Args:
        x: the pixels.
        shift: sixths of a turn, in [-1, 1]; green comes after red.
    """
    xp, pixels, (red, green, blue) = x.xp, x.pixels, x.planes
    low, middle, high, chroma, chroma_bits, picture, picture_bits, (first, second, third) = x.work
    xp.minimum(red, green, out=low)
    xp.maximum(red, green, out=high)
    xp.minimum(high, blue, out=middle)
    xp.maximum(high, blue, out=high)
    xp.maximum(low, middle, out=middle)
    xp.minimum(low, blue, out=low)
    xp.subtract(high, low, out=chroma)
    chroma *= shift
    xp.subtract(green, blue, out=first)
    xp.subtract(blue, red, out=second)
    xp.subtract(red, green, out=third)
    picture_bits &= _SIGN
    picture_bits ^= chroma_bits  # the sign of the difference upon the shift
    picture += middle
    pixels += pixels
    pixels -= picture
    xp.maximum(pixels, low, out=pixels)
    xp.minimum(pixels, high, out=pixels)


def greyscale(x: Planes, value: Any = None) -> None:
    """The grey value in all three planes."""
    grey_plane(x)
    red, green, blue = x.planes
    green[...] = red
    blue[...] = red


def grey_plane(x: Planes) -> None:
    """The grey value in the first plane; what the others hold afterwards is of no use."""
    red, green, blue = x.planes
    red *= RED
    green *= GREEN
    red += green
    blue *= BLUE
    red += blue


def solarise(x: Planes, threshold: Any) -> None:
    """Inverts what is not below the threshold."""
    x.settle()
    pixels, change = x.pixels, x.work.picture
    x.xp.multiply(pixels, -2.0, out=change)
    change += 255.0
    change *= pixels >= threshold
    pixels += change
