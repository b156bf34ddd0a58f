"""Views of inertial recordings: stretches of time, turned, warped, scaled, with noise and silent channels.

Everything is made in the loader's workers (``prepare``): a view is a few hundred numbers. ``finish`` only names the
views. Every number is drawn from (seed, epoch, sample id, stream name): a view never depends on worker, rank or batch
neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foundation import ranges
from foundation.counter import Draws, normal
from foundation.errors import UserError
from foundation.modalities.imu import windows
from foundation.modalities.imu.decode import Config as DecodeConfig
from foundation.modalities.imu.evaluation import MEAN, STD, EvaluationConfig, check_normalisation
from foundation.modalities.imu.windows import extent, triads
from foundation.modalities.ready import Prepared, PreparedRole, ReadyViews
from foundation.ranges import (
    Deviation,
    Factors,
    Length,
    NonNegative,
    Number,
    Range,
    Rate,
    Share,
    ShareBelowOne,
    Shares,
    Side,
    Views,
)
from foundation.types import Sample

__all__ = ["Config", "EvaluationConfig", "ImuViews", "ViewConfig"]


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Views of one role."""

    count: Views = 2
    """Views per recording; 0 leaves the role out."""
    size: Side = 128
    """Time steps of the view."""
    span: Shares | None = None
    """Smallest and largest share of the recording that a view covers, uniform between, whatever its seconds. None: a
    view covers ``size / rate`` seconds, times ``stretch``."""

    def __post_init__(self) -> None:
        ranges.check(self, "views")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Stretches and augmentations of inertial recordings."""

    rate: Rate = 50.0
    """Time steps per second of the views, Hz; recordings of any other rate are resampled, free of aliases."""
    global_views: ViewConfig = field(default_factory=ViewConfig)
    """Long views; the teacher sees only these."""
    local_views: ViewConfig = field(default_factory=lambda: ViewConfig(size=64))
    """Short views, for the student."""
    short: Literal["mirror", "stretch"] = "mirror"
    """What fills a view that is longer than the recording: its mirror image at both ends, or slower time."""
    stretch: Factors = (1.0, 1.0)
    """Smallest and largest length of a view over ``size / rate`` seconds, log-uniform: slower or faster motion."""
    warp: ShareBelowOne = 0.0
    """Largest deviation of the speed within a view from its mean (0.2: between 0.8 and 1.2 times as fast), uniform from
    0; the speed swings once to three times."""
    rotation: Literal["none", "axis", "any"] = "none"
    """Turns all sensors of a view together. ``axis``: about ``axis``; ``any``: about a random one."""
    axis: Literal["x", "y", "z"] = "z"
    """Axis of the sensor's own frame that ``rotation: axis`` turns about."""
    degrees: Annotated[float, Range(0, 180)] = 180.0
    """Largest angle, degrees; ``any`` with 180 draws all rotations alike."""
    scale: Factors = (0.9, 1.1)
    """Smallest and largest factor on the readings, uniform, one draw for each sensor."""
    jitter: NonNegative = 0.02
    """Largest standard deviation of white noise after normalisation, uniform from 0, one draw for each view."""
    drop_channel: Share = 0.0
    """Probability that a channel is silent (its mean), each channel by itself."""
    drop_sensor: Share = 0.0
    """Probability that one whole sensor, accelerometer or gyroscope, is silent; never all of them."""
    mean: Annotated[tuple[Number, ...], Length(1, 1024)] = MEAN
    """Taken off each channel (m/s^2, rad/s)."""
    std: Annotated[tuple[Deviation, ...], Length(1, 1024)] = STD
    """Each channel is divided by."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How recordings are read: columns, units, rate, gravity."""

    def __post_init__(self) -> None:

        ranges.check(self, "views")
        check_normalisation("views", self.decode.channels, self.mean, self.std, self.short)
        if self.global_views.count < 1:
            raise UserError("views.global_views.count is 0; the teacher needs at least 1 global view (usual: 2)")
        if self.rotation not in ("none", "axis", "any") or self.axis not in ("x", "y", "z"):
            raise UserError(
                f"views.rotation is {self.rotation!r} about {self.axis!r}: choose none, axis or any; x, y or z"
            )
        if self.rotation != "none":
            try:
                triads(self.decode.channels)
            except ValueError as error:
                raise UserError(
                    f"views.rotation needs all three axes of a sensor, decode.channels has {error}"
                ) from None

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``."""
        return ImuViews.modality

    @property
    def roles(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(channels, size)``."""
        return self.build().describe()

    def evaluation(self) -> EvaluationConfig:
        """What a probe feeds an encoder trained with these views."""
        view = self.global_views
        return EvaluationConfig(
            size=view.size,
            rate=self.rate,
            whole=view.span is not None,
            short=self.short,
            mean=self.mean,
            std=self.std,
            decode=self.decode,
        )

    def build(self, device_is_accelerator: bool = False) -> ImuViews:
        """The view maker.

        Args:
            device_is_accelerator: makes no difference here.
        """
        return ImuViews(self)


def for_probe(evaluation: EvaluationConfig) -> Config:
    """Training views of a linear probe: a random stretch, a little turned, scaled and noisy."""
    return Config(
        rate=evaluation.rate,
        global_views=ViewConfig(count=1, size=evaluation.size, span=(0.8, 1.0) if evaluation.whole else None),
        local_views=ViewConfig(count=0),
        short=evaluation.short,
        rotation="any",
        degrees=15.0,
        mean=evaluation.mean,
        std=evaluation.std,
        decode=evaluation.decode,
    )


class ImuViews(ReadyViews):
    """Makes the views of a batch of recordings; see the module's text.

    Their geometry [R, 1, 2] leads from time in [0, 1] to seconds on the sample's clock (up to the warp, which is right
    at both ends).

    Attributes:
        takes_spans: ``prepare`` can be told which stretches to show.
    """

    modality = "imu"
    takes_spans = True

    def __init__(self, config: Config) -> None:
        super().__init__(config, len(config.mean))
        self.config = config

    def __reduce__(self) -> tuple[Any, ...]:
        return ImuViews, (self.config,)

    def prepare(
        self, samples: Sequence[Sample], draws: Draws, spans: Mapping[str, NDArray[np.float64]] | None = None
    ) -> Prepared:
        """Makes the views.

        Args:
            samples: B samples with ``imu`` float32 [T, C] in m/s^2 and rad/s, ``imu_rate`` Hz and ``imu_start`` s.
            draws: random numbers of these samples, in the same order.
            spans: by role [R, 2] begin and seconds of each view on the sample's clock, where something else has chosen
                them (other sensors of the same sample).

        Returns:
            Tensors only, ready to be sent to another process or device.

        Raises:
            ValueError: samples and draws do not have the same length.
        """

        if len(samples) != len(draws.ids):
            raise ValueError(f"{len(samples)} samples, but random numbers for {len(draws.ids)}")
        roles = {}
        for name, crop in self.roles.items():
            placed = self._spans(name, crop, samples, draws) if spans is None else spans[name]
            views = [
                self._views(f"{self.modality}.{name}.{view}", crop, samples, draws, part)
                for view, part in enumerate(placed.reshape(crop.count, len(samples), 2))
            ]
            roles[name] = PreparedRole(
                data=torch.from_numpy(np.concatenate(views)),
                sample_ids=torch.from_numpy(np.tile(draws.ids, crop.count)),
                geometry=torch.from_numpy(placed[:, None, ::-1].astype(np.float32)),
            )
        return Prepared(roles)

    def _spans(self, role: str, crop: ViewConfig, samples: Sequence[Sample], draws: Draws) -> NDArray[np.float64]:
        """[R, 2] begin and length of each view, seconds."""

        begins, ends = np.array([extent(sample) for sample in samples]).T
        placed = []
        for view in range(crop.count):
            uniforms = draws.uniform(f"{self.modality}.{role}.{view}.span", 2)
            low, high = self.config.stretch if crop.span is None else crop.span
            if crop.span is None:
                seconds = crop.size / self.config.rate * low * (high / low) ** uniforms[:, 0]
                if self.config.short == "stretch":
                    seconds = np.minimum(seconds, ends - begins)
            else:
                seconds = (ends - begins) * (low + (high - low) * uniforms[:, 0])
            placed.append(np.stack([begins + uniforms[:, 1] * (ends - begins - seconds), seconds], axis=1))
        return np.concatenate(placed)

    def _views(
        self, stream: str, crop: ViewConfig, samples: Sequence[Sample], draws: Draws, placed: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """[B, C, size] of one view of each sample."""

        config, channels = self.config, self.config.decode.channels
        sensors = windows.sensors(channels)
        shape = draws.uniform(f"{stream}.shape", 6 + len(sensors))
        silent = draws.uniform(f"{stream}.silent", 2 + len(channels))
        out = np.empty((len(samples), crop.size, len(channels)), np.float32)
        for row, (sample, (begin, seconds)) in enumerate(zip(samples, placed.tolist(), strict=True)):
            path = windows.warped(shape[row, :2], config.warp * shape[row, 2], crop.size) if config.warp else None
            values = windows.window(sample, begin, seconds, crop.size, path, config.short == "stretch")
            if config.rotation != "none":
                matrix = windows.turn(config.rotation, "xyz".index(config.axis), config.degrees, shape[row, 3:6])
                values = values.copy()
                for triad in windows.triads(channels):
                    values[:, triad] = values[:, triad] @ matrix.T.astype(np.float32)
            out[row] = values
        low, high = config.scale
        for number, sensor in enumerate(sensors):
            out[:, :, sensor] *= (low + (high - low) * shape[:, 6 + number])[:, None, None].astype(np.float32)
        out -= np.array(config.mean, np.float32)
        out /= np.array(config.std, np.float32)
        if config.jitter:
            count = crop.size * len(channels)
            noise = draws.uniform(f"{stream}.noise", 1 + count + count % 2)
            bell = np.stack([normal(row[1:]) for row in noise])[:, :count].reshape(out.shape)
            out += (config.jitter * noise[:, :1, None] * bell).astype(np.float32)
        quiet = silent[:, 2:] < config.drop_channel
        if len(sensors) > 1 and config.drop_sensor:
            chosen = (silent[:, 1] * len(sensors)).astype(np.int64)
            for number, sensor in enumerate(sensors):
                quiet[np.ix_((silent[:, 0] < config.drop_sensor) & (chosen == number), sensor)] = True
        out *= ~quiet[:, None, :]
        return np.ascontiguousarray(out.transpose(0, 2, 1))
