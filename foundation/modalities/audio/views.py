"""Views of sound: stretches of a recording, as augmented log-mel spectrograms.

``prepare`` runs in a loader worker: it cuts each view's stretch out of the recording and resamples it (the geometric
half). ``finish`` runs on the device: gain and noise, the log-mel front end, mixup, random resized crop and SpecAugment,
each batched over all rows.

Every number is drawn from (seed, epoch, sample id, stream name). Mixup alone looks at batch neighbours: the sound in
the background is another sample of the same micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.audio import augment
from foundation.modalities.audio.draw import PreparedRole, draw_role, mixed_with
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.modalities.audio.front_end import log_mel
from foundation.modalities.audio.front_end import published as published_front_end
from foundation.modalities.audio.view_config import AudioViewsConfig, ResizeConfig, ViewConfig
from foundation.modalities.ready import Prepared, joined
from foundation.types import Sample, View


@dataclass(frozen=True, kw_only=True)
class Config(AudioViewsConfig):
    """Stretches and augmentations. :func:`published` has the recipes of ASiT and ATST."""

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``."""
        return AudioViews.modality

    @property
    def roles(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(1, mels, frames)``."""
        return self.build().describe()

    def evaluation(self) -> EvaluationConfig:
        """What a probe feeds an encoder trained with these views: the same front end, the global views' length."""
        return EvaluationConfig(
            decode=self.decode, front_end=self.front_end, frames=self.global_views.frames, short=self.short
        )

    def build(self, device_is_accelerator: bool = False) -> AudioViews:
        """The view maker.

        Args:
            device_is_accelerator: whether training runs on a GPU; changes nothing here.
        """
        return AudioViews(self)


def for_probe(evaluation: EvaluationConfig) -> Config:
    """Training views of a linear probe: a random stretch, resized by up to a fifth."""
    return Config(
        decode=evaluation.decode,
        front_end=evaluation.front_end,
        global_views=ViewConfig(count=1, frames=evaluation.frames),
        local_views=ViewConfig(count=0),
        short=evaluation.short,
        resize=ResizeConfig(canvas=(1.0, 1.0), frequency=(0.8, 1.0), time=(0.8, 1.0)),
    )


def published(name: str) -> Config:
    """Views as published: ``asit`` (Atito et al. 2024), ``atst-clip`` or ``atst-frame`` (Li et al. 2023).

    Raises:
        UserError: another name.
    """
    nothing = ViewConfig(count=0, frames=200)
    if name == "asit":
        crop = ViewConfig(frames=592)
        return Config(front_end=published_front_end("asit"), global_views=crop, local_views=nothing, roll=0.5)
    if name == "atst-clip":
        return Config(local_views=nothing, mixup=0.4, resize=ResizeConfig())
    if name == "atst-frame":
        return Config(
            global_views=ViewConfig(frames=1000, augment=(1.0, 0.0)),
            local_views=nothing,
            same_segment=True,
            mixup=0.4,
            resize=ResizeConfig(canvas=(1.0, 1.0), time=(1.0, 1.0)),
        )
    raise UserError(f"no published view recipe {name!r}; there are asit, atst-clip and atst-frame")


class AudioViews:
    """Makes the views of a batch of recordings; see the module's text.

    Attributes:
        roles: views by role: count and frames.
    """

    modality = "audio"
    takes_spans = True

    def __init__(self, config: Config) -> None:
        self.config = config
        pairs = (("global", config.global_views), ("local", config.local_views))
        self.roles: Mapping[str, ViewConfig] = MappingProxyType({name: crop for name, crop in pairs if crop.count})

    def __reduce__(self) -> tuple[Any, ...]:
        return AudioViews, (self.config,)

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(1, mels, frames)``."""
        mels = self.config.front_end.mels
        return {name: (crop.count, (1, mels, crop.frames)) for name, crop in self.roles.items()}

    def prepare(
        self, samples: Sequence[Sample], draws: Draws, spans: Mapping[str, NDArray[np.float64]] | None = None
    ) -> Prepared:
        """Draws all parameters and cuts the stretches.

        Args:
            samples: B samples with ``audio`` float32 [T] and ``audio_rate``, Hz.
            draws: random numbers of these samples, in the same order.
            spans: by role [R, 2] begin and seconds of each view, where something else has chosen them (other sensors of
                the same sample). A view begins there and lasts as long as its frames do.

        Returns:
            What :meth:`finish` needs; tensors only, ready to be sent to another process or device.

        Raises:
            ValueError: samples and draws do not have the same length.
        """
        if len(samples) != len(draws.ids):
            raise ValueError(f"{len(samples)} samples, but random numbers for {len(draws.ids)}")
        given = spans or {}
        return Prepared(
            {
                name: draw_role(self.config, name, crop, samples, draws, given.get(name))
                for name, crop in self.roles.items()
            }
        )

    def join(self, parts: Sequence[Prepared], draws: Draws) -> Prepared:
        """What ``prepare`` gives for all samples, from what it gave for some at a time; ``draws`` are of them all."""

        roles = {}
        for name, crop in self.roles.items():
            some = [part.roles[name] for part in parts]
            values = {f.name: joined([getattr(role, f.name) for role in some], crop.count) for f in fields(some[0])}
            mixed = [mixed_with(self.config, name, crop, view, draws) for view in range(crop.count)]
            for field_name, rows in zip(("partners", "shares"), zip(*mixed, strict=True), strict=True):
                values[field_name] = torch.from_numpy(np.concatenate(rows))
            roles[name] = PreparedRole(**values)
        return Prepared(roles)

    def finish(self, prepared: Prepared) -> dict[str, View]:
        """Does the rest, on the device where ``prepared`` lies; never waits for it.

        Returns:
            Per role a View with data [R, 1, mels, frames] float32, rows view-major. Its geometry leads from (time,
            frequency) in [0, 1]^2 to seconds in the file (after a roll, up to the recording's end) and mel bands.
        """

        return {
            name: View(
                self._spectrograms(role, self.roles[name].frames)[:, None],
                self.modality,
                name,
                self.roles[name].count,
                role.sample_ids,
                role.geometry,
            )
            for name, role in prepared.roles.items()
        }

    def _spectrograms(self, role: PreparedRole, frames: int) -> Tensor:
        """[R, mels, frames]."""

        config, waveforms = self.config, role.waveforms
        if any(config.gain):
            waveforms = waveforms * role.gains[:, None]
        if config.noise:
            waveforms = augment.add_noise(waveforms, role.noise_keys, role.noise)
        spectrograms = log_mel(waveforms, config.front_end)[:, :, :frames]
        if config.equalise:  # a decibel is ln(10) / 10 natural logarithm units of power
            spectrograms = spectrograms + role.response[:, :, None] * (config.front_end.unit * math.log(10.0) / 10.0)
        if config.mixup:
            unit = config.front_end.unit if config.mixup_domain == "power" else 1.0
            spectrograms = augment.mix_logarithms(spectrograms, role.partners, role.shares, unit)
        if config.resize is not None:
            spectrograms = augment.resize_crop(spectrograms, role.boxes, role.canvas)
        for axis, stretches in ((1, config.spec_augment.bands), (2, config.spec_augment.times)):
            if stretches:
                starts, widths = role.hidden[:, axis - 1, :stretches].unbind(-1)
                spectrograms = augment.fill_bands(spectrograms, starts, widths, axis)
        return spectrograms
