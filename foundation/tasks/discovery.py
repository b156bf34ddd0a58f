"""Object discovery: TokenCut on the patches of a frozen encoder, and how often its box is right (CorLoc)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from foundation.data.extras import json as json_member
from foundation.data.extras import regions
from foundation.data.extras.member import Member
from foundation.errors import SampleError, UserError
from foundation.modalities import label_drawing
from foundation.probes.dense import token_features
from foundation.probes.dense_prediction import tokencut
from foundation.probes.dense_prediction.reading import Batch, Reading, chosen, colours_and_places
from foundation.probes.dense_prediction.refusals import of_members, of_planes
from foundation.probes.features import depth_of
from foundation.probes.scores import wilson_interval
from foundation.ranges import Positive, Range, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.base import Picture as Shown
from foundation.tasks.beside import outdone

MEMBERS = ("boxes.json", "seg.png", "seg.npy")
"""Where objects are looked for. ``boxes.json``: ``boxes``, a list of [left, top, right, bottom], in pixels of a picture
of ``height`` and ``width`` (without these: of the picture itself). Of a label map: the connected pixels of each label
but 0 and 255."""
_BACKGROUND = (0, 255)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Box of the main object by TokenCut, without training."""

    member: str | None = None
    """Where a sample's objects stand; None: ``boxes.json``, ``seg.png`` or ``seg.npy``."""
    threshold: Annotated[float, Range(-1, 1)] = 0.2
    """Cosine above which two patches are joined."""
    epsilon: Positive = 1e-5
    """Weight of the edges between all others."""
    iou: Annotated[float, Range(0, 1, above=True)] = 0.5
    """Overlap with a true box from which a box is right."""
    pictures: Annotated[int, Range(0, 100)] = 4
    """Samples that are drawn with their boxes."""

    def __post_init__(self) -> None:
        check(self, "discovery")

    def build(self) -> Discovery:
        """The task."""
        return Discovery(self)


@dataclass
class _Found:
    """Whether the box of each picture is right, by features; ``keys`` of the pictures."""

    right: dict[str, list[bool]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    without: int = 0


class Discovery:
    """See :class:`Config`. The samples are those of the test split, or of the training split where there is no other:
    nothing is learned."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        return of_planes(subject) or of_members(
            subject, self.config.member, MEMBERS, "boxes of objects are", [_split(subject)]
        )

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"discovery: {reason}")
        config, settings = self.config, subject.settings
        patterns = subject.shards(_split(subject))
        name = str(chosen(config.member, MEMBERS, patterns))
        member: Member = json_member.Config(member=name) if name.endswith(".json") else regions.Config(member=name)
        encoder: Any = subject.loaded.encoder
        keys_there = f"keys.{depth_of(encoder) - 1}" in encoder.tap_names()
        reading = Reading(
            subject.loaded,
            subject.evaluation,
            {"objects": member},
            batch_size=min(settings.batch_size, 32),
            limit=settings.limit,
            device=settings.device,
            autocast=settings.autocast,
            tokens_of=_keys if keys_there else token_features,
        )
        evaluate, found = subject.evaluation.build(), _Found()
        shown: list[Shown] = []
        for batch in reading.batches(patterns, "discovery"):
            plain = {"raw": colours_and_places(batch.view, batch.grid)["raw"][..., : 2 * batch.view.shape[1]]}
            for row, sample in enumerate(batch.samples):
                truth = _true_boxes(sample, evaluate, reading.bad)
                if not truth:
                    found.without += 1
                    continue
                found.keys.append(sample["__key__"])
                size = (float(batch.view.shape[-2]), float(batch.view.shape[-1]))
                sources = {"model": batch.tokens[row], **{kind: part[row] for kind, part in plain.items()}}
                boxes = {kind: self._box(part, batch, size) for kind, part in sources.items()}
                boxes["whole picture"] = (0.0, 0.0, size[1], size[0])
                for kind, box in boxes.items():
                    best = max(tokencut.overlap(box, one) for one in truth)
                    found.right.setdefault(kind, []).append(best >= config.iou)
                if len(shown) < config.pictures:
                    shown.append(_drawn(sample["__key__"], batch.view[row], truth, boxes["model"], subject.evaluation))
        if not found.keys:
            raise UserError("discovery: none of the samples shows an object")
        said = [f"{found.without} samples without an object in the view are left out"] if found.without else []
        scores = tuple(_score(kind, right, found.keys) for kind, right in found.right.items())
        return Outcome(
            scores=scores,
            protocol=(
                f"TokenCut (Wang et al. 2022) on {'the keys' if keys_there else 'the patch tokens'} of the last block "
                f"of the evaluation view: edges where the cosine exceeds {config.threshold:g}, the second smallest "
                "generalised eigenvector is cut at its mean, the box is that of the connected patches around its "
                f"largest entry; right where the IoU with any true box is at least {config.iou:g}. Nothing is learned."
            ),
            warnings=(*outdone(scores), *said, *reading.warnings()),
            pictures=tuple(shown),
            settings={"member": name, "threshold": config.threshold, "epsilon": config.epsilon, "iou": config.iou},
        )

    def _box(self, features: Tensor, batch: Batch, size: tuple[float, float]) -> tokencut.Box:
        grid = (batch.grid[0], batch.grid[1])
        found = tokencut.cut(features.cpu().numpy(), grid, threshold=self.config.threshold, epsilon=self.config.epsilon)
        return found.box((size[0] / grid[0], size[1] / grid[1]), size)


def _split(subject: Subject) -> Split:
    return "test" if subject.test else "train"


def _keys(encoder: Any, view: Tensor) -> Tensor:
    """Keys of the patches in the last block, all heads side by side, [B, N, D]."""
    tap = f"keys.{depth_of(encoder) - 1}"
    features = encoder([view], taps=(tap,))[0]
    keys: Tensor = features.taps[tap]
    return keys[:, -features.patches.shape[1] :]


def _true_boxes(sample: Any, evaluate: Any, bad: list[SampleError]) -> list[tokencut.Box]:
    """Boxes of the objects, pixels of the view, cut off at its edges; none where the view shows none."""
    height, width = sample["image"].shape[-2:]
    given = sample["__extras__"]["objects"]
    if not isinstance(given, np.ndarray):
        try:
            facts = given if isinstance(given, dict) else {"boxes": given}
            boxes = np.asarray(facts["boxes"], np.float64).reshape(-1, 4)
            boxes = boxes * np.tile([width / facts.get("width", width), height / facts.get("height", height)], 2)
            if not np.isfinite(boxes).all():
                raise ValueError("numbers that are not finite")
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            detail = f"boxes: {error!r}; a list of [left, top, right, bottom] is expected"
            bad.append(SampleError(str(sample["__shard__"]), str(sample["__key__"]), "decode", detail))
            return []
        corners = evaluate.crop_places(boxes.reshape(-1, 2), height, width).reshape(-1, 4)
    else:
        corners = np.array(tokencut.boxes_of(evaluate.crop_map(given, height, width), _BACKGROUND)).reshape(-1, 4)
    size = evaluate.config.size
    corners = corners.clip(0, size)
    kept = corners[(corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])]
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in kept]


def _score(kind: str, right: Sequence[bool], keys: Sequence[str]) -> Score:
    return Score(
        metric="CorLoc",
        value=sum(right) / len(right),
        interval=wilson_interval(sum(right), len(right)),
        n=len(right),
        features=kind,
        each=torch.tensor(right, dtype=torch.float32),
        keys=tuple(keys),
    )


def _drawn(key: str, view: Tensor, truth: Sequence[tokencut.Box], box: tokencut.Box, evaluation: Any) -> Shown:
    from foundation.modalities.drawing import resize

    factor = label_drawing.SIDE / view.shape[-2]
    large = resize(
        label_drawing.seen(view, evaluation), label_drawing.SIDE, round(view.shape[-1] * factor), smooth=False
    )
    drawn = label_drawing.outlined(large, [[factor * at for at in one] for one in truth], (40, 220, 60))
    drawn = label_drawing.outlined(drawn, [[factor * at for at in box]], (235, 60, 40))
    return Shown(
        title=f"{key}: true boxes (green) and the one found (red)",
        content=label_drawing.png(drawn),
        alternative=f"The picture {key} with the true boxes in green and the box that TokenCut finds in red.",
    )
