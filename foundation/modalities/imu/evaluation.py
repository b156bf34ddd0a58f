"""How a probe sees a recording: its middle, or all of it; no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from foundation import ranges
from foundation.errors import UserError
from foundation.modalities.imu.decode import Config as DecodeConfig
from foundation.modalities.imu.windows import extent, window
from foundation.ranges import Deviation, Length, Number, Rate, Side
from foundation.types import Sample

MEAN = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Of three accelerations and three angular velocities: their directions have no preferred sign."""
STD = (9.80665, 9.80665, 9.80665, 1.5, 1.5, 1.5)
"""Scales of three accelerations (1 g) and three angular velocities (a walking body's, rad/s)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a probe sees a recording: its middle, or all of it; no randomness."""

    size: Side = 128
    """Time steps of the window."""
    rate: Rate = 50.0
    """Steps per second, Hz."""
    whole: bool = False
    """The window covers the whole recording, whatever its length; else ``size / rate`` seconds in its middle."""
    short: Literal["mirror", "stretch"] = "mirror"
    """What fills a window that is longer than the recording: its mirror image at both ends, or slower time."""
    mean: Annotated[tuple[Number, ...], Length(1, 1024)] = MEAN
    """Taken off each channel (m/s^2, rad/s)."""
    std: Annotated[tuple[Deviation, ...], Length(1, 1024)] = STD
    """Each channel is divided by."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How recordings are read; see its own fields."""

    def __post_init__(self) -> None:
        ranges.check(self, "evaluation")
        check_normalisation("evaluation", self.decode.channels, self.mean, self.std, self.short)

    def build(self) -> Evaluation:
        """The function from samples to windows."""
        return Evaluation(self)


def check_normalisation(
    where: str, channels: Sequence[str], mean: Sequence[float], std: Sequence[float], short: str
) -> None:
    """What training and evaluation have in common.

    Args:
        where: prefix of messages.
        channels: of ``decode``.
        mean: taken off each.
        std: each is divided by.
        short: what fills a window that is longer than the recording.

    Raises:
        UserError: a value that cannot work.
    """
    if short not in ("mirror", "stretch"):
        raise UserError(f"{where}: short is {short!r}; choose mirror or stretch")
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != len(channels):
            raise UserError(
                f"{where}: {name} has {len(numbers)} numbers for the {len(channels)} channels of decode.channels"
            )
    if not all(scale > 0 for scale in std):
        raise UserError(f"{where}: std is {list(std)}; all must be above 0")


class Evaluation:
    """Preprocessing of the probes: cut, resample, normalise."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [B, C, size] of B samples with ``imu`` [T, C] and ``imu_rate``."""
        return self.at(samples, 0.5)

    @property
    def sees_all(self) -> bool:
        """Whether one view covers every recording, whatever its length."""
        return self.config.whole

    def length_of(self, sample: Sample) -> float:
        """How many views long the recording is."""
        begin, end = extent(sample)
        return (end - begin) * self.config.rate / self.config.size

    def at(self, samples: Sequence[Sample], share: float) -> Tensor:
        """The same at another place: 0 begins with the recording, 1 ends with it. What is shorter is seen whole."""
        config = self.config
        out = np.empty((len(samples), config.size, len(config.mean)), np.float32)
        for place, sample in zip(out, samples, strict=True):
            begin, end = extent(sample)
            seconds = end - begin if config.whole else config.size / config.rate
            slack = end - begin - seconds
            first = begin + slack * (share if slack > 0 else 0.5)
            place[:] = window(sample, first, seconds, config.size, stretched=config.short == "stretch")
        out -= np.array(config.mean, np.float32)
        out /= np.array(config.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(out.transpose(0, 2, 1)))
