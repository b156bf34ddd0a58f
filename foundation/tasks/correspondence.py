"""Correspondence: is the most similar patch of another view that which shows the same place?

The second view is a piece of the first, made larger, mirrored or not, by the cropping of the training views, whose
geometry is known exactly. So no labels are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation import counter
from foundation.errors import UserError
from foundation.modalities import label_drawing
from foundation.modalities.image.evaluation import Evaluation
from foundation.modalities.image.geometry import affine, resize_crops
from foundation.probes.dense import token_features
from foundation.probes.dense_prediction import correspondence
from foundation.probes.dense_prediction.reading import Reading, colours_and_places
from foundation.probes.dense_prediction.refusals import of_planes
from foundation.probes.dense_prediction.segmentation import mean_interval
from foundation.ranges import Count, PositiveShare, Range, Shares, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.base import Picture as Shown
from foundation.tasks.beside import outdone

_DRAWS = 4
_DRAWN = 12  # matches in a picture


@dataclass(frozen=True, kw_only=True)
class Config:
    """The same place found in a second view of known geometry; no labels."""

    threshold: PositiveShare = 0.1
    """Distance from the true place, as a share of the view's side, within which a match is right."""
    area: Shares = (0.25, 0.7)
    """Smallest and largest share of the first view that the second one shows."""
    blocks: Count = 1
    """Last blocks whose patch tokens are put side by side."""
    pictures: Annotated[int, Range(0, 100)] = 2
    """Samples that are drawn with their matches."""

    def __post_init__(self) -> None:
        check(self, "correspondence")

    def build(self) -> Correspondence:
        """The task."""
        return Correspondence(self)


class Correspondence:
    """See :class:`Config`. The samples are those of the test split, or of the training split where there is no other:
    nothing is learned."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        if subject.loaded.modality != "image":
            return f"two views of a picture are compared, and the model looks at {subject.loaded.modality}"
        if not (subject.test or subject.train):
            return "no shards: give --test SHARDS"
        return of_planes(subject)

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"correspondence: {reason}")
        config, settings = self.config, subject.settings
        split: Split = "test" if subject.test else "train"
        reading = Reading(
            subject.loaded,
            subject.evaluation,
            {},
            blocks=config.blocks,
            batch_size=min(settings.batch_size, 32),
            limit=settings.limit,
            device=settings.device,
            autocast=settings.autocast,
        )
        evaluate: Evaluation = subject.evaluation.build()
        right: dict[str, list[float]] = {}
        by_chance: list[float] = []
        best: list[float] = []
        keys: list[str] = []
        shown: list[Shown] = []
        for batch in reading.batches(subject.shards(split), "correspondence"):
            numbers = np.array([sample["__id__"] for sample in batch.samples], np.int64)
            boxes, flips = self._pieces(numbers, evaluate.config.size, settings.seed)
            seconds = _seconds(batch.samples, boxes, flips, evaluate).to(batch.view.device)
            with torch.inference_mode():
                tokens = token_features(subject.loaded.encoder, seconds, config.blocks).float()
            grid = (batch.grid[0], batch.grid[1])
            places = correspondence.middles(grid)
            sides = np.array([[0, 0, evaluate.config.size, evaluate.config.size]] * len(boxes))
            firsts, others = affine(sides, np.zeros(len(boxes), bool)), affine(boxes, flips)
            sources = {"model": (batch.tokens, tokens)} | {
                kind: (colours_and_places(batch.view, grid)[kind], colours_and_places(seconds, grid)[kind])
                for kind in ("raw", "position")
            }
            for row, sample in enumerate(batch.samples):
                truth = correspondence.carried(places, firsts[row], others[row])
                seen = ((truth >= 0) & (truth < 1)).all(1)
                truth = truth[seen]
                if not len(truth):
                    continue
                keys.append(sample["__key__"])
                by_chance.append(correspondence.chance(truth, grid, config.threshold))
                best.append(correspondence.ceiling(truth, grid, config.threshold))
                for kind, (one, other) in sources.items():
                    found = places[correspondence.matched(one[row][seen.to(one.device)], other[row]).cpu()]
                    hits = correspondence.correct(found, truth, config.threshold)
                    right.setdefault(kind, []).append(float(hits.double().mean()))
                    if kind == "model" and len(shown) < config.pictures:
                        views = [label_drawing.seen(part[row], subject.evaluation) for part in (batch.view, seconds)]
                        shown.append(_drawn(sample["__key__"], views, places[seen], found, hits))
        if not keys:
            raise UserError("correspondence: the two views of no sample share a patch")
        scores = [
            Score(
                metric=f"PCK@{config.threshold:g}",
                value=float(np.mean(values)),
                interval=mean_interval(values, settings.seed),
                n=len(values),
                features=kind,
                chance=float(np.mean(by_chance)),
                each=torch.tensor(values, dtype=torch.float32),
                keys=tuple(keys),
            )
            for kind, values in right.items()
        ]
        return Outcome(
            scores=tuple(scores),
            protocol=(
                "Every patch of the evaluation view that a second view shows too (a random piece of it, enlarged, "
                "mirrored or not) is matched with the most similar patch there by cosine; right where the middle of "
                f"that lies within {config.threshold:g} of the view's side of the true place; the mean over the "
                "patches of an image, then over the images. Patches are coarse: "
                f"{100 * float(np.mean(best)):.1f} % can be right. Nothing is learned."
            ),
            warnings=(*outdone(scores), *reading.warnings()),
            pictures=tuple(shown),
            settings={
                "threshold": config.threshold,
                "area": list(config.area),
                "blocks": config.blocks,
                "seed": settings.seed,
                "ceiling": float(np.mean(best)),
            },
        )

    def _pieces(self, numbers: NDArray[np.int64], size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Boxes [B, 4] (top, left, height, width) in the first view, and whether each is mirrored [B]."""
        draw = counter.uniform(seed, 0, numbers, "correspondence", _DRAWS)
        low, high = self.config.area
        sides = np.round(size * np.sqrt(low + (high - low) * draw[:, 0])).clip(1, size).astype(np.int64)
        corners = np.floor(draw[:, 1:3] * (size - sides + 1)[:, None]).astype(np.int64)
        return np.concatenate([corners, sides[:, None], sides[:, None]], 1), draw[:, 3] < 0.5


def _seconds(
    samples: Sequence[Any], boxes: NDArray[np.int64], flips: NDArray[np.bool_], evaluate: Evaluation
) -> Tensor:
    """Second views [B, 3, size, size], normalised."""
    crops = [evaluate.crop(sample["image"]).contiguous() for sample in samples]
    return evaluate.normalise(resize_crops(crops, boxes, flips, evaluate.config.size, "bicubic"))


def _drawn(key: str, views: Sequence[Any], places: Tensor, found: Tensor, hits: Tensor) -> Shown:
    """Both views with lines between patches that were matched, green where right, red where not."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(label_drawing.side_by_side(views))
    draw = ImageDraw.Draw(image)
    width = (image.width - 4) // 2
    for place in np.linspace(0, len(places) - 1, min(_DRAWN, len(places))).astype(int).tolist():
        begin, end = (places[place] * width).tolist(), (found[place] * width).tolist()
        colour = (40, 220, 60) if bool(hits[place]) else (235, 60, 40)
        draw.line((begin[0], begin[1], width + 4 + end[0], end[1]), fill=colour, width=2)
    return Shown(
        title=f"{key}: patches of two views that were matched, green where right",
        content=label_drawing.png(np.asarray(image)),
        alternative=f"Two views of {key} with lines between matched patches, green where right and red where wrong.",
    )
