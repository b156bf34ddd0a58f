"""How a probe sees a video: one clip, its frames spread evenly over a span, one centre crop, no randomness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.modalities.image.evaluation import CropConfig, Evaluation
from foundation.modalities.video import decode
from foundation.modalities.video.clips import sample_frames, span_times
from foundation.ranges import Seconds, Side
from foundation.types import Sample


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(CropConfig):
    """How a probe sees a video: one clip, one centre crop, no randomness."""

    frames: Side = 16
    """Frames of the clip."""
    seconds: Seconds | None = None
    """Span in the middle of the video that they are spread over; None: the whole video."""
    decode: decode.Config = field(default_factory=decode.Config)
    """How files become frames."""

    def __post_init__(self) -> None:
        CropConfig.__post_init__(self)

    def build(self) -> VideoEvaluation:
        """The function from samples to pixels."""
        return VideoEvaluation(self)


class VideoEvaluation(Evaluation):
    """Preprocessing of the probes."""

    config: EvaluationConfig

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [B, 3, T, size, size] of B samples as the decoder gives them."""
        return self.at(samples, 0.5)

    @property
    def sees_all(self) -> bool:
        """Whether one view covers every video, whatever its length."""
        return self.config.seconds is None

    def length_of(self, sample: Sample) -> float:
        """How many views long the video is."""
        seconds = float(sample["video_end"]) - float(sample["video_times"][0])
        return 1.0 if self.config.seconds is None else seconds / self.config.seconds

    def at(self, samples: Sequence[Sample], share: float) -> Tensor:
        """The same at another place: 0 begins with the video, 1 ends with it."""
        frames, size = self.config.frames, self.config.size
        pixels = torch.empty((len(samples), frames, 3, size, size), dtype=torch.uint8)
        for place, sample in zip(pixels, samples, strict=True):
            place.copy_(self.crop(sample_frames(sample, self.times(sample, share))))
        return self.normalise(pixels).transpose(1, 2)

    def times(self, sample: Sample, share: float = 0.5) -> NDArray[np.float64]:
        """[T] moments of the video that the frames of its clip show, seconds; ``share`` as in :meth:`at`."""
        begin, end = float(sample["video_times"][0]), float(sample["video_end"])
        seconds = min(end - begin, self.config.seconds or math.inf)
        return span_times(begin + (end - begin - seconds) * share, seconds, self.config.frames)
