"""One page about the artefacts of a model, or of two: norms of patch tokens, where outliers lie, and some samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.modalities.drawing import Picture, heat_rgb, photo, png, resize
from foundation.modalities.parts import part
from foundation.printable import escape
from foundation.probes.artefacts import Look
from foundation.report import parts
from foundation.report.figures import Series, line_chart
from foundation.report.images import options_of, unit_range
from foundation.report.pictures import show
from foundation.report.template import PAGE, STYLE
from foundation.zoo.load import LoadedEncoder

CELL, GAP = 96, 3
"""Pixels of a picture on the sheet, and white around it."""
BRIGHT = 99.0
"""Percentile of the norms that is shown brightest, unless outliers lie above it: those are."""


@dataclass(frozen=True)
class Shown:
    """A model on the page.

    Attributes:
        role: ``before`` or ``after``; ``model`` where there is one.
        loaded: the encoder.
        look: its tokens.
        norms: of :func:`foundation.probes.artefacts.summary`.
        readout: of :func:`foundation.probes.artefacts.readout`.
    """

    role: str
    loaded: LoadedEncoder
    look: Look
    norms: Mapping[str, Any]
    readout: Mapping[str, Any]


def rows(models: Sequence[Shown]) -> list[tuple[str, ...]]:
    """A table of the figures: what it is, and each model's."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f} %"

    def of(model: Shown, *keys: str) -> float | None:
        value: Any = model.readout
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    deviations, cut = models[0].norms["deviations"], models[0].norms["cut"]
    lines: list[tuple[str, list[str]]] = [
        ("median norm", [f"{model.norms['median']:.2f}" for model in models]),
        ("largest norm", [f"{model.norms['largest']:.2f}" for model in models]),
        (f"limit: median + {deviations:g} robust deviations", [f"{model.norms['limit']:.2f}" for model in models]),
        ("outliers: tokens above it", [share(model.norms["outliers"]) for model in models]),
        (
            "tokens above the first model's limit",
            [share(m.norms.get("above_first", m.norms["outliers"])) for m in models],
        ),
        (f"tokens above {cut:g}", [share(model.norms["above_cut"]) for model in models]),
    ]
    for group, said in (("all", "all tokens"), ("outliers", "outliers"), ("others", "other tokens")):
        lines.append((f"numbers of the cell told, {said}", [share(of(model, "cells", group)) for model in models]))
    for group, said in (("all", "all tokens"), ("outliers", "outliers"), ("others", "other tokens")):
        for key, called in (("accuracy", "accuracy"), ("mean_iou", "mean IoU")):
            values = [share(of(model, "labels", group, key)) for model in models]
            lines.append((f"dense probe, {called}, {said}", values))
    return [(title, *values) for title, values in lines if any(values)]


def render(models: Sequence[Shown]) -> str:
    """The page, without scripts or requests."""
    head = ("", *(model.role for model in models))
    table = parts.table(head, rows(models), "figures", numbers=range(1, len(head)))
    lead = (
        f"Norms of patch tokens {_layer(models[0].look.layer)}. Robust deviation: 1.4826 times the median distance "
        "from the median. Numbers of the cell: share of the variance of what a token covers that a linear map tells "
        "from it."
    )
    body = [
        f"<header><h1>Artefacts of patch tokens</h1>{''.join(_named(model) for model in models)}</header>",
        parts.section("Figures", lead, f'<div class="card">{table}</div>'),
        parts.section("Norms", "Tokens by norm; the vertical axis is logarithmic.", _histogram(models)),
        _places(models),
        _samples(models),
    ]
    return PAGE.format(title="artefacts · foundation", style=STYLE, body="\n".join(part for part in body if part))


def _layer(name: str) -> str:
    return "as the encoder gives them" if name == "features" else "behind the last block, in front of the last norm"


def _named(model: Shown) -> str:
    return f"<p>{escape(model.role)}: {parts.name(model.loaded.description)}</p>"


def _histogram(models: Sequence[Shown]) -> str:
    lines = []
    for model in models:
        edges, counts = model.norms["histogram"]["edges"], model.norms["histogram"]["counts"]
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        lines.append(Series(model.role, middles, [math.log10(count) if count else None for count in counts], dots=True))
    return f'<div class="card">{line_chart(lines, x_label="norm", y_label="log10 of tokens")}</div>'


def _places(models: Sequence[Shown]) -> str:
    """Where outliers lie in the grid."""
    figures = []
    for model in models:
        if not model.look.grid or "places" not in model.norms:
            return ""
        share = np.asarray(model.norms["places"])
        picture = png(heat_rgb(_flat(share, model.look.grid), 0.0, max(float(share.max()), 1e-9)))
        said = f"{model.role}: at most {100 * float(share.max()):.1f} % in one cell"
        figures.append(
            f"<figure>{parts.picture(picture, said, 'pixels')}<figcaption>{escape(said)}</figcaption></figure>"
        )
    maps = f'<div class="card maps" style="--columns:{max(4, len(models))}">{"".join(figures)}</div>'
    return parts.section("Places", "Share of samples that have an outlier in a cell.", maps)


def _samples(models: Sequence[Shown]) -> str:
    """Each sample, and for each model the norms of its tokens and the attention of the class token."""
    titles = _titles(models)
    lines = _lines(models)
    if not lines:
        return ""
    figures = [f'<div class="head">{escape(title)}</div>' for title in titles]
    for key, line in zip(models[0].look.keys, lines, strict=True):
        figures += [
            f"<figure>{parts.picture(photo(picture), f'{title} of {key}', 'pixels')}</figure>"
            for title, picture in zip(titles, line, strict=True)
        ]
    maps = f'<div class="maps" style="--columns:{len(titles)}">{"".join(figures)}</div>'
    lead = "Dark is low, bright is high; norms of one model on one scale."
    return parts.section("Samples", lead, parts.scroll(maps, "maps"))


def sheet(models: Sequence[Shown]) -> Picture:
    """The samples and maps of the page as one picture, a row for each sample.

    Raises:
        UserError: the modality cannot be drawn.
    """
    lines = _lines(models)
    if not lines:
        raise UserError(f"samples of {models[0].loaded.modality} cannot be drawn: there is no picture of them")
    rows = []
    for line in lines:
        cells = [resize(picture, CELL, max(1, CELL * picture.shape[1] // picture.shape[0]), False) for picture in line]
        rows.append(
            np.concatenate([np.pad(cell, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255) for cell in cells], 1)
        )
    return np.concatenate(rows)


def _titles(models: Sequence[Shown]) -> list[str]:
    titles = ["sample"]
    for model in models:
        titles += [f"norms {model.role}"] + [f"attention {model.role}"] * (model.look.attention is not None)
    return titles


def _lines(models: Sequence[Shown]) -> list[list[Picture]]:
    """Pictures of each sample; none where the modality cannot be drawn."""
    lines = []
    for row in range(len(models[0].look.keys)):
        first = models[0]
        line = [show(first.look.views[row], first.loaded.modality, first.loaded.evaluation)]
        for model in models:
            line.append(_map(model, row, model.look.norms[row].numpy(), _range(model)))
            if model.look.attention is not None:
                line.append(_map(model, row, model.look.attention[row].numpy(), None))
        drawn = [picture for picture in line if picture is not None]
        if len(drawn) < len(line):
            return []
        lines.append(drawn)
    return lines


def _range(model: Shown) -> tuple[float, float]:
    known = model.look.norms[torch.isfinite(model.look.norms)].double().numpy()
    return float(known.min()), max(float(np.percentile(known, BRIGHT)), float(model.norms["limit"]))


def _map(model: Shown, row: int, values: NDArray[np.floating], limits: tuple[float, float] | None) -> Picture | None:
    """A map of numbers of the tokens of one sample."""
    if limits is None:
        scaled = unit_range(values, 0, 99.5)
    else:
        scaled = np.clip((values - limits[0]) / max(limits[1] - limits[0], 1e-12), 0, 1)
    if model.look.grid:
        return heat_rgb(_flat(scaled, model.look.grid), 0.0, 1.0)
    try:
        drawing = part(model.loaded.modality, "picture")
    except UserError:
        return None
    view = model.look.views[row]
    upright = {key: value for key, value in options_of(model.loaded.evaluation).items() if key == "up"}
    places = model.loaded.config.coordinates_of(view[None])[0]
    return np.asarray(drawing.overlay(view, scaled, places, **upright), dtype=np.uint8)


def _flat(values: NDArray[np.floating], grid: tuple[int, ...]) -> NDArray[np.floating]:
    """A map of any number of axes as rows and columns: the first axes side by side (frames of a clip)."""
    if len(grid) < 2:
        return np.asarray(values).reshape(1, -1)
    framed = np.asarray(values).reshape(-1, *grid[-2:])
    return np.concatenate([*framed], axis=1)
