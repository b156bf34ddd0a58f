"""How a probe hears a recording: its middle, no randomness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.errors import UserError
from foundation.modalities.audio.decode import Config as DecodeConfig
from foundation.modalities.audio.front_end import FrontEndConfig, log_mel
from foundation.modalities.audio.segments import Recording
from foundation.ranges import Side, check
from foundation.types import Sample


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a probe hears a recording: its middle, no randomness."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How files become waveforms."""
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    """From the waveform to the spectrogram."""
    frames: Side = 600
    """Frames of the spectrogram; longer recordings lose both ends, shorter ones are filled up."""
    short: Literal["silence", "repeat"] = "silence"
    """What fills a recording up that is too short: silence on both sides, or itself again."""

    def __post_init__(self) -> None:
        check(self, "evaluation")
        if self.short not in ("silence", "repeat"):
            raise UserError(f"evaluation: short is {self.short!r}; choose silence or repeat")

    def build(self) -> Evaluation:
        """The function from samples to spectrograms."""
        return Evaluation(self)


class Evaluation:
    """Preprocessing of the probes: resample, the middle, log-mel."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [B, 1, mels, frames] of B samples with ``audio`` float32 [T] and ``audio_rate`` in Hz."""
        return self.at(samples, 0.5)

    @property
    def sees_all(self) -> bool:
        """Whether one view covers every recording, whatever its length."""
        return False

    def length_of(self, sample: Sample) -> float:
        """How many views long the recording is."""
        front = self.config.front_end
        return Recording.of(sample, front.rate).length / front.samples(self.config.frames)

    def at(self, samples: Sequence[Sample], share: float) -> Tensor:
        """The same at another place: 0 begins with the recording, 1 ends with it. What is shorter is heard whole."""
        front, frames = self.config.front_end, self.config.frames
        length = front.samples(frames)
        waveforms = torch.empty((len(samples), length))
        for place, sample in zip(waveforms, samples, strict=True):
            recording = Recording.of(sample, front.rate)
            place.copy_(torch.from_numpy(recording.cut(*self._stretch(recording, share))))
        return log_mel(waveforms, front)[:, None, :, :frames]

    def _stretch(self, recording: Recording, share: float = 0.5) -> tuple[int, int, bool]:
        """First sample, samples, and whether the recording begins again behind its end."""
        length = self.config.front_end.samples(self.config.frames)
        wrap = self.config.short == "repeat" and recording.length < length
        slack = recording.length - length
        return 0 if wrap else math.floor(slack * (share if slack > 0 else 0.5)), length, wrap

    def timeline(self, sample: Sample, columns: int) -> NDArray[np.float64]:
        """When the parts of a view are heard, for probes that measure frame by frame.

        Args:
            sample: one of those that the view was made of.
            columns: equal parts into which the view's frames are cut; frames that fill no last part are left out.

        Returns:
            [columns, 2] begin and end in seconds of the file; those before its begin or behind its end are silence.
        """

        front = self.config.front_end
        start, _, _ = self._stretch(Recording.of(sample, front.rate))
        edges = np.arange(columns + 1) * (self.config.frames // columns) - 0.5  # a frame reaches half a hop both ways
        seconds = start / front.rate + front.centre(0) + edges * front.hop_samples / front.rate
        return np.stack([seconds[:-1], seconds[1:]], axis=1)

    def lasting(self, seconds: float) -> Evaluation:
        """The same with views of another length."""
        from dataclasses import replace

        front = self.config.front_end
        return replace(self.config, frames=max(1, round(seconds * front.rate / front.hop_samples))).build()
