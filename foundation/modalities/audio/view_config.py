"""Settings of the views of sound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from foundation.errors import UserError
from foundation.modalities.audio.decode import Config as DecodeConfig
from foundation.modalities.audio.front_end import FrontEndConfig
from foundation.ranges import Decibels, Factors, Range, Share, ShareBelowOne, Side, Views, ViewShares, check


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
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
class AudioViewsConfig:
    """Stretches and augmentations."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How files become waveforms."""
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    """From the waveform to the spectrogram."""
    global_views: ViewConfig = field(default_factory=ViewConfig)
    """Long views; the teacher hears only these."""
    local_views: ViewConfig = field(default_factory=lambda: ViewConfig(count=0, frames=200))
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
