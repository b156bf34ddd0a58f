"""Settings of the views of images, and of whatever else is cropped and coloured as images are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from foundation.errors import UserError
from foundation.modalities.image.evaluation import IMAGENET_MEAN, IMAGENET_STD
from foundation.ranges import Deviation, Number, Range, Rising, Share, Shares, Side, Views, ViewShares, check

Aspects: TypeAlias = Annotated[tuple[Annotated[float, Range(0.01, 100)], Annotated[float, Range(0.01, 100)]], Rising()]
"""Smallest and largest width / height."""

_Sigma: TypeAlias = Annotated[float, Range(0, 1000, above=True)]
Sigmas: TypeAlias = Annotated[tuple[_Sigma, _Sigma], Rising()]
"""Smallest and largest standard deviation of a blur, pixels."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Views of one role."""

    count: Views = 2
    """Views per image; 0 leaves the role out."""
    size: Side = 224
    """Side of the view, pixels."""
    scale: Shares = (0.4, 1.0)
    """Smallest and largest share of the image's area that a crop covers."""
    blur: ViewShares = (0.5,)
    """Probability of blur: one number for all views, or one per view."""
    solarise: ViewShares = (0.0,)
    """Probability of solarising: one number for all views, or one per view."""

    def __post_init__(self) -> None:
        check(self, "views")
        for name in ("blur", "solarise"):
            values = getattr(self, name)
            if len(values) not in (1, self.count) and self.count:
                raise UserError(f"views: {name} has {len(values)} numbers; give 1, or one per view ({self.count})")


@dataclass(frozen=True, kw_only=True)
class MultiCropConfig:
    """Multi-crop recipe. The defaults are DINO's (Caron et al. 2021)."""

    global_views: ViewConfig = field(default_factory=lambda: ViewConfig(blur=(1.0, 0.1), solarise=(0.0, 0.2)))
    """Large views; the teacher sees only these."""
    local_views: ViewConfig = field(default_factory=lambda: ViewConfig(count=8, size=96, scale=(0.05, 0.4)))
    """Small views, for the student."""
    aspect: Aspects = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a crop, log-uniform between."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter of the resize; always antialiased."""
    flip: Share = 0.5
    """Probability of a left-right flip."""
    jitter: Share = 0.8
    """Probability of the colour jitter (four operations in random order)."""
    brightness: Annotated[float, Range(0, 100)] = 0.4
    """Factor uniform in [1 - this, 1 + this]."""
    contrast: Annotated[float, Range(0, 100)] = 0.4
    """Factor uniform in [1 - this, 1 + this]."""
    saturation: Annotated[float, Range(0, 100)] = 0.2
    """Factor uniform in [1 - this, 1 + this]."""
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    """Shift uniform in [-this, this], in turns of the colour circle; at most 0.5."""
    greyscale: Share = 0.2
    """Probability of losing the colour."""
    blur_sigma: Sigmas = (0.1, 2.0)
    """Standard deviation of the Gaussian blur, pixels of the view, uniform between the two."""
    blur_radius: Annotated[int, Range(0, 4096)] = 0
    """Half width of the blur kernel, pixels; 0: three standard deviations (DINOv2 cut it at 4)."""
    solarise_threshold: Annotated[int, Range(0, 256)] = 128
    """Solarising inverts values from this level (0 to 255) on."""
    mean: tuple[Number, Number, Number] = IMAGENET_MEAN
    """Subtracted per channel, for values in [0, 1]."""
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    """Divided by, per channel."""
    placement: Literal["auto", "workers", "device"] = "auto"
    """Where crops are resampled; ``auto``: on an accelerator where there is one, else in the workers."""

    canvas_limit: Annotated[int, Range(64, 65536)] = 1024
    """Resampling on the device only: images with a longer side are first reduced to this many pixels, in the workers
    (a batch is padded to its largest image)."""

    def __post_init__(self) -> None:
        check(self, "views")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise UserError(f"views.interpolation is {self.interpolation!r}; choose bicubic or bilinear")
        if self.placement not in ("auto", "workers", "device"):
            raise UserError(f"views.placement is {self.placement!r}; choose auto, workers or device")
        if self.global_views.count < 1:
            raise UserError("views.global_views.count is 0; the teacher needs at least 1 global view (usual: 2)")
        reach = self.blur_radius or -int(-3.0 * self.blur_sigma[1] // 1)
        for name in ("global_views", "local_views"):
            crop: ViewConfig = getattr(self, name)
            if crop.count and any(crop.blur) and crop.size <= reach:
                raise UserError(
                    f"views.{name}.size is {crop.size}, but the blur reaches {reach} pixels beyond each edge: "
                    f"lower views.blur_sigma, set views.{name}.blur to [0], or use a size above {reach}"
                )
