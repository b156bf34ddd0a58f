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
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from foundation.errors import UserError
from foundation.modalities.audio.decode import Config as DecodeConfig
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.modalities.audio.front_end import FrontEndConfig
from foundation.modalities.audio.front_end import published as published_front_end
from foundation.modalities.ready import Prepared
from foundation.ranges import Decibels, Factors, Range, Share, ShareBelowOne, Side, Views, ViewShares, check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from foundation.counter import Draws
    from foundation.types import Sample, View


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Views of one role."""

    count: Views = 2
    """Views per recording; 0 leaves the role out."""
    frames: Side = 600
    """Width of the view in frames (one every ``front_end.hop`` seconds)."""
    augment: ViewShares = (1.0,)
    """Probability that a view is augmented at all (gain, equaliser, noise, mixup, resize, SpecAugment): one number for
    all views, or one per view. ATST-Frame augments one of its two views: ``[1, 0]``."""

    def __post_init__(self) -> None:
        check(self, "views")
        if len(self.augment) not in (1, self.count) and self.count:
            raise UserError(f"views: augment has {len(self.augment)} numbers; give 1, or one per view ({self.count})")


@dataclass(frozen=True, kw_only=True)
class ResizeConfig:
    """Random resized crop of the spectrogram. The defaults are ATST's and BYOL-A's."""

    canvas: tuple[Annotated[float, Range(1, 16)], Annotated[float, Range(1, 16)]] = (1.0, 1.5)
    """Height and width of an empty canvas over those of the spectrogram, which lies in its middle."""
    frequency: Factors = (0.6, 1.5)
    """Smallest and largest height of the crop over the spectrogram's; cut at the canvas."""
    time: Factors = (0.6, 1.5)
    """Smallest and largest width of the crop over the spectrogram's; cut at the canvas."""

    def __post_init__(self) -> None:
        check(self, "views.resize")


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Hidden stretches of bands and frames (Park et al. 2019)."""

    bands: Annotated[int, Range(0, 1000)] = 0
    """Number of stretches of mel bands."""
    band_width: Share = 0.2
    """Largest width of one, as a share of all bands; uniform from 0."""
    times: Annotated[int, Range(0, 1000)] = 0
    """Number of stretches of frames."""
    time_width: Share = 0.1
    """Largest width of one, as a share of the view's frames; uniform from 0."""

    def __post_init__(self) -> None:
        check(self, "views.spec_augment")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Stretches and augmentations. :func:`published` has the recipes of ASiT and ATST."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How files become waveforms."""
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    """From the waveform to the spectrogram."""
    global_views: CropConfig = field(default_factory=CropConfig)
    """Long views; the teacher hears only these."""
    local_views: CropConfig = field(default_factory=lambda: CropConfig(count=0, frames=200))
    """Short views, for the student."""
    same_segment: bool = False
    """All global views of a recording are the same stretch (ATST-Frame: frames of both stay in step)."""
    short: Literal["silence", "repeat"] = "silence"
    """What fills a recording up that is shorter than a view: silence around it, or itself again."""
    roll: Share = 0.0
    """Probability that a stretch begins anywhere and goes on at the recording's begin (ASiT: 0.5)."""
    gain: Decibels = (0.0, 0.0)
    """Smallest and largest gain in decibels, uniform between."""
    equalise: Annotated[float, Range(0, 60)] = 0.0
    """Largest boost or cut, in decibels, of a random frequency response: drawn at four frequencies, straight between
    (FilterAugment, Nam et al. 2022: 6). Rooms, microphones and speakers differ by it."""
    noise: Share = 0.0
    """Probability of white noise."""
    noise_ratio: Decibels = (10.0, 40.0)
    """Signal-to-noise ratio in decibels, uniform between the two."""
    mixup: ShareBelowOne = 0.0
    """Largest share of another sample's sound in the background, uniform from 0 (ATST: 0.4)."""
    mixup_domain: Literal["normalised", "power"] = "normalised"
    """``normalised`` takes the normalised spectrogram for a natural logarithm, as the released BYOL-A and ATST do;
    ``power`` adds powers."""
    resize: ResizeConfig | None = None
    """Random resized crop; None: none."""
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    """Hidden stretches."""

    def __post_init__(self) -> None:
        check(self, "views")
        for name, choices in (("short", ("silence", "repeat")), ("mixup_domain", ("normalised", "power"))):
            if getattr(self, name) not in choices:
                raise UserError(f"views.{name} is {getattr(self, name)!r}; choose {' or '.join(choices)}")
        if self.global_views.count < 1:
            raise UserError("views.global_views.count is 0; the teacher needs at least 1 global view (usual: 2)")

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
        global_views=CropConfig(count=1, frames=evaluation.frames),
        local_views=CropConfig(count=0),
        short=evaluation.short,
        resize=ResizeConfig(canvas=(1.0, 1.0), frequency=(0.8, 1.0), time=(0.8, 1.0)),
    )


def published(name: str) -> Config:
    """Views as published: ``asit`` (Atito et al. 2024), ``atst-clip`` or ``atst-frame`` (Li et al. 2023).

    Raises:
        UserError: another name.
    """
    nothing = CropConfig(count=0, frames=200)
    if name == "asit":
        crop = CropConfig(frames=592)
        return Config(front_end=published_front_end("asit"), global_views=crop, local_views=nothing, roll=0.5)
    if name == "atst-clip":
        return Config(local_views=nothing, mixup=0.4, resize=ResizeConfig())
    if name == "atst-frame":
        return Config(
            global_views=CropConfig(frames=1000, augment=(1.0, 0.0)),
            local_views=nothing,
            same_segment=True,
            mixup=0.4,
            resize=ResizeConfig(canvas=(1.0, 1.0), time=(1.0, 1.0)),
        )
    raise UserError(f"no published view recipe {name!r}; there are asit, atst-clip and atst-frame")


@dataclass(frozen=True)
class PreparedRole:
    """One role of a batch between the two halves; R rows.

    Attributes:
        waveforms: float32 [R, T] at the front end's rate.
        gains: float32 [R] factors.
        response: float32 [R, mels] gain of each band in decibels.
        noise: float32 [R] root mean square of the noise over the recording's; 0 for none.
        noise_keys: int64 [R].
        partners: int64 [R] rows that are mixed in.
        shares: float32 [R] share of the partner; 0 for none.
        boxes: int64 [R, 4] top, left, height, width of the resized crop on its canvas.
        canvas: int64 [R, 2] first band and frame of the spectrogram on the canvas.
        hidden: int64 [R, 2, stretches, 2] start and width of hidden stretches, of bands and of frames.
        sample_ids: int64 [R].
        geometry: float32 [R, 2, 3].
    """

    waveforms: Tensor
    gains: Tensor
    response: Tensor
    noise: Tensor
    noise_keys: Tensor
    partners: Tensor
    shares: Tensor
    boxes: Tensor
    canvas: Tensor
    hidden: Tensor
    sample_ids: Tensor
    geometry: Tensor


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
        self.roles: Mapping[str, CropConfig] = MappingProxyType({name: crop for name, crop in pairs if crop.count})

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
        from foundation.modalities.audio.draw import draw_role

        given = spans or {}
        return Prepared(
            {
                name: draw_role(self.config, name, crop, samples, draws, given.get(name))
                for name, crop in self.roles.items()
            }
        )

    def join(self, parts: Sequence[Prepared], draws: Draws) -> Prepared:
        """What ``prepare`` gives for all samples, from what it gave for some at a time; ``draws`` are of them all."""
        import numpy as np
        import torch

        from foundation.modalities.audio.draw import mixed_with
        from foundation.modalities.ready import joined

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
        from foundation.types import View

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
        from foundation.modalities.audio import augment
        from foundation.modalities.audio.front_end import log_mel

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
