"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, as in DINO and DINOv2).

Each of the k most similar samples of the bank votes for its label with weight exp(cosine / temperature). DINO sums the
weights; DINOv2 divides them by their sum over the largest k first. Both name the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.probes.features import TOKENS, FeatureSet, Tokens
from foundation.probes.neighbours import Neighbours, search
from foundation.probes.scores import score
from foundation.probes.treatments import TREATMENTS, Treatment, treated
from foundation.ranges import Count, Range, Side, Workers, check
from foundation.schedules import Duration
from foundation.voice import plural

DEFAULT_K = (10, 20, 100, 200)
TEMPERATURE = 0.07
NO_TOP5 = 5
"""With so many classes or fewer nearly every sample has its class among the best five."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """kNN accuracy of the teacher while it trains."""

    every: Annotated[Duration, Range(0, 1e9, above=True)] = Duration(1, "epochs")
    """Distance between two measurements; one more is made at the end of the run."""
    train: tuple[str, ...]
    """Labelled shards that vote."""
    test: tuple[str, ...] = ()
    """Labelled shards to classify; empty: each sample of ``train`` by all others (leave one out)."""
    k: Count = 20
    """Neighbours that vote."""
    tokens: Tokens = "cls"
    """``cls``: class token; ``patches``: mean of the patch tokens, for encoders whose class token no loss trains;
    ``both``: side by side, each of length 1."""
    treatment: Treatment = "as is"
    """What is done to the features first, fitted on ``train``: nothing, ``standardised`` or PCA-``whitened``."""
    limit: Count | None = None
    """At most so many samples of each split, spread evenly over its shards; None: all."""
    batch_size: Side = 256
    """Samples per forward pass."""
    workers: Workers = 0
    """Loader processes; 0 reads in the training process, which leaves the training loader's processes alone."""

    def __post_init__(self) -> None:
        if not self.train:
            raise UserError("probes: knn.train is empty: name the labelled shards that vote")
        if self.tokens not in TOKENS:
            raise UserError(f"probes: knn.tokens must be one of {', '.join(TOKENS)}, got {self.tokens!r}")
        if self.treatment not in TREATMENTS:
            raise UserError(f"probes: knn.treatment must be one of {', '.join(TREATMENTS)}, got {self.treatment!r}")
        check(self, "knn")

    def build(self) -> Config:
        """The probe is its settings: nothing has to be made."""
        return self

    def look_ahead(self, *, modality: str, evaluation: Any) -> list[str]:
        """See :class:`foundation.run.probing.LooksAhead`."""
        from foundation.probes.beforehand import check_labels

        splits = (("knn: training", self.train), ("knn: test", self.test))
        return check_labels(splits, modality=modality, evaluation=evaluation, limit=self.limit, least=1)

    def measure(
        self,
        encoder: nn.Module,
        *,
        modality: str,
        evaluation: Any,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> dict[str, float]:
        """Measure an encoder in the middle of training.

        Args:
            encoder: frozen for the time of the call, then back in its mode.
            modality: folder name in ``foundation/modalities``.
            evaluation: that modality's ``EvaluationConfig``.
            device: where the encoder runs.
            autocast: run it in bfloat16.

        Returns:
            ``probe/knn_top1``, ``probe/knn_balanced`` and, for more than five classes, ``probe/knn_top5``, in [0, 1].

        Raises:
            UserError: when shards are missing or hold no labels.
        """
        from foundation.probes.labels import number_classes
        from foundation.probes.road import labelled_features

        where = {"modality": modality, "evaluation": evaluation, "device": device, "autocast": autocast}
        bank = labelled_features(self, encoder, self.train, "knn: bank", **where)
        queries = labelled_features(self, encoder, self.test, "knn: queries", **where) if self.test else bank
        bank, queries = number_classes(bank, queries)
        alone = not self.test
        k = min(self.k, len(bank) - alone)
        bank, queries = treated(self.treatment, bank, queries, blocks=1, patches=self.tokens != "cls")
        near = search(vectors(bank, self.tokens), vectors(queries, self.tokens), k, leave_one_out=alone, device=device)
        result = classify(near, bank.labels, queries.labels, [k])[k]
        values = {"probe/knn_top1": result.top1, "probe/knn_balanced": result.balanced}
        return values if result.top5 is None else values | {"probe/knn_top5": result.top5}


@dataclass(frozen=True)
class Accuracy:
    """kNN result of one k.

    Attributes:
        k: neighbours.
        top1: share of queries whose label wins, in [0, 1].
        balanced: mean over classes of the share of their queries that is right.
        top5: share of queries whose label is among the min(5, k) best classes; None for five classes or fewer, of
            which it says nothing.
        interval: 95 % interval of ``top1``; None where all test samples belong together.
        predictions: [Q] int64.
        correct: [Q] bool.
    """

    k: int
    top1: float
    balanced: float
    top5: float | None
    interval: tuple[float, float] | None
    predictions: Tensor
    correct: Tensor


def vectors(features: FeatureSet, tokens: Tokens) -> Tensor:
    """[S, D], or [S, 2 D] for both: what is compared, each part of length 1 so that both count alike."""
    return torch.cat([nn.functional.normalize(part, dim=1) for part in features.tokens(tokens)], dim=1)


def vote(similarities: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float = TEMPERATURE) -> Tensor:
    """Summed weights of the first k neighbours, as DINO counts them.

    Args:
        similarities: [Q, at least k] cosine, nearest first.
        labels: [Q, at least k] int64 labels of those neighbours.
        num_classes: number of classes C.
        k: neighbours that vote.
        temperature: divides the cosine.

    Returns:
        [Q, C] float32.
    """
    weights = (similarities[:, :k] / temperature).exp()
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels[:, :k], weights)


def choose_k(wanted: Sequence[int] | None, available: int) -> tuple[tuple[int, ...], str | None]:
    """The k list for a bank of a size.

    Args:
        wanted: asked for by the user, or None for the default list cut to what the bank holds.
        available: samples that can be neighbours.

    Returns:
        Ascending list and a note to show, if the default was cut.

    Raises:
        UserError: when the user asked for more neighbours than there are, or the bank is empty.
    """
    if available < 1:
        raise UserError("the bank is empty: there is nothing to be a neighbour of")
    if wanted is not None:
        wrong = [k for k in wanted if not 1 <= k <= available]
        if wrong or not wanted:
            raise UserError(
                f"k must lie between 1 and the {plural(available, 'sample')} of the bank, got {wrong or 'nothing'}"
            )
        return tuple(sorted(set(wanted))), None
    kept = tuple(k for k in DEFAULT_K if k <= available) or (available,)
    if len(kept) == len(DEFAULT_K):
        return kept, None
    return kept, f"the bank holds {plural(available, 'sample')}: k cut from {list(DEFAULT_K)} to {list(kept)}"


def classify(
    neighbours: Neighbours,
    bank_labels: Tensor,
    labels: Tensor,
    ks: Sequence[int],
    *,
    temperature: float = TEMPERATURE,
    num_classes: int | None = None,
    groups: Tensor | None = None,
    block: int = 4096,
) -> dict[int, Accuracy]:
    """Accuracy for each k from one search.

    Args:
        neighbours: at least max(ks) of them.
        bank_labels: [S] int64.
        labels: [Q] int64, the truth.
        ks: numbers of neighbours.
        temperature: of the weights.
        num_classes: C; None: the largest label plus one.
        groups: [Q] int64, queries that belong together, for the interval; empty or None: each by itself.
        block: queries voted at once.
    """
    count = int(max(bank_labels.max(), labels.max())) + 1 if num_classes is None else num_classes
    found = {}
    for k in sorted(ks):
        first, fifth = [], []
        for start in range(0, len(labels), block):
            part = slice(start, start + block)
            near = bank_labels[neighbours.indices[part, :k]]
            scores = vote(neighbours.similarities[part], near, count, k, temperature)
            # Stable: the lower label wins a tie. Classes without votes fill the five guesses, as in DINO.
            ranks = scores.sort(dim=1, descending=True, stable=True).indices[:, : min(5, k)]
            first.append(ranks[:, 0])
            fifth.append((ranks == labels[part, None]).any(dim=1))
        predictions = torch.cat(first)
        scored = score(predictions, labels, groups)
        found[k] = Accuracy(
            k=k,
            top1=scored.top1,
            balanced=scored.balanced,
            top5=float(torch.cat(fifth).float().mean()) if count > NO_TOP5 else None,
            interval=scored.interval,
            predictions=predictions,
            correct=predictions == labels,
        )
    return found


def few_shot(labels: Tensor, per_class: int, seed: int = 0) -> Tensor:
    """Rows of a bank with at most ``per_class`` samples of each class, drawn as DINOv2 draws them.

    Args:
        labels: [S] int64.
        per_class: samples of each class.
        seed: of the draw (DINOv2's number of the try).

    Returns:
        [C x per_class] int64, by class.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in labels.unique(sorted=True):
        members = (labels == label).nonzero().flatten()
        rows.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(rows)
