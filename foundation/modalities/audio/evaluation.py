"""How a probe hears a recording: its middle, no randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from foundation.errors import UserError
from foundation.modalities.audio.front_end import FrontEndConfig

if TYPE_CHECKING:
    from torch import Tensor

    from foundation.modalities.audio.views import Config
    from foundation.types import Sample


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a probe hears a recording: its middle, no randomness."""

    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    """From the waveform to the spectrogram."""
    frames: int = 600
    """Frames of the spectrogram; longer recordings lose both ends, shorter ones are filled up."""
    short: Literal["silence", "repeat"] = "silence"
    """What fills a recording up that is too short: silence on both sides, or itself again."""

    def __post_init__(self) -> None:
        if isinstance(self.front_end, Mapping):  # from the card of an exported model
            object.__setattr__(self, "front_end", FrontEndConfig(**self.front_end))
        if self.frames < 1:
            raise UserError(f"evaluation: frames is {self.frames}; it must be at least 1")
        if self.short not in ("silence", "repeat"):
            raise UserError(f"evaluation: short is {self.short!r}; choose silence or repeat")

    def build(self) -> Evaluation:
        """The function from samples to spectrograms."""
        return Evaluation(self)

    def augmented(self) -> Config:
        """Training views of a linear probe: a random stretch, resized by up to a fifth."""
        from foundation.modalities.audio.views import Config, CropConfig, ResizeConfig

        return Config(
            front_end=self.front_end,
            global_views=CropConfig(count=1, frames=self.frames),
            local_views=CropConfig(count=0),
            short=self.short,
            resize=ResizeConfig(canvas=(1.0, 1.0), frequency=(0.8, 1.0), time=(0.8, 1.0)),
        )


class Evaluation:
    """Preprocessing of the probes: resample, the middle, log-mel."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [B, 1, mels, frames] of B samples with ``audio`` float32 [T] and ``audio_rate`` in Hz."""
        import torch

        from foundation.modalities.audio.front_end import log_mel
        from foundation.modalities.audio.segments import Recording

        front, frames = self.config.front_end, self.config.frames
        length = front.samples(frames)
        waveforms = torch.empty((len(samples), length))
        for place, sample in zip(waveforms, samples, strict=True):
            recording = Recording.of(sample, front.rate)
            wrap = self.config.short == "repeat" and recording.length < length
            start = 0 if wrap else (recording.length - length) // 2
            place.copy_(torch.from_numpy(recording.cut(start, length, wrap)))
        return log_mel(waveforms, front)[:, None, :, :frames]
