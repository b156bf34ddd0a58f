"""Linear depth: how far every pixel is, from the patch tokens of a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.modalities import label_drawing
from foundation.modalities.drawing import heat_rgb
from foundation.probes.dense_prediction import depth
from foundation.probes.dense_prediction.heads import Item, Learned, learn
from foundation.probes.dense_prediction.reading import (
    Batch,
    Numbers,
    Reading,
    chosen,
    colours_and_places,
    over_labels,
)
from foundation.probes.dense_prediction.refusals import of_members, of_planes
from foundation.probes.dense_prediction.segmentation import mean_interval, upsampled
from foundation.ranges import Count, Positive, Range, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.base import Picture as Shown
from foundation.tasks.beside import outdone

MEMBERS = ("depth.npy", "depth.png")
"""Where depths are looked for: numbers [H, W] of any size, in the geometry of the picture; 0, negative or not finite
where unknown."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Depth of every pixel by a linear layer on patch tokens."""

    member: str | None = None
    """The depths of a sample; None: ``depth.npy`` or ``depth.png``."""
    unit: Positive = 1.0
    """Metres that a 1 of the file stands for: 0.001 where it holds millimetres."""
    blocks: Count = 1
    """Last blocks whose patch tokens are put side by side."""
    bins: Annotated[int, Range(2, 1024)] = 32
    """Depths that the head gives shares to."""
    pictures: Annotated[int, Range(0, 100)] = 4
    """Test samples that are drawn beside their truth."""

    def __post_init__(self) -> None:
        check(self, "depth")

    def build(self) -> Depth:
        """The task."""
        return Depth(self)


class Depth:
    """See :class:`Config`."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        both: tuple[Split, ...] = ("train", "test")
        return of_planes(subject) or of_members(subject, self.config.member, MEMBERS, "depths are", both)

    def _members(self, patterns: Sequence[str]) -> dict[str, Numbers]:
        return {"map": Numbers(member=str(chosen(self.config.member, MEMBERS, patterns)))}

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"depth: {reason}")
        config, settings = self.config, subject.settings
        train, test = subject.shards("train"), subject.shards("test")
        low, high = depth.span(over_labels(train, self._members(train)["map"], settings.limit))
        if not low < high:
            raise UserError("depth: the training samples have no two known depths that differ")
        bins = depth.centres(config.unit * low, config.unit * high, config.bins)
        evaluate = subject.evaluation.build()
        reading = Reading(
            subject.loaded,
            subject.evaluation,
            self._members(train),
            blocks=config.blocks,
            batch_size=min(settings.batch_size, 32),
            limit=settings.limit,
            device=settings.device,
            autocast=settings.autocast,
        )

        def items(patterns: Sequence[str], what: str) -> Iterator[tuple[Item, Batch, int]]:
            for batch in reading.batches(patterns, what):
                yield from self._items(batch, evaluate, bins)

        def measure(logits: Sequence[Tensor], kept: Sequence[Item]) -> float:
            pairs = zip(logits, kept, strict=True)
            return -float(np.nanmean([depth.errors(_predicted(own, item, bins), item.truth)[0] for own, item in pairs]))

        count = reading.count(train)
        total = torch.zeros(len(bins))

        def training() -> Iterator[Item]:
            for item, _, _ in items(train, "train"):
                total.add_(item.targets.sum(0).cpu())
                yield item

        learned = learn(training(), count, measure, settings.seed)
        level = float((total * bins).sum() / total.sum())
        reading.members = self._members(test)
        found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in (*learned.heads, "constant")}
        keys: list[str] = []
        shown: list[Shown] = []
        for item, batch, row in items(test, "test"):
            keys.append(item.key)
            found["constant"].append(depth.errors(torch.full_like(item.truth, level), item.truth))
            for kind, head in learned.heads.items():
                said = _predicted(head(item.features[kind]), item, bins)
                found[kind].append(depth.errors(said, item.truth))
                if kind == "model" and len(shown) < config.pictures:
                    shown.append(_drawn(item, batch, row, said, subject.evaluation))
        table = {kind: np.array(values) for kind, values in found.items()}
        scores = _scores(table, keys, learned, settings.seed)
        return Outcome(
            scores=scores,
            protocol=(
                f"One linear layer on each patch token gives shares to {config.bins} depths between the smallest and "
                "the largest of the training split, fitted by multinomial logistic regression to the depths in the "
                "patch; the weight decay is chosen by RMSE on training images kept back; logits are enlarged "
                "bilinearly, the depth is the mean of the bins by their shares; errors over the known pixels of each "
                "image, then the mean over the images (Oquab et al. 2023)."
            ),
            warnings=(*outdone(scores), *reading.warnings()),
            pictures=tuple(shown),
            settings={
                "member": reading.members["map"].member,
                "unit": config.unit,
                "blocks": config.blocks,
                "bins": config.bins,
                "range": [float(bins[0]), float(bins[-1])],
                "patches": learned.parts,
                "kept_back": learned.kept_back,
            },
        )

    def _items(self, batch: Batch, evaluate: Any, bins: Tensor) -> Iterator[tuple[Item, Batch, int]]:
        plain = colours_and_places(batch.view, batch.grid)
        grid = (batch.grid[0], batch.grid[1])
        for row, sample in enumerate(batch.samples):
            height, width = sample["image"].shape[-2:]
            depths = evaluate.crop_map(sample["__extras__"]["map"], height, width)
            metres = np.where(depth.known(depths), np.asarray(depths, np.float64) * self.config.unit, 0)
            truth = torch.from_numpy(metres).float().to(batch.tokens.device)
            features = {"model": batch.tokens[row], **{kind: part[row] for kind, part in plain.items()}}
            yield Item(sample["__key__"], features, depth.shares(truth, grid, bins), truth, grid), batch, row


def _predicted(logits: Tensor, item: Item, bins: Tensor) -> Tensor:
    grid, size = (item.grid[0], item.grid[1]), (item.truth.shape[0], item.truth.shape[1])
    return depth.expected(upsampled(logits, grid, size), bins)


def _scores(tables: dict[str, Any], keys: list[str], learned: Learned, seed: int) -> tuple[Score, ...]:
    constant = tables.pop("constant")
    there = np.isfinite(constant[:, 0])
    if not there.any():
        raise UserError("depth: none of the test samples has a known depth")
    own = tuple(key for key, known in zip(keys, there.tolist(), strict=True) if known)
    return tuple(
        Score(
            metric=metric,
            value=float(table[there, place].mean()),
            interval=mean_interval(table[there, place], seed),
            n=len(own),
            better="more" if metric == "delta1" else "less",
            share=metric == "delta1",
            setting=learned.said(kind),
            features=kind,
            chance=float(constant[there, place].mean()),
            each=torch.from_numpy(table[there, place]).float(),
            keys=own,
        )
        for kind, table in tables.items()
        for place, metric in enumerate(depth.METRICS)
    )


def _drawn(item: Item, batch: Batch, row: int, found: Tensor, evaluation: Any) -> Shown:
    low, high = float(item.truth.min()), float(item.truth.max())
    parts = [
        label_drawing.seen(batch.view[row], evaluation),
        *(heat_rgb(part, low, high) for part in (item.truth, found)),
    ]
    return Shown(
        title=f"{item.key}: picture, true depth, prediction ({low:.2f} to {high:.2f} m)",
        content=label_drawing.png(label_drawing.side_by_side(parts)),
        alternative=f"The test picture {item.key}, its depths (dark is near), and those that the linear head finds.",
    )
