"""Artefacts of patch tokens: norms far above all others, and how well a patch is reconstructed from its own token.

Darcet et al. 2024 ("Vision Transformers Need Registers"): large models use some patch tokens as memory; those have
high norms and tell little of the patch that they stand for. Two measures, neither of which needs a label: the share of
tokens whose norm lies far out, and how well a linear map reconstructs from a token the patch that it stands for (R2).

Letters: S samples, N patch tokens of one, D width, n tokens that are looked at closely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation import counter
from foundation.data.boundary import good_views
from foundation.data.extras.member import Member
from foundation.data.shards import RawSample
from foundation.data.stream import iterate_samples
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import decoder
from foundation.probes.least_squares import accuracy, explained, fit
from foundation.probes.norm_shape import high_places, second_hump
from foundation.probes.road import open_limited
from foundation.voice import plural
from foundation.zoo.load import LoadedEncoder

ROBUST = 1.4826
"""Median distance from the median to standard deviation, of normal numbers."""
DINOV2_CUT = 150.0
"""Norm above which Darcet et al. call a token of DINOv2 an outlier; other models have other scales."""
MOST_TOKENS = 20_000
"""Tokens of the probes, drawn evenly from all samples."""
BINS = 60
FEWEST = 20
"""Tokens of a group that is scored apart, at least."""
_LABELS = "__cells__"


@dataclass(frozen=True, kw_only=True)
class CellLabels(Member):
    """An array of whole numbers in each sample: the class of each patch token of the evaluation view, in their order;
    below 0: none."""

    def read(self, payload: bytes, raw: RawSample) -> NDArray[np.int64]:
        """[N], whatever axes the array has."""
        array = self.array(payload, raw)
        if array.dtype.kind not in "biu":
            raise self.refused(raw, "shape", f"an array of {array.dtype}, where whole numbers belong")
        return array.reshape(-1).astype(np.int64)


@dataclass(frozen=True)
class Look:
    """Patch tokens of some samples.

    Attributes:
        norms: [S, N] float32, NaN for padding.
        layer: what the norms are of: ``block.11`` in front of the last norm, or ``features`` where there are no taps.
        tokens: [n, D] float32 after the final norm.
        rows: [n] int64, sample of each.
        near: [n] float32, norm of each.
        cells: [n, P] float32, numbers that each covers; None where the encoder cannot say.
        labels: [n] int64 class of each; None where none were asked for.
        views: the first few, as the encoder saw them.
        keys: of those.
        attention: [number of those, N] of the class token, mean of heads; None where it cannot be tapped.
        grid: axes of the tokens; empty where they lie on none.
        bad: what was wrong with samples that were left out.
    """

    norms: Tensor
    layer: str
    tokens: Tensor
    rows: Tensor
    near: Tensor
    cells: Tensor | None
    labels: Tensor | None
    views: tuple[Tensor, ...]
    keys: tuple[str, ...]
    attention: Tensor | None
    grid: tuple[int, ...]
    bad: tuple[SampleError, ...] = ()


@dataclass(frozen=True)
class Limit:
    """The rule for outliers: norms above ``median + deviations x robust deviation``.

    Attributes:
        median: of all norms.
        deviation: 1.4826 x the median distance from it.
        deviations: how many.
    """

    median: float
    deviation: float
    deviations: float

    @property
    def norm(self) -> float:
        """Norm above which a token is an outlier."""
        return self.median + self.deviations * self.deviation

    @classmethod
    def of(cls, norms: Tensor, deviations: float) -> Limit:
        """Of norms [S, N]; NaN do not count."""
        known = norms[torch.isfinite(norms)].double()
        median = float(known.median())
        return cls(median, ROBUST * float((known - median).abs().median()), deviations)


@torch.inference_mode()
def look(
    loaded: LoadedEncoder,
    patterns: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    device: Any = "cpu",
    labels: str | None = None,
    shown: int = 6,
) -> Look:
    """Norms of the patch tokens of some samples, and some tokens with what they stand for.

    Args:
        loaded: the encoder, on the device.
        patterns: shards.
        limit: at most so many samples, spread evenly; None: all.
        batch_size: samples per forward pass.
        device: where the encoder runs.
        labels: member of each sample with classes of its cells, see :class:`CellLabels`.
        shown: samples whose views are kept.

    Raises:
        UserError: the encoder has no patch tokens, no sample could be used, or labels are not one for each token.
    """
    encoder: Any = loaded.encoder
    last, seen = f"block.{encoder.depth - 1}", f"attention.{encoder.depth - 1}"
    taps = tuple(name for name in (last, seen) if name in encoder.tap_names())
    shards, decode = open_limited(patterns, limit), decoder(loaded.modality, loaded.evaluation)
    prepare, reader = loaded.evaluation.build(), None if labels is None else CellLabels(member=labels)
    bad: list[SampleError] = []
    found = _Found()

    def read(raw: RawSample) -> dict[str, Any]:
        sample: dict[str, Any] = decode(raw)
        return sample if reader is None else sample | {_LABELS: reader.decode(raw)}

    def encode(samples: list[dict[str, Any]]) -> None:
        view, kept, wrong = good_views(prepare, samples)
        bad.extend(error for _, error in wrong)
        if view is None:
            return
        features = encoder([view.to(device)], taps=taps)[0]
        count = features.patches.shape[1]
        if not count:
            raise UserError(f"{loaded.description} has no patch tokens: there is nothing to look at")
        tokens = features.taps[last][:, -count:] if last in taps else features.patches
        norms = tokens.float().norm(dim=-1)
        if features.valid is not None:
            norms = norms.masked_fill(~features.valid, torch.nan)
        share = min(1.0, MOST_TOKENS / (max(1, int(shards.num_samples)) * count))
        numbers = len(found.rows_seen) + np.arange(len(kept))
        chosen = torch.from_numpy(counter.uniform(0, 0, numbers, "artefacts", count) < share).to(norms.device)
        chosen &= torch.isfinite(norms)
        rows, places = chosen.nonzero(as_tuple=True)
        found.add(norms, features.patches[rows, places], rows + len(found.rows_seen), norms[rows, places])
        if encoder.capabilities.cell_shape is not None:
            found.cells.append(encoder.cells(view.to(device))[rows, places].flatten(1).float().cpu())
        if reader is not None:
            found.labels.append(_labels(kept, count, labels or "")[rows.cpu(), places.cpu()])
        for row in range(min(len(kept), max(0, shown - len(found.views)))):
            found.views.append(view[row].cpu())
            found.keys.append(str(kept[row]["__key__"]))
            if seen in taps:
                found.attention.append(features.taps[seen][row, :, -count:].float().mean(dim=0).cpu())
        found.rows_seen.extend([count] * len(kept))

    batch: list[dict[str, Any]] = []
    for sample in iterate_samples(shards, read, bad):
        batch.append(sample)
        if len(batch) == batch_size:
            encode(batch)
            batch = []
    if batch:
        encode(batch)
    if not found.norms:
        why = f"; the first: {bad[0]}" if bad else ""
        raise UserError(f"no sample could be used{why}")
    grid = _grid(loaded, found.views[0]) if found.views else ()
    return found.done(last if last in taps else "features", grid, tuple(bad))


@dataclass
class _Found:
    """Parts of a :class:`Look` while it is made."""

    norms: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    near: list[Tensor] = field(default_factory=list)
    cells: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    views: list[Tensor] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    rows_seen: list[int] = field(default_factory=list)

    def add(self, norms: Tensor, tokens: Tensor, rows: Tensor, near: Tensor) -> None:
        self.norms.append(norms.cpu())
        self.tokens.append(tokens.float().cpu())
        self.rows.append(rows.cpu())
        self.near.append(near.cpu())

    def done(self, layer: str, grid: tuple[int, ...], bad: tuple[SampleError, ...]) -> Look:
        return Look(
            torch.cat(self.norms), layer, torch.cat(self.tokens), torch.cat(self.rows), torch.cat(self.near),
            torch.cat(self.cells) if self.cells else None, torch.cat(self.labels) if self.labels else None,
            tuple(self.views), tuple(self.keys), torch.stack(self.attention) if self.attention else None, grid, bad,
        )  # fmt: skip


def _labels(samples: Sequence[dict[str, Any]], count: int, member: str) -> Tensor:
    """[B, N] classes of the cells."""
    for sample in samples:
        if len(sample[_LABELS]) != count:
            raise UserError(
                f"{sample['__shard__']}: {sample['__key__']}: member {member} has {len(sample[_LABELS])} numbers, and "
                f"the evaluation view has {count} patch tokens: give one number for each (see --size)"
            )
    return torch.from_numpy(np.stack([sample[_LABELS] for sample in samples]))


def _grid(loaded: LoadedEncoder, view: Tensor) -> tuple[int, ...]:
    if loaded.config.coordinates_of is not None:
        return ()
    places = loaded.config.for_modality(loaded.modality).coordinates(tuple(view.shape[1:]))
    return tuple(int(side) + 1 for side in places.max(axis=0))


def summary(seen: Look, deviations: float, cut: float, first: Limit | None = None) -> dict[str, Any]:
    """Norms in numbers.

    Args:
        seen: tokens of a model.
        deviations: of the rule, see :class:`Limit`.
        cut: fixed norm above which tokens are counted as well.
        first: limit of the model that this one is compared with.

    Returns:
        ``tokens``, ``median``, ``deviation``, ``limit``, ``outliers`` (share), ``above_cut`` (share), with ``first``
        also ``above_first`` (share), ``largest``, ``histogram`` (``edges``, ``counts``), ``second_hump`` (``above``,
        ``share``; None where there is none, see :func:`foundation.probes.norm_shape.second_hump`) and, on a grid,
        ``places`` (share of outliers by cell), ``medians`` (norm by cell) and ``high_places`` (indices along each axis,
        see :func:`foundation.probes.norm_shape.high_places`).
    """
    known = seen.norms[torch.isfinite(seen.norms)]
    rule = Limit.of(seen.norms, deviations)
    out = (seen.norms > rule.norm) & torch.isfinite(seen.norms)
    counts, edges = np.histogram(known.double().numpy(), bins=BINS)
    found: dict[str, Any] = {
        "samples": len(seen.norms), "tokens": int(known.numel()), "layer": seen.layer, "median": rule.median,
        "deviation": rule.deviation, "deviations": deviations, "limit": rule.norm, "largest": float(known.max()),
        "outliers": float(out.sum()) / known.numel(), "cut": cut,
        "above_cut": float((known > cut).double().mean()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "second_hump": None if (hump := second_hump(seen.norms)) is None else asdict(hump),
    }  # fmt: skip
    if first is not None:
        found["above_first"] = float((known > first.norm).double().mean())
    if seen.grid:
        found["places"] = out.double().mean(dim=0).reshape(seen.grid).tolist()
        found["medians"] = seen.norms.double().nanmedian(dim=0).values.reshape(seen.grid).tolist()
        high = np.unravel_index(np.array(high_places(seen.norms, deviations), dtype=np.int64), seen.grid)
        found["high_places"] = np.stack(high, axis=1).tolist()
    return found


def warnings(norms: Mapping[str, Any]) -> list[str]:
    """What speaks for artefacts that the limit does not show, a sentence each.

    Args:
        norms: of :func:`summary`.
    """
    said = []
    high, hump = norms.get("high_places", []), norms["second_hump"]
    missed = [place for place in high if _at(norms["places"], place) < 0.5]
    if missed:
        named = ", ".join(str(tuple(place)) for place in missed[:6]) + (", ..." if len(missed) > 6 else "")
        level = min(_at(norms["medians"], place) for place in missed)
        said.append(
            f"the share of outliers misses tokens: at {plural(len(missed), 'place')} of the grid ({named}, "
            f"counted from 0) the median norm is {level:.2f} or more, against {norms['median']:.2f} of all tokens, "
            "whatever the samples show. That is how artefacts look that keep to their places; see the maps"
        )
    if hump is not None and norms["outliers"] < 0.5 * hump["share"]:
        fits = (hump["above"] - norms["median"]) / norms["deviation"] if norms["deviation"] else 0.0
        said.append(
            f"the share of outliers may mislead: the histogram of norms has a second hump, {100 * hump['share']:.2f} % "
            f"of the tokens above {hump['above']:.2f}, and the limit lies at {norms['limit']:.2f}. Look at the maps, "
            f"and count these tokens with --deviations {fits:.2g}"
        )
    return said


def _at(values: Any, place: Sequence[int]) -> float:
    """One number of a nested list."""
    for index in place:
        values = values[index]
    return float(values)


def readout(train: Look, test: Look, limit: Limit) -> dict[str, Any]:
    """What a linear map reconstructs or classifies from patch tokens of other samples.

    Args:
        train: tokens that the map is fitted on.
        test: tokens that it is scored on; the same for a split of one set: then samples of odd number are scored.
        limit: the rule for outliers.

    Returns:
        ``reconstruction_r2`` (coefficient of determination of the patch under a token, 1 at most; below 0: worse than
        the mean patch) and ``labels`` (``accuracy``, ``mean_iou``), each where it can be had, for ``all`` tokens and
        for ``outliers`` and ``others`` apart where there are at least 20 of them; ``tokens``, how many of
        each there are.
    """
    own = train is test
    learn = train.rows % 2 == 0 if own else torch.ones_like(train.rows, dtype=torch.bool)
    asked = test.rows % 2 == 1 if own else torch.ones_like(test.rows, dtype=torch.bool)
    if not (learn.any() and asked.any()):
        return {}
    out = test.near[asked] > limit.norm
    groups = {"all": torch.ones_like(out), "outliers": out, "others": ~out}
    found: dict[str, Any] = {"tokens": {name: int(chosen.sum()) for name, chosen in groups.items()}}
    groups = {name: chosen for name, chosen in groups.items() if name == "all" or int(chosen.sum()) >= FEWEST}
    if train.cells is not None and test.cells is not None:
        predict = fit(train.tokens[learn], train.cells[learn])
        predicted, wanted = predict(test.tokens[asked]), test.cells[asked].double()
        middle = train.cells[learn].double().mean(dim=0)
        found["reconstruction_r2"] = {
            name: explained(predicted[rows], wanted[rows], middle) for name, rows in groups.items()
        }
    if train.labels is not None and test.labels is not None:
        known, scored = train.labels >= 0, test.labels[asked] >= 0
        classes = int(torch.cat((train.labels, test.labels)).max()) + 1
        if classes < 2 or not (known & learn).any():
            raise UserError("the cells have fewer than two classes: a dense probe needs some to tell apart")
        targets = torch.nn.functional.one_hot(train.labels[known & learn], classes).float()
        said = fit(train.tokens[known & learn], targets)(test.tokens[asked]).argmax(dim=1)
        truth = test.labels[asked]
        found["labels"] = {name: accuracy(said[g & scored], truth[g & scored], classes) for name, g in groups.items()}
    return found
