"""Video label propagation: objects of the first frame are followed by similarity of patches (DAVIS: J and F)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.data.stream import iterate_samples
from foundation.errors import SampleError, UserError
from foundation.modalities import label_drawing
from foundation.modalities.drawing import resize
from foundation.modalities.parts import decoder
from foundation.modalities.video.clips import sample_frames
from foundation.modalities.video.evaluation import VideoEvaluation
from foundation.modalities.video.picture import film_strip
from foundation.modalities.video.selection import frames_at
from foundation.printable import printable
from foundation.probes.dense import token_features
from foundation.probes.dense_prediction import propagation, segmentation
from foundation.probes.dense_prediction.reading import CropsMaps, Numbers, colours_and_places, grid_of
from foundation.probes.dense_prediction.refusals import of_members, of_tokens
from foundation.probes.dense_prediction.segmentation import mean_interval
from foundation.probes.results import progress
from foundation.probes.road import open_limited
from foundation.ranges import Count, Positive, Range, Side, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.base import Picture as Shown
from foundation.tasks.beside import outdone
from foundation.types import Sample
from foundation.voice import plural

MEMBERS = ("masks.npy",)
"""Where objects are looked for: whole numbers [T, H, W], a map for every frame of the video, 0 the background."""
_MODALITIES = ("image", "video")
_SHOT = 80  # pixels of a frame that is drawn


@dataclass(frozen=True, kw_only=True)
class Config:
    """Masks of the first frame carried through a video by like patches, without training."""

    member: str | None = None
    """The masks of a sample; None: ``masks.npy``."""
    context: Count = 7
    """Frames before the present one that are looked at, beside the first."""
    radius: Side = 12
    """Patches up, down and aside within which is looked."""
    top: Count = 5
    """Most similar patches whose labels count."""
    temperature: Positive = 0.1
    """Of the weights exp(cosine / temperature)."""
    frames: Annotated[int, Range(2, 10_000)] = 100
    """Frames of a video that a model of pictures looks at, at most, from the first on."""
    pictures: Annotated[int, Range(0, 100)] = 2
    """Videos that are drawn with what was found."""

    def __post_init__(self) -> None:
        check(self, "propagation")

    def build(self) -> Propagation:
        """The task."""
        return Propagation(self)


@dataclass(frozen=True)
class _Clip:
    """``tokens`` [T, N, D] by kind, ``masks`` [T, S, S], ``frames`` [T, 3, S, S] as the encoder saw them."""

    tokens: dict[str, Tensor]
    masks: NDArray[Any]
    frames: Tensor
    grid: tuple[int, int]


class Propagation:
    """See :class:`Config`. The samples are those of the test split, or of the training split where there is no other:
    nothing is learned. A model of pictures sees each frame by itself; a model of clips sees the clip, and a token
    stands for the middle frame of those that it covers."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        if subject.loaded.modality not in _MODALITIES or not isinstance(subject.evaluation.build(), CropsMaps):
            return f"frames of a video are compared, and the model looks at {subject.loaded.modality}"
        return of_tokens(subject) or of_members(
            subject, self.config.member, MEMBERS, "masks of the frames are", [_split(subject)]
        )

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"propagation: {reason}")
        config, settings = self.config, subject.settings
        bad: list[SampleError] = []
        table: dict[str, list[tuple[float, float]]] = {}
        keys: list[str] = []
        shown: list[Shown] = []
        for sample in self._samples(subject, bad):
            clip = self._clip(subject, sample, bad)
            objects = [] if clip is None else [int(value) for value in np.unique(clip.masks[0]) if value]
            if clip is None or not objects:
                continue
            keys += [f"{sample['__key__']}/{value}" for value in objects]
            for kind, tokens in clip.tokens.items():
                found = self._followed(tokens, clip, objects)
                table.setdefault(kind, []).extend(_judged(found, clip.masks, objects))
                if kind == "model" and len(shown) < config.pictures:
                    shown.append(_drawn(sample["__key__"], clip, found, objects, subject.evaluation))
            still = np.repeat(clip.masks[:1], len(clip.masks), axis=0)
            table.setdefault("first mask throughout", []).extend(_judged(still, clip.masks, objects))
        if not keys:
            first = f": {printable(bad[0])}" if bad else ""
            raise UserError(f"propagation: no video shows an object in its first frame{first}")
        left_out = [f"{plural(len(bad), 'sample')} left out, the first: {printable(bad[0])}"] if bad else []
        scores = _scores(table, keys, settings.seed)
        return Outcome(
            scores=scores,
            protocol=(
                "The masks of the first frame are carried on: each patch takes the labels of the "
                f"{config.top} most similar patches, within {config.radius} patches of its place, of the first frame "
                f"and the last {config.context}, weighted by exp(cosine / {config.temperature:g}) (Caron et al. 2021); "
                "enlarged bilinearly. J is the IoU of the masks, F the agreement of their outlines (Perazzi et al. "
                "2016): means over the frames behind the first, then over the objects. Nothing is learned."
            ),
            warnings=(*outdone(scores), *left_out),
            pictures=tuple(shown),
            settings={
                "context": config.context,
                "radius": config.radius,
                "top": config.top,
                "temperature": config.temperature,
                "frames": config.frames,
            },
        )

    def _samples(self, subject: Subject, bad: list[SampleError]) -> Iterator[Sample]:
        """Videos with their masks."""
        inner = decoder("video", subject.evaluation if subject.loaded.modality == "video" else None)
        member = Numbers(member=self.config.member or MEMBERS[0], axes=3, whole=True, max_mib=1024)
        shards = open_limited(subject.shards(_split(subject)), subject.settings.limit)

        def decode(raw: Any) -> Sample:
            sample: Sample = inner(raw)
            sample["__extras__"] = {"masks": member.decode(raw)}
            return sample

        yield from progress(iterate_samples(shards, decode, bad), shards.num_samples, "propagation", "video")

    def _clip(self, subject: Subject, sample: Sample, bad: list[SampleError]) -> _Clip | None:
        """What the encoder makes of a video; None where its masks do not fit."""
        masks, video = sample["__extras__"]["masks"], sample["video"]
        if len(masks) != len(video):
            detail = f"masks of {len(masks)} frames beside a video of {len(video)}"
            bad.append(SampleError(str(sample["__shard__"]), str(sample["__key__"]), "conflict", detail))
            return None
        evaluate, settings = subject.evaluation.build(), subject.settings
        encoder = subject.loaded.encoder
        with torch.inference_mode():
            if isinstance(evaluate, VideoEvaluation):
                times = evaluate.times(sample)
                view = evaluate([sample]).to(settings.device)
                sides = grid_of(encoder, tuple(view.shape[2:]))
                covers = len(times) // sides[0]
                chosen = np.arange(sides[0]) * covers + covers // 2
                tokens = token_features(encoder, view)[0].float().unflatten(0, (sides[0], -1))
                frames, places = view[0].transpose(0, 1)[chosen], frames_at(sample["video_times"], times[chosen])
                grid = (sides[1], sides[2])
            else:
                places = np.arange(min(len(video), self.config.frames))
                shots = sample_frames(sample, np.asarray(sample["video_times"])[places])
                frames = evaluate.normalise(evaluate.crop(shots)).to(settings.device)
                rows, columns = grid_of(encoder, tuple(frames.shape[2:]))
                parts = frames.split(min(settings.batch_size, 32))
                tokens = torch.cat([token_features(encoder, part).float() for part in parts])
                grid = (rows, columns)
        own = evaluate.crop_map(masks[places], *video.shape[-2:])
        raw = colours_and_places(frames, grid)["raw"][..., : 2 * frames.shape[1]]
        return _Clip({"model": tokens, "raw": raw}, own, frames, grid)

    def _followed(self, tokens: Tensor, clip: _Clip, objects: Sequence[int]) -> NDArray[np.int64]:
        """[T, S, S] the object of each pixel, 0 the background."""
        config, size = self.config, (clip.masks.shape[1], clip.masks.shape[2])
        first = segmentation.numbered(clip.masks[0], {0: 0} | {v: n + 1 for n, v in enumerate(objects)}, -1)
        labels = segmentation.shares(first.to(tokens.device), clip.grid, len(objects) + 1)
        carried = propagation.propagate(
            tokens,
            labels,
            clip.grid,
            context=config.context,
            radius=config.radius,
            top=config.top,
            temperature=config.temperature,
        )
        maps = torch.stack([propagation.masks_of(frame, clip.grid, size) for frame in carried]).cpu().numpy()
        return np.array([0, *objects])[maps]


def _split(subject: Subject) -> Split:
    return "test" if subject.test else "train"


def _judged(found: NDArray[Any], truth: NDArray[Any], objects: Sequence[int]) -> list[tuple[float, float]]:
    """J and F of each object, means over the frames behind the first."""
    return [
        (
            float(np.mean([propagation.region(*pair) for pair in zip(found[1:] == v, truth[1:] == v, strict=True)])),
            float(np.mean([propagation.contour(*pair) for pair in zip(found[1:] == v, truth[1:] == v, strict=True)])),
        )
        for v in objects
    ]


def _scores(table: dict[str, list[tuple[float, float]]], keys: Sequence[str], seed: int) -> tuple[Score, ...]:
    found = []
    for kind, rows in table.items():
        region, contour = np.array(rows).T
        for metric, each in (("J&F", (region + contour) / 2), ("J", region), ("F", contour)):
            found.append(
                Score(
                    metric=metric,
                    value=float(each.mean()),
                    interval=mean_interval(each, seed),
                    n=len(each),
                    features=kind,
                    each=torch.from_numpy(each).float(),
                    keys=tuple(keys),
                )
            )
    return tuple(found)


def _drawn(key: str, clip: _Clip, found: NDArray[Any], objects: Sequence[int], evaluation: Any) -> Shown:
    table = label_drawing.palette(len(objects) + 1)
    chosen = np.linspace(0, len(found) - 1, min(6, len(found))).astype(int)
    strips = []
    for maps in (clip.masks, found):
        shots = []
        for at in chosen:
            picture = label_drawing.seen(clip.frames[at], evaluation).astype(np.float64)
            for number, value in enumerate(objects, start=1):
                inside = maps[at] == value
                picture[inside] = 0.3 * picture[inside] + 0.7 * table[number]
            shots.append(resize(picture.round().astype(np.uint8), _SHOT, _SHOT, smooth=False))
        strips.append(film_strip(shots, len(shots)))
    return Shown(
        title=f"{key}: true masks (above) and those carried on from the first frame (below)",
        content=label_drawing.png(np.concatenate(strips)),
        alternative=f"Frames of {key} with the true masks of its objects above and the masks that were found below.",
    )
