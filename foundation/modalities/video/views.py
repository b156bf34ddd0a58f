"""Multi-crop views of videos: temporal crops at several speeds, and the image modality's crops, the same in all frames.

Each view is a clip: a span of the video, drawn for its place and its speed, of which evenly spaced frames are shown.
Crop box, flip, colours, blur and the rest are drawn once for a clip. Every number is drawn from (seed, epoch, sample
id, stream name): a view never depends on worker, rank or batch neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.image import geometry
from foundation.modalities.image.plan import Parameters
from foundation.modalities.image.prepared import Prepared, PreparedRole
from foundation.modalities.image.view_config import MultiCropConfig, ViewConfig
from foundation.modalities.image.views import ImageViews
from foundation.modalities.video import clips, decode
from foundation.modalities.video.clips import copies, frames_of
from foundation.modalities.video.evaluation import EvaluationConfig
from foundation.ranges import Length, Range, Seconds, Shares, Side, Views
from foundation.types import Sample, View, ViewShape

__all__ = ["ClipConfig", "Config", "EvaluationConfig", "VideoViews"]


@dataclass(frozen=True, kw_only=True)
class ClipConfig(ViewConfig):
    """Views of one role."""

    frames: Side = 16
    """Frames of a clip."""
    rates: Annotated[tuple[Annotated[float, Range(0, 1e5, above=True)], ...], Length(1, 64)] = (8.0,)
    """Speeds, in frames per second of the video's own time; each clip draws one. A clip covers frames / rate seconds,
    or the whole video where that is shorter."""
    span: Shares | None = None
    """In place of ``rates``: smallest and largest share of the video that a clip covers, uniform between."""

    def __post_init__(self) -> None:
        ViewConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class Config(MultiCropConfig):
    """Multi-crop recipe for videos. Colours, blur, flips and crops are the image modality's, drawn once for a clip."""

    global_views: ClipConfig = field(default_factory=lambda: ClipConfig(blur=(0.5, 0.1), solarise=(0.0, 0.2)))
    """Long, large views; the teacher sees only these."""
    local_views: ClipConfig = field(
        default_factory=lambda: ClipConfig(count=8, size=96, scale=(0.05, 0.4), frames=8, rates=(8.0, 16.0))
    )
    """Short, small views, for the student."""
    placement: Literal["auto", "workers"] = "auto"
    """Where crops are resampled: always in the workers (a batch of whole videos would be too much to send)."""
    masked_copies: Views = 0
    """Also give each global clip so many times as the role ``masked``, for masks of their own: masked clips in the
    place of local crops (DISCOVR: 4)."""
    frames_every: Side | None = None
    """Also give every n-th frame of the global clips as images, the role ``frame``; n frames of a tubelet let the
    patches of a frame lie on the tubelets."""
    masked_frames: Views = 0
    """Also give each of those images so many times as the role ``masked_frame``, each for a mask of its own."""
    evaluation_seconds: Seconds | None = None
    """Probes see one clip in the middle of the video, of so many seconds; None: spread over the whole video."""
    decode: decode.Config = field(default_factory=decode.Config)
    """Which frames of a file are read, in training and in probes."""

    def __post_init__(self) -> None:
        MultiCropConfig.__post_init__(self)
        if self.placement not in ("auto", "workers"):
            raise UserError(f"views.placement is {self.placement!r}; crops of videos are made in the workers")
        if self.frames_every is not None and not 1 <= self.frames_every <= self.global_views.frames:
            raise UserError(
                f"views.frames_every is {self.frames_every}; it must lie between 1 and the {self.global_views.frames} "
                "frames of a global clip"
            )
        if self.masked_frames and self.frames_every is None:
            raise UserError("views.masked_frames needs views.frames_every: set it to the frames of a tubelet")

    @property
    def modality(self) -> str:
        """Folder name in ``foundation/modalities``."""
        return VideoViews.modality

    @property
    def roles(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data, ``(3, frames, size, size)``."""
        return self.build().describe()

    def shapes(self) -> dict[str, ViewShape]:
        """Clips, with the seconds that they last where those are known, and frames of clips, which are images."""
        evaluation, clips = self.evaluation(), {"global": self.global_views, "local": self.local_views}
        shapes = {}
        for name, (count, shape) in self.roles.items():
            clip = clips.get(name, self.global_views)
            seconds = clip.frames / clip.rates[0] if clip.span is None and len(clip.rates) == 1 else None
            modality = self.modality if len(shape) == 4 else "image"
            shapes[name] = ViewShape(count, shape, modality, replace(evaluation, frames=clip.frames, seconds=seconds))
        return shapes

    def evaluation(self) -> EvaluationConfig:
        """What a probe feeds an encoder trained with these views."""
        view = self.global_views
        return EvaluationConfig(
            size=view.size,
            frames=view.frames,
            seconds=self.evaluation_seconds,
            decode=self.decode,
            mean=self.mean,
            std=self.std,
        )

    def build(self, device_is_accelerator: bool = False) -> VideoViews:
        """The view maker.

        Args:
            device_is_accelerator: whether training runs on a GPU, which then does the photometric half.
        """
        return VideoViews(self, device_is_accelerator)


def for_probe(evaluation: EvaluationConfig) -> Config:
    """Training views of a linear probe at this size: a random span of half to all of the video, crop and flip."""
    return Config(
        global_views=ClipConfig(
            count=1, size=evaluation.size, scale=(0.08, 1.0), blur=(0.0,), frames=evaluation.frames, span=(0.5, 1.0)
        ),
        local_views=ClipConfig(count=0, blur=(0.0,)),
        jitter=0.0,
        greyscale=0.0,
        decode=evaluation.decode,
        mean=evaluation.mean,
        std=evaluation.std,
    )


class VideoViews(ImageViews):
    """Makes the views of a batch of videos; see the module's text."""

    modality = "video"
    takes_spans = True
    config: Config
    roles: Mapping[str, ClipConfig]

    def __init__(self, config: Config, device_is_accelerator: bool = False) -> None:
        super().__init__(config, device_is_accelerator)
        self.on_device = False

    def __reduce__(self) -> tuple[Any, ...]:
        return VideoViews, (self.config, self._accelerator)

    def describe(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per role: views per sample, and the shape of one view's data: clips (3, frames, size, size) or images."""
        roles = {name: (clip.count, (3, clip.frames, clip.size, clip.size)) for name, clip in self.roles.items()}
        count, clip = roles["global"]
        described: dict[str, tuple[int, tuple[int, ...]]] = dict(roles)
        config = self.config
        if config.masked_copies:
            described["masked"] = (count * config.masked_copies, clip)
        if config.frames_every is not None:
            frames = count * len(range(0, clip[1], config.frames_every))
            described["frame"] = (frames, (3, *clip[2:]))
            if config.masked_frames:
                described["masked_frame"] = (frames * config.masked_frames, (3, *clip[2:]))
        return described

    def prepare(
        self, samples: Sequence[Sample], draws: Draws, spans: Mapping[str, NDArray[np.float64]] | None = None
    ) -> Prepared:
        """Draws all parameters, chooses the frames and cuts them.

        Args:
            samples: B samples with ``video`` uint8 [T, 3, H, W], ``video_times`` [T] and ``video_end`` in seconds.
            draws: random numbers of these samples, in the same order.
            spans: by role [R, 2] begin and seconds of each clip, where something else has chosen them (other sensors of
                the same sample).

        Returns:
            What :meth:`finish` needs; its pixels are uint8 [R * frames, 3, S, S], the frames of a clip together.

        Raises:
            ValueError: samples and draws do not have the same length.
        """

        if len(samples) != len(draws.ids):
            raise ValueError(f"{len(samples)} samples, but random numbers for {len(draws.ids)}")
        heights = np.array([sample["video"].shape[2] for sample in samples], np.int64)
        widths = np.array([sample["video"].shape[3] for sample in samples], np.int64)
        begins = np.array([sample["video_times"][0] for sample in samples], np.float64)
        ends = np.array([sample["video_end"] for sample in samples], np.float64)
        roles = {}
        for name, clip in self.roles.items():
            boxes, flips = self._draw_geometry(name, clip, draws, heights, widths)
            placed = self._draw_spans(name, clip, draws, begins, ends) if spans is None else spans[name]
            pixels = torch.empty((len(boxes), clip.frames, 3, clip.size, clip.size), dtype=torch.uint8)
            for row, (begin, seconds) in enumerate(placed.tolist()):
                frames = clips.sample_frames(samples[row % len(samples)], clips.span_times(begin, seconds, clip.frames))
                one = slice(row, row + 1)
                pixels[one] = geometry.resize_crops(
                    [frames], boxes[one], flips[one], clip.size, self.config.interpolation
                )
            roles[name] = PreparedRole(
                pixels=pixels.flatten(0, 1),
                boxes=torch.from_numpy(boxes),
                flips=torch.from_numpy(flips),
                plan=self.plan(name, draws),
                sample_ids=torch.from_numpy(np.tile(draws.ids, clip.count)),
                geometry=clips.affine(boxes, flips, placed),
            )
        return Prepared(roles, None)

    def finish(self, prepared: Prepared) -> dict[str, View]:
        """Does the photometric half, on the device where ``prepared`` lies; never waits for it.

        Returns:
            Per role a View with data [R, 3, T, S, S] float32 (memory [R, T, 3, S, S]), rows view-major, and geometry
            [R, 3, 4] from (x, y, time) in [0, 1]^3 to pixels of the decoded frames and seconds of the file; for roles
            of frames [R, 3, S, S] of modality ``image``, and [R, 2, 3].
        """
        from einops import rearrange

        views = {}
        for name, view in super().finish(prepared).items():
            clips = rearrange(view.data, "(r t) c h w -> r c t h w", t=self.roles[name].frames)
            views[name] = replace(view, data=clips)
        config, whole = self.config, views["global"]
        if config.masked_copies:
            views["masked"] = copies(whole, config.masked_copies, "masked")
        if config.frames_every is not None:
            views["frame"] = frames_of(whole, config.frames_every, "frame")
            if config.masked_frames:
                views["masked_frame"] = copies(views["frame"], config.masked_frames, "masked_frame")
        return views

    def _draw_photometric(self, role: str, crop: Any, draws: Draws) -> Parameters:
        return _of_frames(super()._draw_photometric(role, crop, draws), crop.frames)

    def _draw_spans(
        self,
        role: str,
        clip: ClipConfig,
        draws: Draws,
        begins: NDArray[np.float64],
        ends: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """[R, 2] begin and length of each clip, seconds."""

        placed = []
        for view in range(clip.count):
            uniforms = draws.uniform(f"{self.modality}.{role}.{view}.span", clips.SPAN_DRAWS)
            if clip.span is not None:
                wanted = (ends - begins) * (clip.span[0] + (clip.span[1] - clip.span[0]) * uniforms[:, 0])
            else:
                rates = np.array(clip.rates)
                wanted = clip.frames / rates[(uniforms[:, 0] * len(rates)).astype(np.int64)]
            placed.append(clips.spans(uniforms[:, 1], begins, ends, wanted))
        return np.concatenate(placed)


def _of_frames(parameters: Parameters, frames: int) -> Parameters:
    """Parameters of clips as those of their frames: every frame of a clip is treated alike."""

    return type(parameters)(**{name: np.repeat(values, frames, axis=0) for name, values in vars(parameters).items()})
