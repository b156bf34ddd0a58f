"""Linear segmentation: what every pixel shows, from the patch tokens of a frozen encoder.

The linear protocol of DINO's successors (Oquab et al. 2023): one linear layer on every patch token, its logits made as
large as the label map by bilinear interpolation, mean intersection over union.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from foundation.data.extras import regions
from foundation.errors import UserError
from foundation.modalities import label_drawing
from foundation.probes.dense_prediction import segmentation
from foundation.probes.dense_prediction.heads import Item, Learned, learn
from foundation.probes.dense_prediction.reading import (
    Batch,
    Reading,
    chosen,
    colours_and_places,
    over_labels,
)
from foundation.probes.dense_prediction.refusals import of_members, of_planes
from foundation.ranges import Count, Range, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.base import Picture as Shown
from foundation.tasks.beside import outdone

MEMBERS = ("seg.png", "seg.npy")
"""Where label maps are looked for: whole numbers [H, W] of any size, in the geometry of the picture."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Class of every pixel by a linear layer on patch tokens."""

    member: str | None = None
    """The label map of a sample; None: ``seg.png`` or ``seg.npy``."""
    ignore: Annotated[int, Range(-(2**31), 2**31 - 1)] = segmentation.IGNORED
    """Label of pixels that count nowhere."""
    blocks: Count = 1
    """Last blocks whose patch tokens are put side by side."""
    pictures: Annotated[int, Range(0, 100)] = 4
    """Test samples that are drawn beside their truth."""

    def __post_init__(self) -> None:
        check(self, "segmentation")

    def build(self) -> Segmentation:
        """The task."""
        return Segmentation(self)


class Segmentation:
    """See :class:`Config`."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def _member(self, patterns: Sequence[str]) -> str | None:
        return chosen(self.config.member, MEMBERS, patterns)

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        both: tuple[Split, ...] = ("train", "test")
        return of_planes(subject) or of_members(subject, self.config.member, MEMBERS, "label maps are", both)

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"segmentation: {reason}")
        config, settings = self.config, subject.settings
        train, test = subject.shards("train"), subject.shards("test")
        places, warnings = self._classes(train, test, settings.limit)
        reading = Reading(
            subject.loaded,
            subject.evaluation,
            {"map": regions.Config(member=str(self._member(train)))},
            blocks=config.blocks,
            batch_size=min(settings.batch_size, 32),
            limit=settings.limit,
            device=settings.device,
            autocast=settings.autocast,
        )

        def items(patterns: Sequence[str], what: str) -> Iterator[tuple[Item, Batch, int]]:
            for batch in reading.batches(patterns, what):
                yield from self._items(batch, subject.evaluation.build(), places)

        def measure(logits: Sequence[Tensor], kept: Sequence[Item]) -> float:
            pairs = zip(logits, kept, strict=True)
            return segmentation.mean_iou(np.sum([_counts(own, item, len(places)) for own, item in pairs], axis=0))

        count = reading.count(train)
        learned = learn((item for item, _, _ in items(train, "train")), count, measure, settings.seed)
        reading.members = {"map": regions.Config(member=str(self._member(test)))}
        counts: dict[str, list[Any]] = {kind: [] for kind in learned.heads}
        keys: list[str] = []
        shown: list[Shown] = []
        for item, batch, row in items(test, "test"):
            keys.append(item.key)
            for kind, head in learned.heads.items():
                counts[kind].append(_counts(head(item.features[kind]), item, len(places)))
            if len(shown) < config.pictures:
                found = _predicted(learned.heads["model"](item.features["model"]), item)
                shown.append(_drawn(item, batch, row, found, subject.evaluation, len(places)))
        tables = {kind: np.stack(parts) for kind, parts in counts.items()}
        scores = _scores(tables, keys, learned, settings.seed)
        return Outcome(
            scores=scores,
            protocol=(
                "One linear layer on each patch token, fitted by multinomial logistic regression to the share of each "
                "class in the patch; the weight decay is chosen by mIoU on training images kept back; logits are "
                "enlarged bilinearly to the label map of the evaluation view; mean IoU over the classes that occur in "
                "the test labels (Oquab et al. 2023)."
            ),
            warnings=(*outdone(scores), *warnings, *reading.warnings()),
            pictures=tuple(shown),
            settings={
                "member": self._member(test),
                "ignore": config.ignore,
                "blocks": config.blocks,
                "classes": sorted(places),
                "patches": learned.parts,
                "kept_back": learned.kept_back,
            },
        )

    def _classes(
        self, train: Sequence[str], test: Sequence[str], limit: int | None
    ) -> tuple[dict[int, int], tuple[str, ...]]:
        """Class numbers of the labels, and what to warn of."""
        found = []
        for patterns in (train, test):
            there: Counter[int] = Counter()
            for labels in over_labels(patterns, regions.Config(member=str(self._member(patterns))), limit):
                there.update(np.unique(labels).tolist())
            there.pop(self.config.ignore, None)
            found.append(there)
        values = sorted(found[0].keys() | found[1].keys())
        if len(values) < 2:
            raise UserError(f"segmentation: label maps with {len(values)} label: there is nothing to tell apart")
        unseen = sorted(found[1].keys() - found[0].keys())
        warnings = [f"labels {unseen} occur in the test split alone: no head can find them"] if unseen else []
        return {value: place for place, value in enumerate(values)}, tuple(warnings)

    def _items(self, batch: Batch, evaluate: Any, places: dict[int, int]) -> Iterator[tuple[Item, Batch, int]]:
        plain = colours_and_places(batch.view, batch.grid)
        for row, sample in enumerate(batch.samples):
            height, width = sample["image"].shape[-2:]
            labels = evaluate.crop_map(sample["__extras__"]["map"], height, width)
            truth = segmentation.numbered(labels, places, self.config.ignore).to(batch.tokens.device)
            grid = (batch.grid[0], batch.grid[1])
            features = {"model": batch.tokens[row], **{kind: part[row] for kind, part in plain.items()}}
            targets = segmentation.shares(truth, grid, len(places))
            yield Item(sample["__key__"], features, targets, truth, grid), batch, row


def _predicted(logits: Tensor, item: Item) -> Tensor:
    grid, size = (item.grid[0], item.grid[1]), (item.truth.shape[0], item.truth.shape[1])
    return segmentation.upsampled(logits, grid, size).argmax(0)


def _counts(logits: Tensor, item: Item, classes: int) -> Any:
    return segmentation.overlaps(_predicted(logits, item), item.truth, classes)


def _scores(tables: dict[str, Any], keys: list[str], learned: Learned, seed: int) -> tuple[Score, ...]:
    found = []
    for kind, table in tables.items():
        total, setting = table.sum(0), learned.said(kind)
        found.append(
            Score(
                metric="mIoU",
                value=segmentation.mean_iou(total),
                interval=segmentation.mean_iou_interval(table, seed),
                n=len(table),
                setting=setting,
                features=kind,
            )
        )
        each = torch.tensor([segmentation.mean_iou(one) for one in table], dtype=torch.float32)
        known = torch.isfinite(each)
        own = tuple(key for key, there in zip(keys, known.tolist(), strict=True) if there)
        found.append(
            Score(
                metric="mIoU per image",
                value=float(each[known].mean()),
                interval=segmentation.mean_interval(each.numpy(), seed),
                n=len(own),
                setting=setting,
                features=kind,
                each=each[known],
                keys=own,
            )
        )
        found.append(
            Score(
                metric="pixel accuracy",
                value=segmentation.pixel_accuracy(total),
                n=len(table),
                setting=setting,
                features=kind,
                chance=float((total[:, 0] + total[:, 2]).max() / max((total[:, 0] + total[:, 2]).sum(), 1)),
            )
        )
    return tuple(found)


def _drawn(item: Item, batch: Batch, row: int, found: Tensor, evaluation: Any, classes: int) -> Shown:
    seen = label_drawing.seen(batch.view[row], evaluation)
    parts = [seen, label_drawing.coloured(item.truth, classes), label_drawing.coloured(found, classes)]
    return Shown(
        title=f"{item.key}: picture, truth, prediction",
        content=label_drawing.png(label_drawing.side_by_side(parts)),
        alternative=f"The test picture {item.key}, its label map, and the map that the linear head finds.",
    )
