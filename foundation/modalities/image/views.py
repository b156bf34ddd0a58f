"""Multi-crop views of images: what to draw, and the two halves of making them.

``prepare`` runs in a loader worker, ``finish`` runs where the pixels are needed. With placement ``workers`` the
geometric half (crop, resize, flip) happens in ``prepare``, per image in uint8; with placement ``device`` ``prepare``
only packs the decoded images and ``finish`` does everything as one tensor program. Both give the same views from the
same numbers, up to one level of 255 in the resize.

Every number is drawn from (seed, epoch, sample id, stream name): a view never depends on worker, rank or batch
neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.image import geometry, photometric
from foundation.modalities.image.decode import Config as DecodeConfig
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.modalities.image.plan import Parameters, Plan, make_plan, untouched
from foundation.modalities.image.prepared import Prepared, PreparedRole
from foundation.modalities.image.view_config import MultiCropConfig, ViewConfig
from foundation.modalities.ready import joined
from foundation.ranges import Range, Side
from foundation.types import Sample, View

PLAIN = "plain"
"""View of the same crops as ``global``, with their own colours."""


@dataclass(frozen=True, kw_only=True)
class Config(MultiCropConfig):
    """Multi-crop recipe of images."""

    degrees: Annotated[float, Range(0, 180)] = 0.0
    """Each view is turned by an angle uniform in [-this, this]; 180 for images that have no upside. A turned crop stays
    within the image: where it would not fit, it is moved or made smaller."""
    plain_size: Side | None = None
    """Also give the crops of the global views with sides of so many pixels and without any change of their colours, as
    the view ``plain``: what the Gram teacher of DINOv3 sees, 512 beside views of 256."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How files become pixels, in training and in probes."""

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``."""
        return ImageViews.modality

    @property
    def roles(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(3, size, size)``."""
        return self.build().describe()

    def build(self, device_is_accelerator: bool = False) -> ImageViews:
        """The view maker.

        Args:
            device_is_accelerator: whether training runs on a GPU; decides what ``placement: auto`` means.
        """
        return ImageViews(self, device_is_accelerator)

    def evaluation(self) -> EvaluationConfig:
        """What a probe feeds an encoder trained with these views: the global views' size and normalisation."""
        return EvaluationConfig(size=self.global_views.size, mean=self.mean, std=self.std, decode=self.decode)


def _plain(config: MultiCropConfig) -> tuple[tuple[str, ViewConfig], ...]:
    """Name and settings of the view that ``plain_size`` adds."""
    if not isinstance(config, Config) or config.plain_size is None:
        return ()
    return ((PLAIN, replace(config.global_views, size=config.plain_size, blur=(0.0,), solarise=(0.0,))),)


def _crops_of(role: str) -> str:
    """Role whose random numbers place the crops of a role."""
    return "global" if role == PLAIN else role


def for_probe(evaluation: EvaluationConfig) -> Config:
    """Training views of a linear probe at this size: random resized crop (8 to 100 % of the area) and flip."""
    return Config(
        global_views=ViewConfig(count=1, size=evaluation.size, scale=(0.08, 1.0), blur=(0.0,)),
        local_views=ViewConfig(count=0, blur=(0.0,)),
        jitter=0.0,
        greyscale=0.0,
        mean=evaluation.mean,
        std=evaluation.std,
        placement="workers",
        decode=evaluation.decode,
    )


def published(name: str) -> Config:
    """View recipes as published.

    ``dino`` (Caron et al. 2021), ``ibot`` (Zhou et al. 2022: ten locals, other scales), ``dinov2`` (Oquab et al. 2023
    as the paper reads) and ``dinov2-released`` (as the released models were trained: the code's blur probabilities
    were taken the other way round, so the first global view is never blurred, the second in 9 of 10 cases).
    """
    dino = Config()
    if name == "dino":
        return dino
    if name == "ibot":
        return replace(
            dino,
            global_views=replace(dino.global_views, scale=(0.25, 1.0)),
            local_views=replace(dino.local_views, count=10, scale=(0.05, 0.25)),
        )
    if name in ("dinov2", "dinov2-released"):
        blur = (1.0, 0.1) if name == "dinov2" else (0.0, 0.9)
        return replace(
            dino,
            global_views=replace(dino.global_views, scale=(0.32, 1.0), blur=blur),
            local_views=replace(dino.local_views, scale=(0.05, 0.32)),
            blur_radius=4,
        )
    raise UserError(f"no published view recipe {name!r}; there are dino, ibot, dinov2 and dinov2-released")


class ImageViews:
    """Makes the views of a batch of images; see the module's text.

    Attributes:
        roles: views by role: count and size.
        on_device: True where ``finish`` does the geometric half too; False where ``prepare`` has done it. Either way
            ``finish`` belongs on the accelerator where there is one, else in the worker.
    """

    modality = "image"

    def __init__(self, config: MultiCropConfig, device_is_accelerator: bool = False) -> None:
        self.config = config
        self.roles: Mapping[str, ViewConfig] = MappingProxyType(
            {
                name: crop
                for name, crop in (("global", config.global_views), ("local", config.local_views), *_plain(config))
                if crop.count
            }
        )
        self._degrees = config.degrees if isinstance(config, Config) else 0.0
        self._accelerator = device_is_accelerator
        self.on_device = config.placement == "device" or (config.placement == "auto" and device_is_accelerator)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageViews, (self.config, self._accelerator)

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(3, size, size)``."""
        return {name: (crop.count, (3, crop.size, crop.size)) for name, crop in self.roles.items()}

    def prepare(self, samples: Sequence[Sample], draws: Draws) -> Prepared:
        """Draws all parameters and does the worker's half.

        Args:
            samples: B samples with ``image`` uint8 [3, H, W].
            draws: random numbers of these samples, in the same order.

        Returns:
            What :meth:`finish` needs; tensors only, ready to be sent to another process or device.

        Raises:
            ValueError: samples and draws do not have the same length.
        """

        if len(samples) != len(draws.ids):
            raise ValueError(f"{len(samples)} samples, but random numbers for {len(draws.ids)}")
        images = [sample["image"] for sample in samples]
        heights = np.array([image.shape[1] for image in images], np.int64)
        widths = np.array([image.shape[2] for image in images], np.int64)
        roles, canvas = {}, None
        if self.on_device:
            images, factors = geometry.reduce(images, self.config.canvas_limit)
            sizes = np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2)
            canvas = geometry.pack(images)
        for name, crop in self.roles.items():
            boxes, flips = self._draw_geometry(name, crop, draws, heights, widths)
            maps, turns, side = geometry.affine(boxes, flips), None, crop.size
            if self._degrees:
                angles = np.deg2rad(self._draw_angles(name, crop, draws))
                every = np.tile(heights, crop.count), np.tile(widths, crop.count)
                boxes, turns = geometry.turn_boxes(boxes, flips, angles, *every)
                maps, side = geometry.inside(boxes, turns), geometry.turned_side(crop.size)
                flips = np.zeros_like(flips)  # they are in the turns
            pixels = None
            if not self.on_device:
                pixels = geometry.resize_crops(images, boxes, flips, side, self.config.interpolation)
                if turns is not None:
                    pixels, turns = geometry.turn(pixels, turns, crop.size, self.config.interpolation), None
            roles[name] = PreparedRole(
                pixels=pixels,
                boxes=geometry.scale_boxes(boxes, factors, sizes) if self.on_device else torch.from_numpy(boxes),
                flips=torch.from_numpy(flips),
                plan=self.plan(name, draws),
                sample_ids=torch.from_numpy(np.tile(draws.ids, crop.count)),
                geometry=maps,
                turns=turns,
            )
        return Prepared(roles, canvas)

    def join(self, parts: Sequence[Prepared], draws: Draws) -> Prepared:
        """What ``prepare`` gives for all samples, from what it gave for some at a time; ``draws`` are of them all."""

        roles = {}
        for name, crop in self.roles.items():
            some = [part.roles[name] for part in parts]
            pixels = [role.pixels for role in some if role.pixels is not None]
            turns = [role.turns for role in some if role.turns is not None]
            roles[name] = PreparedRole(
                pixels=joined(pixels, crop.count) if pixels else None,
                boxes=joined([role.boxes for role in some], crop.count),
                flips=joined([role.flips for role in some], crop.count),
                plan=self.plan(name, draws),
                sample_ids=joined([role.sample_ids for role in some], crop.count),
                geometry=joined([role.geometry for role in some], crop.count),
                turns=joined(turns, crop.count) if turns else None,
            )
        canvases = [image for part in parts if part.canvas is not None for image in part.canvas]
        return Prepared(roles, geometry.pack(canvases) if canvases else None)

    def plan(self, role: str, draws: Draws) -> Plan:
        """What happens to the colours of a role's views, in their order."""

        crop, threshold = self.roles[role], float(self.config.solarise_threshold)
        parameters = self._draw_photometric(role, crop, draws)
        return make_plan(parameters, crop.size, self.config.blur_radius, threshold, batched=self._accelerator)

    def finish(self, prepared: Prepared) -> dict[str, View]:
        """Does the rest, on the device where ``prepared`` lies; never waits for it.

        Returns:
            Per role a View with data [R, 3, S, S] float32, rows view-major.
        """

        views = {}
        for name, role in prepared.roles.items():
            crop = self.roles[name]
            pixels = role.pixels
            if pixels is None:
                assert prepared.canvas is not None
                side = crop.size if role.turns is None else geometry.turned_side(crop.size)
                pixels = geometry.resample_crops(
                    prepared.canvas, role.boxes, role.flips, side, self.config.interpolation
                )
                if role.turns is not None:
                    pixels = geometry.turn(pixels, role.turns, crop.size, self.config.interpolation)
            data = photometric.run_plan(pixels, role.plan, self.config.mean, self.config.std)
            views[name] = View(data, self.modality, name, crop.count, role.sample_ids, role.geometry)
        return views

    def _draw_geometry(
        self, role: str, crop: ViewConfig, draws: Draws, heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:

        streams = [f"{self.modality}.{_crops_of(role)}.{view}" for view in range(crop.count)]
        uniforms = draws.uniforms([f"{stream}.crop" for stream in streams], geometry.CROP_DRAWS)
        every = np.tile(heights, crop.count), np.tile(widths, crop.count)
        boxes = geometry.crop_boxes(uniforms, *every, crop.scale, self.config.aspect)
        return boxes, draws.uniforms([f"{stream}.flip" for stream in streams], 1)[:, 0] < self.config.flip

    def _draw_angles(self, role: str, crop: ViewConfig, draws: Draws) -> NDArray[np.float64]:
        """[R] degrees, by which each view is turned."""
        streams = [f"{self.modality}.{_crops_of(role)}.{view}.turn" for view in range(crop.count)]
        return self._degrees * (2.0 * draws.uniforms(streams, 1)[:, 0] - 1.0)

    def _draw_photometric(self, role: str, crop: ViewConfig, draws: Draws) -> Parameters:

        config, views = self.config, range(crop.count)
        if role == PLAIN:
            return untouched(crop.count * len(draws.ids))

        def uniform(name: str, count: int) -> NDArray[np.float64]:
            """[R, count] in [0, 1)."""
            return draws.uniforms([f"{self.modality}.{role}.{view}.{name}" for view in views], count)

        def shares(values: tuple[float, ...]) -> NDArray[np.float64]:
            """[R] the probability of each row."""
            return np.repeat([values[view % len(values)] for view in views], len(draws.ids))

        jitter, blur = uniform("jitter", 9), uniform("blur", 2)
        spread = np.array([config.brightness, config.contrast, config.saturation])
        low, high = np.maximum(0.0, 1.0 - spread), 1.0 + spread
        factors = np.empty((len(jitter), 4))
        factors[:, :3] = low + (high - low) * jitter[:, 1:4]
        factors[:, 3] = config.hue * (2.0 * jitter[:, 4] - 1.0)
        return Parameters(
            order=np.argsort(jitter[:, 5:], axis=1, kind="stable"),
            factors=factors,
            jitter=jitter[:, 0] < config.jitter,
            greyscale=uniform("greyscale", 1)[:, 0] < config.greyscale,
            blur=blur[:, 0] < shares(crop.blur),
            sigma=config.blur_sigma[0] + (config.blur_sigma[1] - config.blur_sigma[0]) * blur[:, 1],
            solarise=uniform("solarise", 1)[:, 0] < shares(crop.solarise),
        )
