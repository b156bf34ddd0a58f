"""Signs of artefacts that a limit on the norm of a token misses, for want of distance or for too wide a spread.

Two are looked for: a second hump in the histogram of all norms, and places of the grid whose norms are high whatever a
sample shows. Neither proves artefacts: cells without content can have norms of their own. Both are worth a look.

Letters: S samples, N patch tokens of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 40
_SMOOTH = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9.0
_NOISE = float((_SMOOTH**2).sum())
"""Variance of a smoothed count over that of the count."""
LEAST_SHARE, LEAST_TOKENS = 0.005, 50
"""Of the tokens, for a hump of their own."""
VALLEY = 0.5
"""Height of the valley over that of the lower hump, at most."""
SIGMAS = 4.0
"""Standard errors of counts by which the hump rises above the valley, at least."""
FAR = 1.5
"""A place is high where its median is so many times that of the median place, at least."""


@dataclass(frozen=True)
class Hump:
    """A second hump of the histogram.

    Attributes:
        above: norm at the valley.
        share: of all tokens, above it.
    """

    above: float
    share: float


def second_hump(norms: Tensor) -> Hump | None:
    """A hump above the median that a valley of at most half its height parts from the first one.

    A histogram of 40 bins, smoothed by a triangle of five; the deepest valley counts. A hump is at least half a per
    cent of all tokens and stands out by four standard errors of the counts.

    Args:
        norms: of any shape; NaN and infinity do not count.
    """
    known = norms[torch.isfinite(norms)].double().numpy()
    if len(known) < LEAST_TOKENS or not np.ptp(known) > 0:
        return None
    counts, edges = np.histogram(known, bins=BINS)
    height = np.convolve(np.pad(counts.astype(float), 2), _SMOOTH, "valid")
    middles, median = (edges[:-1] + edges[1:]) / 2, float(np.median(known))
    found: list[tuple[float, float, float]] = []
    for valley in range(1, BINS - 1):
        above = float((known > middles[valley]).mean())
        if middles[valley] <= median or above < max(LEAST_SHARE, LEAST_TOKENS / len(known)):
            continue
        first, second = height[:valley].max(), height[valley + 1 :].max()
        clear = second - height[valley] >= SIGMAS * np.sqrt((second + height[valley]) * _NOISE)
        ratio = height[valley] / min(first, second)
        if clear and ratio <= VALLEY:
            found.append((ratio, float(middles[valley]), above))
    return Hump(*min(found)[1:]) if found else None


def high_places(norms: Tensor, deviations: float) -> list[int]:
    """Places of the grid whose norms are high in most samples.

    Args:
        norms: [S, N]; a place with NaN in it is not looked at.
        deviations: a place is high where its median over the samples lies above the median of all places' by so many
            robust deviations of theirs, and is at least 1.5 times as large.

    Returns:
        Their numbers in [0, N), ascending.
    """
    medians = norms.double().median(dim=0).values
    known = medians[torch.isfinite(medians)]
    if not len(known):
        return []
    middle = known.median()
    spread = 1.4826 * (known - middle).abs().median()
    high = (medians > middle + deviations * spread) & (medians >= FAR * middle)
    return [int(place) for place in high.nonzero().flatten()]
