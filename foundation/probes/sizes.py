"""A whole family of sub-networks scored at once: every sample is decoded once, and each size sees it (POA, table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from foundation.encoders.elastic import Sliced
from foundation.modalities.parts import decoder, evaluation_config
from foundation.probes import knn, linear
from foundation.probes.features import FeatureSet, Reader, Tokens, depth_of, extract_all, reader
from foundation.probes.labels import number_classes
from foundation.probes.results import progress
from foundation.probes.road import loader
from foundation.probes.treatments import Treatment, treated

BLOCKS = 4
"""Last blocks that the linear probe reads at most, as :mod:`foundation.probes.linear` does."""


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        read: its features.
        blocks: last blocks whose class tokens are read.
        pooling: it has patch tokens, and the linear probe tries their mean as well.
    """

    read: Reader
    blocks: int = 1
    pooling: bool = True

    @classmethod
    def of(cls, encoder: nn.Module, pooling: bool = True) -> Subject:
        """An encoder with weights of its own, in evaluation mode."""
        blocks = min(BLOCKS, depth_of(encoder))
        return cls(reader(encoder, blocks), blocks, pooling)

    @classmethod
    def part(cls, sliced: Sliced) -> Subject:
        """A sub-network, which needs no memory of its own: it takes its weights from the large one for each batch."""
        blocks = min(BLOCKS, depth_of(sliced.twin))
        module = _Read(sliced.twin.eval(), blocks)

        def read(view: Tensor) -> tuple[list[Tensor], Tensor]:
            tensors = {f"encoder.{name}": tensor for name, tensor in sliced.tensors().items()}
            found: tuple[list[Tensor], Tensor] = torch.func.functional_call(module, tensors, (view,))
            return found

        return cls(read, blocks)


class _Read(nn.Module):
    """What is read of an encoder, as one forward pass."""

    def __init__(self, encoder: nn.Module, blocks: int) -> None:
        super().__init__()
        self.encoder = encoder
        self._read = reader(encoder, blocks)

    def forward(self, view: Tensor) -> tuple[list[Tensor], Tensor]:
        return self._read(view)


def read_shards(
    readers: Sequence[Reader],
    patterns: Sequence[str],
    *,
    modality: str,
    evaluation: Any,
    device: torch.device | str = "cpu",
    autocast: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    limit: int | None = None,
    what: str = "features",
) -> list[FeatureSet]:
    """Labelled features of several encoders in one pass over some shards.

    Args:
        readers: of each encoder, on the device; the rest as for :func:`foundation.probes.road.features_of_shards`.

    Raises:
        UserError: when shards are missing, no sample can be read or none has a label.
    """
    config = evaluation_config(modality, evaluation)
    with loader(patterns, decoder(modality, config), config.build(), batch_size, workers, limit) as batches:
        found = extract_all(
            readers, batches, device=device, autocast=autocast, total=len(batches), limit=limit, what=what
        )
    return [features.labelled() for features in found]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How each size is scored."""

    k: int = 20
    """Neighbours that vote, at most the samples of the training split."""
    tokens: Tokens = "cls"
    """What kNN compares."""
    treatments: tuple[Treatment, ...] = ("as is",)
    """What is done to the features first; of several the best counts."""
    linear: linear.Settings = field(default_factory=linear.Settings)
    """Of the linear probe; its ``blocks`` are those that each size has."""


def scores(
    train: FeatureSet, test: FeatureSet, subject: Subject, settings: Settings, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """Rows of a result file for one subject: kNN, then the linear probe, each under every treatment.

    Args:
        train: its features that are learnt from, classes numbered.
        test: those that are scored.
        subject: what they are of.
        settings: of both probes.
        device: where the probes compute.
    """
    k = min(settings.k, len(train))
    rows: list[dict[str, Any]] = []
    for treatment in settings.treatments:
        known, asked = treated(treatment, train, test, blocks=1, patches=settings.tokens != "cls")
        bank, queries = knn.vectors(known, settings.tokens), knn.vectors(asked, settings.tokens)
        accuracy = knn.classify(knn.search(bank, queries, k, device=device), train.labels, test.labels, [k])[k]
        rows.append({"probe": "knn", "treatment": treatment, "k": k, "n": len(test), "top1": accuracy.top1,
                     "balanced": accuracy.balanced, "interval": accuracy.interval})  # fmt: skip
    own = replace(settings.linear, blocks=tuple(sorted({1, subject.blocks})))
    own = own if subject.pooling else replace(own, pooling=(False,))
    for treatment in settings.treatments:
        result = linear.fit(train, test, replace(own, treatment=treatment), device=device)
        rows.append({"probe": "linear", "treatment": treatment, "head": result.chosen.name, "n": len(test),
                     "top1": result.top1, "balanced": result.balanced, "interval": result.interval})  # fmt: skip
    return rows


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        rows: of each subject, by its name.
        train: features of the last subject, classes numbered.
        test: likewise.
    """

    rows: dict[str, list[dict[str, Any]]]
    train: FeatureSet
    test: FeatureSet


def measure(
    subjects: Mapping[str, Subject], train: Sequence[str], test: Sequence[str], settings: Settings, **where: Any
) -> Measured:
    """Score several encoders on the same samples.

    Args:
        subjects: by name.
        train: patterns of the shards that are learnt from.
        test: of those that are scored.
        settings: of the probes.
        where: as for :func:`read_shards`.

    Raises:
        UserError: as :func:`read_shards`.
    """
    readers = [subject.read for subject in subjects.values()]
    known = read_shards(readers, train, what=f"{len(readers)} encoders: train", **where)
    asked = read_shards(readers, test, what=f"{len(readers)} encoders: test", **where)
    rows: dict[str, list[dict[str, Any]]] = {}
    for place, (name, subject) in enumerate(progress(subjects.items(), len(subjects), "probes", "encoder")):
        here, there = number_classes(known[place], asked[place])
        rows[name] = scores(here, there, subject, settings, where.get("device", "cpu"))
    return Measured(rows, here, there)
