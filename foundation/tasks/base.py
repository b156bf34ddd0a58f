"""What every evaluation task is: a question put to a frozen model with some shards, and its answer in numbers.

A task is one file ``foundation/tasks/NAME.py`` with a ``Config`` (a frozen dataclass; ``build()`` gives the
:class:`Task`). Suites, ``foundation evaluate``, ``foundation compare`` and the page know tasks by this contract alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.probes.beforehand import pieces_of
from foundation.probes.feature_cache import default_cache
from foundation.probes.features import FeatureSet, Tokens, depth_of
from foundation.probes.groups import grouped
from foundation.probes.labels import number_classes
from foundation.probes.road import augmented_features, features_of_shards, tokens_of_shards
from foundation.zoo.load import LoadedEncoder

Split = Literal["train", "test", "outside"]
"""Samples to learn from, samples to score, and samples of another kind that a model should find strange."""

MOST_PIECES = 8
"""Views of a recording that are averaged where nobody says how many."""

_OPTIONS: dict[Split, str] = {"train": "--train", "test": "--test", "outside": "--out-of-distribution"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is run, whatever is asked of it.

    Attributes:
        device: where the encoder and the task compute.
        autocast: run the encoder in bfloat16.
        batch_size: samples per forward pass.
        workers: loader processes.
        limit: at most so many samples of each split, spread evenly; None: all.
        seed: of splits, draws and intervals.
        tokens: what stands for a sample.
        group: rule of samples that belong together, see ``GROUP_HELP`` of :mod:`foundation.probe_options`; None: none.
        cached: features are kept on disk, and read from there.
        blocks: of so many last blocks the class tokens are kept in one pass, for all tasks; an encoder of fewer gives
            those that it has.
        pieces: views of a recording that is longer than one, spread evenly over it; pooled features are their mean.
            None: as many as cover the longest of a few, but no more than ``MOST_PIECES``.
    """

    device: torch.device | str = "cpu"
    autocast: bool = False
    batch_size: int = 256
    workers: int = 0
    limit: int | None = None
    seed: int = 0
    tokens: Tokens = "cls"
    group: str | None = None
    cached: bool = True
    blocks: int = 4
    pieces: int | None = None


@dataclass(frozen=True)
class Subject:
    """A model and the shards that it is looked at with. Features are computed once, whatever tasks ask for them.

    Attributes:
        loaded: the model.
        evaluation: its modality's ``EvaluationConfig``.
        train: patterns of the shards to learn from; empty: there are none.
        test: patterns of the shards to score; empty: a task may leave one out of ``train``, or split it, and says so.
        settings: how the model is run.
        outside: patterns of the shards of another distribution, which need no labels.
        baseline: what is looked at stands beside the model.
    """

    loaded: LoadedEncoder
    evaluation: Any
    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    outside: tuple[str, ...] = ()
    baseline: bool = False
    _held: dict[str, FeatureSet] = field(default_factory=dict, repr=False, compare=False)
    _numbered: dict[str, FeatureSet] = field(default_factory=dict, repr=False, compare=False)

    def shards(self, split: Split) -> tuple[str, ...]:
        """Patterns of a split.

        Raises:
            UserError: none were named.
        """
        found: dict[Split, tuple[str, ...]] = {"train": self.train, "test": self.test, "outside": self.outside}
        if not found[split]:
            what = "out-of-distribution" if split == "outside" else split
            raise UserError(f"no {what} shards: give {_OPTIONS[split]} SHARDS")
        return found[split]

    def features(self, split: Split, blocks: int = 1) -> FeatureSet:
        """Features of a split in the order of its shards, with or without labels; from the cache where it has them.

        One pass serves all tasks that ask for no more than ``settings.blocks`` blocks.

        Args:
            split: which shards.
            blocks: how many of the last blocks' class tokens.

        Raises:
            UserError: there are no such shards, no sample of them can be read, or the encoder has fewer blocks.
        """
        held = self._held.get(split)
        if held is None or len(held.cls) < blocks:
            settings = self.settings
            held = self._held[split] = features_of_shards(
                self.loaded.encoder,
                self.shards(split),
                modality=self.loaded.modality,
                evaluation=self.evaluation,
                device=settings.device,
                blocks=max(blocks, min(settings.blocks, depth_of(self.loaded.encoder))),
                autocast=settings.autocast,
                batch_size=settings.batch_size,
                workers=settings.workers,
                limit=settings.limit,
                cache=self.cache if settings.cached else None,
                weights=self.loaded.sha256,
                what=split,
                pieces=self.pieces,
            )
        return dataclasses.replace(held, cls=held.cls[-blocks:])

    @cached_property
    def whole(self) -> int:
        """Views, side by side, that cover the longest of a few recordings."""
        return pieces_of(self.train or self.test, self.loaded.modality, self.evaluation)

    @property
    def pieces(self) -> int:
        """Views of a recording whose features are averaged."""
        return min(MOST_PIECES, self.whole) if self.settings.pieces is None else self.settings.pieces

    @property
    def scored(self) -> Split:
        """The split that a task without labels looks at: the test samples, where there are any."""
        return "test" if self.test else "train"

    def vectors(self, split: Split, most: int) -> Tensor:
        """One vector for each sample of a split, labelled or not.

        Args:
            split: which shards.
            most: samples at most, spread evenly.

        Returns:
            [S, D] float32, by ``settings.tokens``.
        """
        found = torch.cat(self.features(split).tokens(self.settings.tokens), dim=1)
        if len(found) <= most:
            return found
        return found[torch.linspace(0, len(found) - 1, most, dtype=torch.float64).long()]

    def held(self, split: Split) -> FeatureSet | None:
        """The features of a split, where a task has asked for them."""
        return self._held.get(split)

    def labelled(self, blocks: int = 1) -> tuple[FeatureSet, FeatureSet]:
        """Features of the training and of the test samples that have one label, under one numbering of the classes and
        with their groups; without test shards the same object twice: a task leaves one out, or splits it.

        Raises:
            UserError: as for :meth:`features`; no sample of a split has one label.
        """
        if not self._numbered:
            rule = self.settings.group
            splits: tuple[Split, ...] = ("train", "test") if self.test else ("train",)
            found = []
            for split in splits:
                one = self.features(split).labelled()
                groups = one.groups if rule is None else grouped(one, rule, self.shards(split))[0]
                found.append(dataclasses.replace(one, groups=groups))
            self._numbered.update(zip(splits, number_classes(*found), strict=True))
        train = self._with_blocks("train", blocks)
        return train, (self._with_blocks("test", blocks) if self.test else train)

    def _with_blocks(self, split: Split, blocks: int) -> FeatureSet:
        own = self._numbered[split]
        if blocks == 1:
            return own
        return dataclasses.replace(own, cls=self.features(split, blocks).labelled().cls)

    def augmented(self, epoch: int, limit: int) -> FeatureSet:
        """Features of freshly augmented views of training samples, one view each, in the order of the shards.

        Args:
            epoch: views of another number are others.
            limit: at most so many samples, spread evenly.

        Raises:
            UserError: the modality has no augmented views for probes.
        """
        settings = self.settings
        return augmented_features(
            self.loaded.encoder,
            self.shards("train"),
            epoch=epoch,
            seed=settings.seed,
            modality=self.loaded.modality,
            evaluation=self.evaluation,
            device=settings.device,
            blocks=1,
            autocast=settings.autocast,
            batch_size=settings.batch_size,
            workers=settings.workers,
            limit=limit if settings.limit is None else min(limit, settings.limit),
        )

    def patch_tokens(self, split: Split, most_bytes: int) -> FeatureSet:
        """Patch tokens of a split, computed anew.

        Args:
            split: which shards.
            most_bytes: that they may take; more samples are thinned, spread evenly.

        Returns:
            A set whose only layer ``cls[0]`` is [S, N, D + 1]: each patch token after the final norm, and 1 where it
            counts or 0 where it is padding.

        Raises:
            UserError: there are no such shards, or the encoder has no patch tokens.
        """
        settings = self.settings
        how = {
            "modality": self.loaded.modality, "evaluation": self.evaluation, "device": settings.device,
            "autocast": settings.autocast, "batch_size": min(settings.batch_size, 64), "workers": settings.workers,
        }  # fmt: skip
        one = tokens_of_shards(self.loaded.encoder, self.shards(split), limit=1, **how)
        most = max(2, most_bytes // (4 * one.cls[0][0].numel()))
        limit = most if settings.limit is None else min(most, settings.limit)
        return tokens_of_shards(self.loaded.encoder, self.shards(split), limit=limit, what=f"{split}: tokens", **how)

    def groups_of(self, train: FeatureSet) -> Tensor | None:
        """[S] int64, which of some training samples belong together; None where each stands for itself."""
        rule = self.settings.group
        return None if rule is None else grouped(train, rule, self.shards("train"))[0]

    def with_encoder(self, encoder: nn.Module, sha256: str | None, description: str) -> Subject:
        """The same questions to another encoder of the same views: a baseline.

        Args:
            encoder: on the device of the settings.
            sha256: of its weights, or what stands for it; None: computed.
            description: one line for a person.
        """
        loaded = dataclasses.replace(self.loaded, encoder=encoder, sha256=sha256, description=description)
        settings = dataclasses.replace(self.settings, pieces=self.pieces)
        return dataclasses.replace(self, loaded=loaded, settings=settings, baseline=True, _held={}, _numbered={})

    @property
    def cache(self) -> Path:
        """Folder of kept features."""
        own = self.loaded.folder
        return own / "probes" / "cache" if own is not None and own.is_dir() else default_cache()


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure.

    Attributes:
        metric: the field's name of it: ``top1``, ``mIoU``, ``RankMe``.
        value: in its own unit; shares in [0, 1].
        interval: 95 %, where one can be given.
        n: samples that it is a mean over.
        better: whether more or less is better; None: neither.
        setting: what was chosen, such as ``k = 20, whitened``; how it was chosen is the task's ``protocol``.
        features: whose: ``model``, or the baseline's name.
        share: the value is a share in [0, 1], shown in percent; False: a number in its own unit, such as a rank.
        chance: what a model that knows nothing would score; None: not known.
        each: [n] float32 what each test sample adds, whose mean is ``value``, where it is such a mean: models are
            compared on the same samples by them.
        keys: of those samples.
    """

    metric: str
    value: float
    n: int
    interval: tuple[float, float] | None = None
    better: Literal["more", "less"] | None = "more"
    setting: str = ""
    features: str = "model"
    share: bool = True
    chance: float | None = None
    each: Tensor | None = None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Something to look at.

    Attributes:
        title: of it.
        content: PNG bytes, or text of an SVG drawing.
        alternative: what it shows, for those who cannot see it.
    """

    title: str
    content: bytes | str
    alternative: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines that the page draws in its own colours.

    Attributes:
        title: of it.
        x_label: with its unit.
        y_label: likewise.
        lines: by name, (x, y) in the order of x.
        percent: y are shares; shown times 100.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of test samples that the page draws.

    Attributes:
        title: of it.
        counts: [C][C] by true class (row) and predicted class (column).
        classes: C names.
    """

    title: str
    counts: Sequence[Sequence[int]]
    classes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A task's answer.

    Attributes:
        scores: the first is the headline.
        protocol: one sentence: how the figure comes about, what was chosen on which samples, and whose method it is.
        warnings: where a score says nothing, or less than it seems to, a sentence each.
        pictures: to look at.
        settings: that a result depends on.
    """

    scores: tuple[Score, ...]
    protocol: str
    warnings: tuple[str, ...] = ()
    pictures: tuple[Picture | Chart | Confusion, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """A question that can be put to a model."""

    def refusal(self, subject: Subject) -> str | None:
        """Why the task cannot be asked of this model and these shards, in one sentence, before any forward pass; None:
        it can. A suite leaves such a task out and says so."""

    def run(self, subject: Subject) -> Outcome:
        """The answer.

        Raises:
            UserError: the shards do not hold what is needed.
        """
