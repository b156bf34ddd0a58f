"""Samples and what is nearest to them: within one model, between two, or between what two sensors recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from foundation.branches.request import Request
from foundation.data.boundary import decoded
from foundation.data.shards import ShardSet
from foundation.errors import UserError
from foundation.modalities.drawing import Picture
from foundation.modalities.parts import decoder, part
from foundation.modalities.shapes import view_shapes
from foundation.probes import knn
from foundation.probes.knn import Neighbours
from foundation.probes.retrieval import recalls
from foundation.report.looked_at import label_name
from foundation.report.picture_table import Cell, Line, PictureTable, write

NEAREST = 4
"""Neighbours of each sample."""
KEY = (("own", "the sample's own recording"), ("same", "another of its class"), ("other", "of another class"))
"""What the frames of the nearest mean."""


@dataclass(frozen=True)
class Pictured:
    """Samples with an embedding each, and how they are drawn.

    Attributes:
        what: of them is embedded, such as ``imu``, for the titles of columns.
        vectors: [S, D].
        labels: [S] by name, empty for none.
        keys: [S].
        picture: of a sample by its row.
        numbers: [S] int64 of the samples in their data: equal where two sides show the same sample.
        cell: width and height that the modality's pictures are drawn in.
    """

    what: str
    vectors: Tensor
    labels: Sequence[str]
    keys: Sequence[str]
    picture: Callable[[int], Picture]
    numbers: Tensor
    cell: tuple[int, int]


def nearest_table(
    queries: Pictured,
    gallery: Pictured,
    *,
    rows: int = 6,
    near: int = NEAREST,
    keys: Sequence[str] = (),
    about: Sequence[str] = (),
    device: Any = "cpu",
) -> PictureTable:
    """Each row a sample and the nearest of the gallery, by cosine.

    Args:
        queries: from which rows are taken, spread evenly over the labels.
        gallery: among which the nearest are looked for; the queries themselves for neighbours within one set, where no
            sample is its own.
        rows: number of queries.
        near: number of neighbours.
        keys: queries by their keys, in place of ``rows``.
        about: sentences under the title.
        device: where cosines are computed.

    Raises:
        UserError: embeddings of two widths; a key that is not there; nothing to look among.
    """
    if queries.vectors.shape[1] != gallery.vectors.shape[1]:
        raise UserError(
            f"embeddings of {queries.vectors.shape[1]} numbers ({queries.what}) and of {gallery.vectors.shape[1]} "
            f"({gallery.what}) cannot be compared: take models of one width that were trained to match"
        )
    within = queries is gallery
    chosen = [_row_of(key, queries.keys) for key in keys] or _spread(queries.labels, rows)
    near = min(near, len(gallery.vectors) - within)
    if near < 1:
        raise UserError("a single sample has no neighbours")
    extra = min(near + within, len(gallery.vectors))  # within one set the sample itself comes along
    found = knn.search(gallery.vectors, queries.vectors[chosen], extra, device=device)
    titles = _titles(queries.what, gallery.what, near)
    lines = [_line(queries, gallery, row, place, found, near, within) for place, row in enumerate(chosen)]
    kinds = {cell.kind for line in lines for cell in line.cells if cell is not None}
    key = tuple((kind, text) for kind, text in KEY if kind in kinds)
    wide = max(queries.cell[0], gallery.cell[0]), max(queries.cell[1], gallery.cell[1])
    scale = min(190 / wide[0], 190 / wide[1])
    most = round(wide[0] * scale), round(wide[1] * scale)
    return PictureTable("Nearest neighbours", tuple(filter(None, about)), titles, tuple(lines), key, most)


def recall_said(first: Pictured, second: Pictured) -> str:
    """How often the sample's own counterpart is nearest, against chance: whether cosines between two sides mean
    anything."""
    mine = {number: row for row, number in enumerate(second.numbers.tolist())}
    pairs = [(row, mine[number]) for row, number in enumerate(first.numbers.tolist()) if number in mine]
    if len(pairs) < 2:
        return ""
    one, two = first.vectors[[row for row, _ in pairs]], second.vectors[[row for _, row in pairs]]
    found = recalls(one, two).forth
    shares = ", ".join(f"R@{k} {100 * value:.1f} % (chance {100 * k / len(pairs):.1f} %)" for k, value in found.items())
    return f"Of {len(pairs):,} pairs the own one is among the k nearest: {shares}."


def drawn_by(
    recipe: Any, pair: Sequence[Request], draw: Sequence[str] | None = None
) -> tuple[tuple[str, str], tuple[Any, Any]]:
    """Which modalities show the samples of both sides of a pair, and what decodes each.

    Args:
        recipe: flat.
        pair: requests of the two branches.
        draw: two modalities; None: those of the views (a cached teacher has none of its own).
    """
    shapes, own = view_shapes(recipe.views), recipe.decode.build()
    seen_by = [shapes[request.view].modality for request in pair]
    one, other = draw or seen_by
    first, second = (own if modality in seen_by else decoder(modality) for modality in (one, other))
    return (one, other), (first, second)


def draw_nearest(
    out: Path,
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    ids: Tensor,
    modalities: tuple[str, str],
    shards: ShardSet,
    decoders: tuple[Any, Any],
    rows: int = 6,
) -> None:
    """Write each row a sample, as the first modality draws it, and the nearest ones as the second draws them.

    Args:
        out: PNG or HTML file to write.
        first: [S, D] embeddings of the queries.
        second: [S, D] of the gallery, row by row of the same samples.
        labels: [S] int64, -1 for none.
        ids: [S] int64, numbers in ``shards``.
        modalities: of queries and gallery.
        shards: that hold the samples.
        decoders: raw sample -> sample with the one modality, and with the other.
        rows: samples, spread evenly over the classes.

    Raises:
        UserError: the file cannot be written.
    """
    sides = paired(first, second, labels, ids, modalities, shards, decoders)
    write(nearest_table(*sides, rows=rows, about=(recall_said(*sides),)), out)


def paired(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    ids: Tensor,
    modalities: tuple[str, str],
    shards: ShardSet,
    decoders: tuple[Any, Any],
) -> tuple[Pictured, Pictured]:
    """Both sides of the same samples; arguments as of :func:`draw_nearest`."""
    names = [label_name(label, None, shards.classes) for label in labels.tolist()]
    keys = [str(shards.read(*shards.locate(number), ())["__key__"]) for number in ids.tolist()]

    def side(what: str, vectors: Tensor, decode: Any) -> Pictured:
        drawing = part(what, "picture")

        def picture(row: int) -> Picture:
            raw = shards.read(*shards.locate(int(ids[row])))
            return np.asarray(drawing.of_sample(decoded(decode, raw)), np.uint8)

        return Pictured(what, vectors, names, keys, picture, ids, drawing.CELL)

    return side(modalities[0], first, decoders[0]), side(modalities[1], second, decoders[1])


def _line(
    queries: Pictured, gallery: Pictured, row: int, place: int, found: Neighbours, near: int, within: bool
) -> Line:
    label = queries.labels[row]
    cells = [Cell(queries.picture(row), _short(label))]
    for other, cosine in zip(found.indices[place].tolist(), found.similarities[place].tolist(), strict=True):
        if len(cells) > near or (within and other == row):
            continue
        own = not within and int(queries.numbers[row]) == int(gallery.numbers[other])
        known = bool(label and gallery.labels[other])
        kind = "own" if own else "" if not known else "same" if gallery.labels[other] == label else "other"
        cells.append(Cell(gallery.picture(other), f"{cosine:.2f} {_short(gallery.labels[other])}".strip(), kind))
    return Line(tuple(cells), queries.keys[row])


def _titles(query: str, gallery: str, near: int) -> tuple[str, ...]:
    said: Mapping[bool, str] = {True: "", False: f" ({gallery})"}
    first = "sample" if query == gallery else f"sample ({query})"
    return (first, *(f"nearest {number + 1}{said[query == gallery]}" for number in range(near)))


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"


def _row_of(key: str, keys: Sequence[str]) -> int:
    if key not in keys:
        raise UserError(f"no sample has the key {key!r}; the first is {keys[0]!r}")
    return list(keys).index(key)


def _spread(labels: Sequence[str], rows: int) -> list[int]:
    """So many samples: each of another class where there are as many, else spread evenly."""
    first: dict[str, int] = {}
    for row, label in enumerate(labels):
        first.setdefault(label, row)
    if len(first) >= rows:
        known = sorted(first)
        return [first[known[number * (len(known) - 1) // max(rows - 1, 1)]] for number in range(rows)]
    return [number * len(labels) // min(rows, len(labels)) for number in range(min(rows, len(labels)))]
