"""What every evaluation task is: a question put to a frozen model with some shards, and its answer in numbers.

A task is one file ``foundation/tasks/NAME.py`` with a ``Config`` (a frozen dataclass; ``build()`` gives the
:class:`Task`). Suites, ``foundation evaluate``, ``foundation compare`` and the page know tasks by this contract alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.probes.feature_cache import default_cache
from foundation.probes.features import FeatureSet, Tokens
from foundation.probes.road import features_of_shards
from foundation.zoo.load import LoadedEncoder

Split = Literal["train", "test"]


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


@dataclass(frozen=True)
class Subject:
    """A model and the shards that it is looked at with. Features are computed once, whatever tasks ask for them.

    Attributes:
        loaded: the model.
        evaluation: its modality's ``EvaluationConfig``.
        train: patterns of the shards to learn from; empty: there are none.
        test: patterns of the shards to score; empty: a task may leave one out of ``train``, or split it, and says so.
        settings: how the model is run.
    """

    loaded: LoadedEncoder
    evaluation: Any
    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    _held: dict[tuple[str, int], FeatureSet] = field(default_factory=dict, repr=False, compare=False)

    def shards(self, split: Split) -> tuple[str, ...]:
        """Patterns of a split.

        Raises:
            UserError: none were named.
        """
        found = self.train if split == "train" else self.test
        if not found:
            raise UserError(f"no {split} shards: give --{split} SHARDS")
        return found

    def features(self, split: Split, blocks: int = 1) -> FeatureSet:
        """Features of a split in the order of its shards, with or without labels; from the cache where it has them.

        Args:
            split: which shards.
            blocks: how many of the last blocks' class tokens.

        Raises:
            UserError: there are no such shards, or no sample of them can be read.
        """
        if (split, blocks) not in self._held:
            settings, own = self.settings, self.loaded.folder
            folder = own / "probes" / "cache" if own is not None and own.is_dir() else default_cache()
            self._held[split, blocks] = features_of_shards(
                self.loaded.encoder,
                self.shards(split),
                modality=self.loaded.modality,
                evaluation=self.evaluation,
                device=settings.device,
                blocks=blocks,
                autocast=settings.autocast,
                batch_size=settings.batch_size,
                workers=settings.workers,
                limit=settings.limit,
                cache=folder if settings.cached else None,
                weights=self.loaded.sha256,
                what=split,
            )
        return self._held[split, blocks]


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
    pictures: tuple[Picture, ...] = ()
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
