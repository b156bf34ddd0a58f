"""How a probe sees a point cloud: one fixed selection of its points, no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.modalities.points import decode
from foundation.modalities.points.geometry import normalised, select_channels
from foundation.ranges import Range, Side, check
from foundation.types import Sample

Normalise: TypeAlias = Literal["sphere", "centre", "none"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a probe sees a point cloud: one fixed selection of its points, no randomness."""

    size: Side = 1024
    """Points of the cloud, spread evenly over the order in which they are stored; smaller clouds repeat theirs."""
    channels: Annotated[int, Range(3, 65536)] = 3
    """Numbers of a point: x, y, z and whatever follows."""
    normalise: Normalise = "sphere"
    """As in the training views."""
    up: Literal["x", "y", "z"] = "z"
    """The axis that points upwards: for pictures, and for the augmented views of a linear probe."""
    decode: decode.Config = field(default_factory=decode.Config)
    """How files become clouds."""

    def __post_init__(self) -> None:
        check(self, "evaluation")
        if self.decode.columns < self.channels:  # a file with fewer is a bad sample, not the end of the run
            object.__setattr__(self, "decode", replace(self.decode, columns=self.channels))
        if self.up not in ("x", "y", "z"):
            raise UserError(f"evaluation: up is {self.up!r}; choose x, y or z")
        if self.normalise not in ("sphere", "centre", "none"):
            raise UserError(f"evaluation: normalise is {self.normalise!r}; choose sphere, centre or none")

    def build(self) -> Evaluation:
        """The function from samples to points."""
        return Evaluation(self)


class Evaluation:
    """Preprocessing of the probes: normalise, take a fixed number of points."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [B, channels, size] of B samples with ``points`` float32 [N, 3 + F]."""

        size = self.config.size
        out = np.empty((len(samples), self.config.channels, size), np.float32)
        for place, sample in zip(out, samples, strict=True):
            cloud = select_channels(sample["points"].numpy(), self.config.channels, str(sample.get("__key__", "")))
            cloud = normalised(cloud, self.config.normalise)[0]
            count = len(cloud)
            rows = np.arange(size) * count // size if count >= size else np.arange(size) % count
            place[:] = cloud[rows].T
        return torch.from_numpy(out)
