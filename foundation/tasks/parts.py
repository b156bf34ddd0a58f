"""Part segmentation of point clouds: one linear layer on the features of every point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.data import members
from foundation.errors import SampleError, UserError
from foundation.modalities import label_drawing
from foundation.modalities.points import dense
from foundation.modalities.points.evaluation import EvaluationConfig
from foundation.modalities.points.geometry import normalised
from foundation.modalities.points.picture import render
from foundation.probes.dense_prediction import part_segmentation
from foundation.probes.dense_prediction.heads import Item, learn
from foundation.probes.dense_prediction.reading import Batch, Numbers, Reading
from foundation.probes.dense_prediction.refusals import of_members, of_tokens
from foundation.probes.dense_prediction.segmentation import mean_interval
from foundation.probes.road import open_limited
from foundation.ranges import Count, Range, check
from foundation.tasks.base import Outcome, Score, Split, Subject
from foundation.tasks.base import Picture as Shown
from foundation.tasks.beside import outdone

MEMBERS = ("parts.npy",)
"""Where parts are looked for: a whole number for each point [P], in the order of the file; negative where unknown."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Part of every point of a cloud by a linear layer."""

    member: str | None = None
    """The parts of a sample; None: ``parts.npy``."""
    blocks: Count = 1
    """Last blocks whose patch tokens are put side by side."""
    pictures: Annotated[int, Range(0, 100)] = 2
    """Test samples that are drawn beside their truth."""

    def __post_init__(self) -> None:
        check(self, "parts")

    def build(self) -> Parts:
        """The task."""
        return Parts(self)


@dataclass(frozen=True)
class _Known:
    """``places``: number of each part; ``of_kind``: numbers of the parts that things of a kind have."""

    places: dict[int, int]
    of_kind: dict[str, tuple[int, ...]]


class Parts:
    """See :class:`Config`. Which parts a thing may have follows from its class, as is usual: a head chooses among
    those."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def refusal(self, subject: Subject) -> str | None:
        """See :class:`foundation.tasks.base.Task`."""
        if not isinstance(subject.evaluation, EvaluationConfig):
            return f"parts of point clouds are asked for, and the model looks at {subject.loaded.modality}"
        both: tuple[Split, ...] = ("train", "test")
        return of_tokens(subject) or of_members(subject, self.config.member, MEMBERS, "parts of the points are", both)

    def run(self, subject: Subject) -> Outcome:
        """See :class:`foundation.tasks.base.Task`."""
        if reason := self.refusal(subject):
            raise UserError(f"parts: {reason}")
        config, settings = self.config, subject.settings
        train, test = subject.shards("train"), subject.shards("test")
        member = Numbers(member=config.member or MEMBERS[0], axes=1, whole=True)
        known = _known(train, member, settings.limit)
        reading = Reading(
            subject.loaded,
            subject.evaluation,
            {"parts": member},
            blocks=config.blocks,
            batch_size=min(settings.batch_size, 16),
            limit=settings.limit,
            device=settings.device,
            autocast=settings.autocast,
        )
        kinds: dict[str, str] = {}
        clouds: list[tuple[Item, Any]] = []

        def items(patterns: Sequence[str], what: str) -> Iterator[tuple[Item, Any]]:
            for batch in reading.batches(patterns, what):
                for item, points, kind in _items(batch, subject, known, reading.bad):
                    kinds[item.key] = kind
                    yield item, points

        def one(logits: Tensor, item: Item) -> float:
            own = known.of_kind[kinds[item.key]]
            return part_segmentation.shape_iou(part_segmentation.predicted(logits, own), item.truth, own)

        def measure(logits: Sequence[Tensor], kept: Sequence[Item]) -> float:
            return float(np.mean([one(own, item) for own, item in zip(logits, kept, strict=True)]))

        count = reading.count(train)
        learned = learn((item for item, _ in items(train, "train")), count, measure, settings.seed)
        kinds.clear()
        each: dict[str, list[float]] = {name: [] for name in learned.heads}
        keys: list[str] = []
        for item, points in items(test, "test"):
            keys.append(item.key)
            for name, head in learned.heads.items():
                each[name].append(one(head(item.features[name]), item))
            if len(clouds) < config.pictures:
                clouds.append((item, points))
        if not keys:
            raise UserError("parts: no test sample has parts that the training split knows")
        shown = []
        for item, points in clouds:
            found = part_segmentation.predicted(
                learned.heads["model"](item.features["model"]), known.of_kind[kinds[item.key]]
            )
            shown.append(_drawn(item, points, found, len(known.places), subject.evaluation.up))
        scores = tuple(
            score
            for name, values in each.items()
            for score in _scores(name, values, keys, [kinds[key] for key in keys], learned.said(name), settings.seed)
        )
        return Outcome(
            scores=scores,
            protocol=(
                "Features of a point are those of the three nearest groups, weighted by the inverse square of the "
                "distance; one linear layer by multinomial logistic regression; the weight decay is chosen on training "
                "clouds kept back; the head chooses among the parts of the cloud's class. Instance mIoU is the mean "
                "over the clouds of the mean IoU over these parts, class mIoU the mean over the classes (Yi et al. "
                "2016)."
            ),
            warnings=(*outdone(scores), *reading.warnings()),
            pictures=tuple(shown),
            settings={
                "member": member.member,
                "blocks": config.blocks,
                "parts": sorted(known.places),
                "points": learned.parts,
                "kept_back": learned.kept_back,
            },
        )


def _known(patterns: Sequence[str], member: Numbers, limit: int | None) -> _Known:
    """Parts of the training split, by class."""
    shards = open_limited(patterns, limit)
    found: dict[str, set[int]] = {}
    for number in range(shards.num_samples):
        try:
            raw = shards.read(*shards.locate(number), {member.member, "cls", "json"})
            there = {int(part) for part in np.unique(member.decode(raw)) if part >= 0}
        except SampleError:
            continue
        labelled: dict[str, Any] = {}
        members.put_label(labelled, raw, "label")
        found.setdefault(_kind(labelled), set()).update(there)
    places = {part: place for place, part in enumerate(sorted(set().union(*found.values())))}
    if len(places) < 2:
        raise UserError(f"parts: the training clouds have {len(places)} part: there is nothing to tell apart")
    return _Known(places, {kind: tuple(sorted(places[part] for part in own)) for kind, own in found.items()})


def _kind(sample: Any) -> str:
    return str(sample.get("label", ""))


def _items(batch: Batch, subject: Subject, known: _Known, bad: list[SampleError]) -> Iterator[tuple[Item, Any, str]]:
    """Clouds whose parts fit, with their points and their class."""
    evaluation, encoder = subject.evaluation, cast(Any, subject.loaded.encoder)
    centres = encoder.config.coordinates_of(batch.view)
    spread = dense.spread(batch.tokens, centres, batch.samples, evaluation)
    for sample, arrays in zip(batch.samples, spread, strict=True):
        parts, kind = sample["__extras__"]["parts"], _kind(sample)
        points = sample["points"].numpy()
        origin = str(sample["__shard__"]), str(sample["__key__"])
        if len(parts) != len(points):
            bad.append(SampleError(*origin, "conflict", f"parts of {len(parts)} points beside {len(points)} points"))
            continue
        if kind not in known.of_kind:
            bad.append(SampleError(*origin, "label", f"class {kind!r} occurs in the test split alone"))
            continue
        truth = torch.full((len(parts),), -1)
        for part, place in known.places.items():
            truth[torch.from_numpy(parts == part)] = place
        targets = F.one_hot(truth.clamp(min=0), len(known.places)).float() * (truth >= 0)[:, None]
        inside = torch.from_numpy(normalised(points, evaluation.normalise)[0][:, :3].copy())
        position = torch.cat([inside, inside.square(), inside.norm(dim=1, keepdim=True)], 1)
        features = {"model": torch.from_numpy(arrays["features"]).float(), "position": position}
        yield Item(origin[1], features, targets, truth), points[:, :3], kind


def _scores(
    name: str, values: Sequence[float], keys: Sequence[str], kinds: Sequence[str], setting: str, seed: int
) -> tuple[Score, ...]:
    by_kind: dict[str, list[float]] = {}
    for kind, value in zip(kinds, values, strict=True):
        by_kind.setdefault(kind, []).append(value)
    instance, by_class = part_segmentation.means(by_kind)
    return (
        Score(
            metric="instance mIoU",
            value=instance,
            interval=mean_interval(values, seed),
            n=len(values),
            setting=setting,
            features=name,
            each=torch.tensor(values, dtype=torch.float32),
            keys=tuple(keys),
        ),
        Score(metric="class mIoU", value=by_class, n=len(values), setting=setting, features=name),
    )


def _drawn(item: Item, points: Any, found: Tensor, parts: int, up: str) -> Shown:
    table = label_drawing.palette(parts + 1)[1:]
    drawings = [
        render(points, np.where((part >= 0)[:, None], table[part], np.uint8(128)), up)
        for part in (item.truth.numpy(), found.numpy())
    ]
    return Shown(
        title=f"{item.key}: true parts (above) and those found (below)",
        content=label_drawing.png(np.concatenate(drawings)),
        alternative=f"The cloud {item.key} from three sides, coloured by its parts, above, and by those found, below.",
    )
