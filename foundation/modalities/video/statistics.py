"""What a recipe wants to know of films: mean and deviation of each colour, sizes, rates and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foundation.data.moments import Facts, Moments, spread
from foundation.modalities.image.statistics import add_colours, colours
from foundation.types import Sample


class Statistics:
    """Collects; see :class:`foundation.data.moments.Collector`.

    Args:
        views: a recipe's, or None; what it says of decoding has been followed already.
    """

    def __init__(self, views: Any = None, decoding: Any = None) -> None:
        self.views = views
        self.colours = Moments()
        self.heights, self.widths, self.frames = list[float](), list[float](), list[float]()
        self.rates, self.seconds = list[float](), list[float]()

    def add(self, sample: Sample, raw: Mapping[str, Any]) -> None:
        """Take a decoded film and its members."""
        video = sample["video"].numpy()
        add_colours(self.colours, video.transpose(1, 0, 2, 3))
        self.frames.append(video.shape[0])
        self.heights.append(video.shape[2])
        self.widths.append(video.shape[3])
        self.rates.append(sample["video_rate"])
        self.seconds.append(sample["video_end"] - float(sample["video_times"][0]))

    def facts(self) -> Facts:
        """Mean and deviation for values in [0, 1]; of the span that is read: pixels, frames, frames per second,
        seconds."""
        named = {
            "width": self.widths,
            "height": self.heights,
            "frames read": self.frames,
            "frames per second": self.rates,
            "seconds read": self.seconds,
        }
        found = Facts(colours(self.colours), {name: spread(values) for name, values in named.items()})
        if self.views is not None:
            found.misfits += self._misfits(self.views.global_views)
        return found

    def _misfits(self, view: Any) -> list[str]:
        """Global clips that ask for more frames or seconds than the films have."""
        frames, seconds = float(np.median(self.frames)), float(np.median(self.seconds))
        if view.frames > frames:
            return [
                f"a global clip has {view.frames} frames and the films have {frames:g} (median): frames are repeated. "
                f"Set views.global_views.frames to {max(1, int(frames))} or less"
            ]
        if view.span is None and (asked := view.frames / max(view.rates)) > seconds * 1.01:
            return [
                f"a global clip covers {asked:.3g} s at least and the films are {seconds:.3g} s long (median): it "
                "covers all of a film, at another speed. Set views.global_views.rates higher or frames lower"
            ]
        return []
