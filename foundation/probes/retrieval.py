"""Retrieval across views: of all samples' second views, is the sample's own the one most like its first?

Recall at k (R@k) both ways, as for pictures and their captions (Frome et al. 2013): the share of queries whose own
counterpart is among the k items of largest cosine. Views may be of two sensors, and branches of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foundation.branches.base import Branch
from foundation.branches.request import Request
from foundation.data.boundary import decoded, good_views
from foundation.data.shards import RawSample
from foundation.errors import SampleError, UserError
from foundation.probes.features import check_finite
from foundation.types import Batch, ViewShape
from foundation.types import View as BatchView

KS = (1, 5, 10)
"""Ranks that are reported."""

_QUERIES = 1024  # rows that are compared with all others at once


@dataclass(frozen=True)
class Recalls:
    """Of S pairs.

    Attributes:
        forth: R@k of the first views among the second ones, in [0, 1], by k.
        back: of the second among the first.
        class_forth: share of first views whose nearest second view is of a sample of its class, in [0, 1]; None where
            samples have no labels.
        class_back: the other way round.
        samples: S.
        ranks_forth: [S] int64, for each first view the place of its own second view among all, from 1; items as like as
            the own one count as before it.
        ranks_back: the other way round.
    """

    forth: Mapping[int, float]
    back: Mapping[int, float]
    class_forth: float | None
    class_back: float | None
    samples: int
    ranks_forth: Tensor
    ranks_back: Tensor


@dataclass(frozen=True)
class Embedded:
    """Embeddings of samples.

    Attributes:
        rows: [S, D] float32 on the CPU for each request.
        labels: [S] int64, -1 for none.
        ids: [S] int64, number of each sample in the shards.
        keys: [S] of the samples.
    """

    rows: tuple[Tensor, ...]
    labels: Tensor
    ids: Tensor
    keys: tuple[str, ...]


def recalls(first: Tensor, second: Tensor, labels: Tensor | None = None, ks: Sequence[int] = KS) -> Recalls:
    """R@k of pairs.

    Args:
        first: [S, D], row by row the counterpart of ``second``.
        second: [S, D].
        labels: [S] int64, -1 for none.
        ks: numbers of items that are looked at; those above S are left out.

    Raises:
        UserError: embeddings that are not finite or of two widths, or fewer than two pairs.
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"retrieval: embeddings of {first.shape[1]} and {second.shape[1]} numbers cannot be compared: name heads "
            "that give as many"
        )
    if len(first) < 2:
        raise UserError(f"retrieval: {len(first)} pairs: at least two are needed")
    for part, what in ((first, "query"), (second, "gallery")):
        check_finite(part, what)
    known = labels is not None and bool((labels >= 0).all())
    one, two = (nn.functional.normalize(part.float(), dim=1) for part in (first, second))
    forth, class_forth = _one_way(one, two, labels if known else None)
    back, class_back = _one_way(two, one, labels if known else None)
    shares = [{k: float((ranks <= k).float().mean()) for k in ks if k <= len(first)} for ranks in (forth, back)]
    return Recalls(shares[0], shares[1], class_forth, class_back, len(first), forth, back)


def _one_way(queries: Tensor, gallery: Tensor, labels: Tensor | None) -> tuple[Tensor, float | None]:
    """Ranks [S] of the own items, and the share of queries whose nearest is of their class."""
    ranks, right = [], []
    for start in range(0, len(queries), _QUERIES):
        cosine = queries[start : start + _QUERIES] @ gallery.T
        rows = torch.arange(start, start + len(cosine))
        own = cosine.gather(1, rows[:, None])
        # Items as like as the own one count as before it: an encoder that gives all the same finds nothing.
        ranks.append((cosine >= own).sum(dim=1))
        if labels is not None:
            right.append(labels[cosine.argmax(dim=1)] == labels[rows])
    return torch.cat(ranks), float(torch.cat(right).float().mean()) if right else None


def embeddings(branches: Mapping[str, Branch], requests: Sequence[Request], batches: Iterable[Batch]) -> Embedded:
    """What branches answer, in evaluation mode.

    Args:
        branches: by name; they go back to the mode they were in.
        requests: [rows, D] each.
        batches: one view of each sample by each name.

    Raises:
        UserError: there is no batch.
    """
    modes = {module: module.training for branch in branches.values() for module in branch.modules()}
    parts: list[list[Tensor]] = [[] for _ in requests]
    labels, ids = [], []
    keys: list[str] = []
    try:
        for branch in branches.values():
            branch.eval()
        with torch.inference_mode():
            for batch in batches:
                outputs: dict[Request, Tensor] = {}
                for part, request in zip(parts, requests, strict=True):
                    _answer(branches, request, batch, outputs)
                    part.append(outputs[request].float().cpu())
                labels.append(batch.labels.cpu())
                ids.append(batch.index.cpu())
                keys += batch.keys
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not labels:
        raise UserError("retrieval: no sample could be read")
    return Embedded(tuple(torch.cat(part).clone() for part in parts), torch.cat(labels), torch.cat(ids), tuple(keys))


def _answer(branches: Mapping[str, Branch], request: Request, batch: Batch, outputs: dict[Request, Tensor]) -> None:
    if request in outputs:
        return
    branch = branches[request.branch]
    for needed in branch.needs([request]):
        _answer(branches, needed, batch, outputs)
    outputs |= branch(batch, [request], outputs)


def view_batches(
    raws: Iterable[RawSample],
    decode: Callable[[RawSample], Any],
    shapes: Mapping[str, ViewShape],
    extras: Mapping[str, Any],
    batch_size: int,
    device: torch.device | str = "cpu",
    bad: list[SampleError] | None = None,
) -> Iterator[Batch]:
    """Batches that hold the evaluation view of every modality under the names of training views.

    Args:
        raws: samples, in the order of the batches.
        decode: raw sample -> sample, with all modalities that the views show.
        shapes: of the views that are wanted, by name; each has its modality's ``EvaluationConfig``.
        extras: further members that branches read, by name.
        batch_size: samples of a batch, at most.
        device: where the batches shall lie.
        bad: gets what was wrong with each sample that was left out.
    """
    makers = {name: shape.evaluation.build() for name, shape in shapes.items()}

    def views(samples: Sequence[Any]) -> Any:
        return {name: maker(samples) for name, maker in makers.items()}

    held: list[Any] = []

    def batch() -> Batch:
        data, samples, wrong = good_views(views, held)
        if bad is not None:
            bad.extend(error for _, error in wrong)
        ids, nothing = torch.arange(len(samples)), torch.zeros(0)
        labels = [sample.get("label") for sample in samples]
        return Batch(
            views={
                name: BatchView(data[name].to(device), shapes[name].modality, name, 1, ids.to(device), nothing)
                for name in makers
            } if data is not None else {},
            masks={},
            keys=tuple(sample["__key__"] for sample in samples),
            labels=torch.tensor([label if isinstance(label, int) else -1 for label in labels], dtype=torch.int64),
            position=0,
            size=len(samples),
            index=torch.tensor([int(sample["__id__"]) for sample in samples], dtype=torch.int64),
            extras={n: _on(e.collate([s["__extras__"][n] for s in samples]), device) for n, e in extras.items()},
        )  # fmt: skip

    for raw in raws:
        try:
            sample = decoded(decode, raw)
            sample["__extras__"] = {name: extra.decode(raw) for name, extra in extras.items()}
        except SampleError as error:
            if bad is not None:
                bad.append(error)
            continue
        held.append(sample)
        if len(held) == batch_size:
            if len((made := batch()).keys):
                yield made
            held.clear()
    if held and len((made := batch()).keys):
        yield made


def _on(value: Any, device: torch.device | str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
