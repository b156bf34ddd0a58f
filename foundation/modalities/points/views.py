"""Multi-crop views of point clouds: global and local crops, turned, stretched, shifted, jittered and thinned.

Everything is made per cloud in the loader's workers (``prepare``): a view is a fixed number of points, so little that
there is nothing to gain from an accelerator. ``finish`` only names the views. Every number is drawn from (seed, epoch,
sample id, stream name): a view never depends on worker, rank or batch neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.counter import Draws, normal
from foundation.errors import UserError
from foundation.modalities.points import decode, geometry
from foundation.modalities.points.evaluation import EvaluationConfig, Normalise
from foundation.modalities.points.geometry import Cloud
from foundation.modalities.ready import Prepared, PreparedRole, ReadyViews
from foundation.modalities.rotations import rotation
from foundation.ranges import (
    Count,
    Factors,
    NonNegative,
    PositiveShare,
    Range,
    Share,
    ShareBelowOne,
    Shares,
    Side,
    Views,
    check,
)
from foundation.types import Sample

__all__ = ["Config", "EvaluationConfig", "PointViews", "ViewConfig", "published"]

_PLACES = 20
"""Uniform numbers for the geometry of one view."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Views of one role."""

    count: Views = 2
    """Views per cloud; 0 leaves the role out."""
    size: Side = 1024
    """Points of the view."""
    keep: Shares = (0.5, 0.9)
    """Smallest and largest share of the cloud's points that a crop holds, uniform between."""
    crop: Literal["sphere", "cuboid"] = "sphere"
    """``sphere``: the points nearest to a random one. ``cuboid``: those in a box around it of random proportions."""

    def __post_init__(self) -> None:
        check(self, "views")
        if self.crop not in ("sphere", "cuboid"):
            raise UserError(f"views: crop is {self.crop!r}; choose sphere or cuboid")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Multi-crop recipe. The defaults are POS-BERT's (Fu et al. 2022); :func:`published` has others."""

    global_views: ViewConfig = field(default_factory=ViewConfig)
    """Large views; the teacher sees only these."""
    local_views: ViewConfig = field(default_factory=lambda: ViewConfig(count=8, keep=(0.2, 0.5)))
    """Small views, for the student."""
    channels: Annotated[int, Range(3, 65536)] = 3
    """Numbers of a point that are used: x, y, z and whatever follows."""
    normals: bool = False
    """The three numbers after x, y, z are a surface normal, which turns with the cloud."""
    normalise: Normalise = "sphere"
    """``sphere``: mean at the origin, largest radius 1; ``centre``: mean at the origin, the file's unit (metres) kept;
    ``none``: as stored. All lengths below are in that unit."""
    point_limit: Count = 65_536
    """Clouds with more points are first thinned at random to so many, the same ones for all views of a sample."""
    aspect: PositiveShare = 0.5
    """Cuboid crops: shortest side over longest, at least."""
    rotation: Literal["none", "axis", "any"] = "none"
    """``axis``: about ``up``; ``any``: all rotations alike."""
    up: Literal["x", "y", "z"] = "z"
    """The axis that points upwards."""
    degrees: Annotated[float, Range(0, 360)] = 180.0
    """Rotation about the axis: angle uniform in [-degrees, degrees]."""
    tilt: Annotated[float, Range(0, 360)] = 0.0
    """Further turns about the two other axes, uniform in [-tilt, tilt] degrees each (Sonata: a few)."""
    flip: Share = 0.0
    """Probability of a mirror image, for each of the two axes that do not point upwards."""
    scale: Factors = (2 / 3, 3 / 2)
    """Smallest and largest factor on lengths, uniform between."""
    anisotropic: bool = True
    """Draw a factor for each axis; else one for all three."""
    shift: NonNegative = 0.2
    """Largest shift along each axis."""
    jitter: NonNegative = 0.01
    """Standard deviation of the noise on each coordinate of each point."""
    jitter_clip: NonNegative = 0.05
    """The noise is cut at this length."""
    dropout: ShareBelowOne = 0.0
    """Largest share of a crop's points that is left out, uniform from 0."""
    fill: Literal["interpolate", "repeat"] = "interpolate"
    """Where a crop has fewer points than a view: new points among nearest neighbours, or the same ones again."""
    decode: decode.Config = field(default_factory=decode.Config)
    """How files become clouds, in training and in probes."""

    def __post_init__(self) -> None:
        check(self, "views")
        if self.normals and self.channels < 6:
            raise UserError(f"views.channels is {self.channels}; x, y, z and a normal are 6")
        if self.decode.columns < self.channels:  # a file with fewer is a bad sample, not the end of the run
            object.__setattr__(self, "decode", replace(self.decode, columns=self.channels))
        if self.global_views.count < 1:
            raise UserError("views.global_views.count is 0; the teacher needs at least 1 global view (usual: 2)")
        largest = max(self.global_views.size, self.local_views.size)
        if self.point_limit < largest:
            raise UserError(f"views.point_limit is {self.point_limit}; a view alone has {largest} points")
        for name, known in (
            ("normalise", ("sphere", "centre", "none")),
            ("rotation", ("none", "axis", "any")),
            ("up", ("x", "y", "z")),
            ("fill", ("interpolate", "repeat")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"views.{name} is {getattr(self, name)!r}; choose {', '.join(known)}")

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``."""
        return PointViews.modality

    @property
    def roles(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(channels, size)``."""
        return self.build().describe()

    def evaluation(self) -> EvaluationConfig:
        """What a probe feeds an encoder trained with these views."""
        return EvaluationConfig(
            size=self.global_views.size,
            channels=self.channels,
            normalise=self.normalise,
            up=self.up,
            decode=self.decode,
        )

    def build(self, device_is_accelerator: bool = False) -> PointViews:
        """The view maker.

        Args:
            device_is_accelerator: makes no difference here.
        """
        return PointViews(self)


def for_probe(evaluation: EvaluationConfig) -> Config:
    """Training views of a linear probe: most of the cloud, turned about its upright axis, scaled and jittered."""
    return Config(
        global_views=ViewConfig(count=1, size=evaluation.size, keep=(0.8, 1.0)),
        local_views=ViewConfig(count=0),
        channels=evaluation.channels,
        normalise=evaluation.normalise,
        rotation="axis",
        up=evaluation.up,
        decode=evaluation.decode,
    )


def published(name: str) -> Config:
    """View recipes as published.

    ``pos-bert`` (Fu et al. 2022; two global and eight local spherical crops) and ``point-mae`` (Pang et al. 2022: the
    whole cloud once, scaled and shifted).
    """
    if name == "pos-bert":
        return Config()
    if name == "point-mae":
        whole = ViewConfig(count=1, keep=(1.0, 1.0))
        return Config(global_views=whole, local_views=ViewConfig(count=0), jitter=0.0)
    raise UserError(f"no published view recipe {name!r}; there are pos-bert and point-mae")


class PointViews(ReadyViews):
    """Makes the views of a batch of clouds; see the module's text.

    Their geometry [R, 3, 4] leads from the coordinates of the view to those of the file (up to the jitter).
    """

    modality = "points"

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.channels)
        self.config = config

    def __reduce__(self) -> tuple[Any, ...]:
        return PointViews, (self.config,)

    def inputs(self, prepared: Prepared, role: str) -> Tensor:
        """Data of a role, [R, channels, P], for masks that depend on where its tokens lie."""
        return prepared.roles[role].data

    def prepare(self, samples: Sequence[Sample], draws: Draws) -> Prepared:
        """Makes the views.

        Args:
            samples: B samples with ``points`` float32 [N, 3 + F].
            draws: random numbers of these samples, in the same order.

        Returns:
            Tensors only, ready to be sent to another process or device.

        Raises:
            ValueError: samples and draws do not have the same length.
            UserError: a cloud has fewer numbers per point than ``channels``.
        """

        if len(samples) != len(draws.ids):
            raise ValueError(f"{len(samples)} samples, but random numbers for {len(draws.ids)}")
        rows = {
            name: np.empty((crop.count, len(samples), self.config.channels, crop.size), np.float32)
            for name, crop in self.roles.items()
        }
        maps = {name: np.empty((crop.count, len(samples), 3, 4), np.float32) for name, crop in self.roles.items()}
        for index, sample in enumerate(samples):
            own = draws.take(np.array([index]))
            cloud = geometry.select_channels(
                sample["points"].numpy(), self.config.channels, str(sample.get("__key__", ""))
            )
            cloud = geometry.thinned(cloud, self.config.point_limit, _stream(own, f"{self.modality}.thin"))
            cloud, back = geometry.normalised(cloud, self.config.normalise)
            for name, crop in self.roles.items():
                for view in range(crop.count):
                    numbers = _stream(own, f"{self.modality}.{name}.{view}")
                    points, affine = self._view(cloud, crop, numbers)
                    rows[name][view, index] = points.T
                    maps[name][view, index] = geometry.through(affine, back)
        return Prepared(
            {
                name: PreparedRole(
                    data=torch.from_numpy(rows[name].reshape(-1, *rows[name].shape[2:])),
                    sample_ids=torch.from_numpy(np.tile(draws.ids, crop.count)),
                    geometry=torch.from_numpy(maps[name].reshape(-1, 3, 4)),
                )
                for name, crop in self.roles.items()
            }
        )

    def _view(
        self, cloud: Cloud, crop: ViewConfig, numbers: Callable[[str, int], NDArray[np.float64]]
    ) -> tuple[Cloud, NDArray[np.float64]]:
        """Points [P, channels] of one view, and the map [3, 4] by which their coordinates came about."""

        config = self.config
        uniforms = numbers("geometry", _PLACES)
        share = crop.keep[0] + (crop.keep[1] - crop.keep[0]) * uniforms[0]
        inside = geometry.crop(cloud, crop.crop, share, uniforms[1:5], config.aspect)
        kept = max(1, round(len(inside) * (1.0 - config.dropout * uniforms[5])))
        points = geometry.resize(cloud[inside], crop.size, kept, config.fill, numbers)
        axis = "xyz".index(config.up)
        matrix = rotation(config.rotation, axis, config.degrees, uniforms[6:9])
        for step, number in ((1, uniforms[9]), (2, uniforms[10])):
            other = np.array([number, 0.0, 0.0])
            matrix = rotation("axis", (axis + step) % 3, config.tilt, other) @ matrix
            if config.flip and uniforms[10 + step] < config.flip:
                matrix[(axis + step) % 3] *= -1.0
        factors = config.scale[0] + (config.scale[1] - config.scale[0]) * uniforms[13:16]
        matrix = (factors if config.anisotropic else factors[:1])[:, None] * matrix
        offset = config.shift * (2.0 * uniforms[16:19] - 1.0)
        points = points.copy()
        points[:, :3] = points[:, :3].astype(np.float64) @ matrix.T + offset
        if config.normals:
            points[:, 3:6] = geometry.turned_normals(points[:, 3:6], matrix)
        if config.jitter:
            noise = config.jitter * normal(numbers("jitter", 3 * crop.size + crop.size % 2))
            points[:, :3] += noise[: 3 * crop.size].reshape(-1, 3).clip(-config.jitter_clip, config.jitter_clip)
        return points, np.concatenate([matrix, offset[:, None]], axis=1)


def _stream(own: Draws, prefix: str) -> Callable[[str, int], NDArray[np.float64]]:
    """Uniform numbers of one sample by the name of what they are for."""
    return lambda name, count: own.uniform(f"{prefix}.{name}", count)[0]
