"""One page about the artefacts of a model, or of two: norms of patch tokens, where outliers lie, and some samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.modalities.drawing import Picture, heat_rgb, photo, png, resize
from foundation.modalities.parts import part
from foundation.printable import escape
from foundation.probes.artefacts import FEWEST, Look, warnings
from foundation.report import parts
from foundation.report.figures import Series, line_chart
from foundation.report.images import options_of, unit_range
from foundation.report.pictures import show
from foundation.report.template import PAGE, STYLE
from foundation.zoo.load import LoadedEncoder

CELL, GAP = 96, 3
"""Pixels of a picture on the sheet, and white around it."""
HEADING = 16
"""Pixels of the line with the titles of the columns."""
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

    def group_value(model: Shown, what: str, group: str, form: Callable[[float], str], key: str = "") -> str:
        """A score of a group of tokens; empty where the score was not asked for."""
        if what not in model.readout:
            return ""
        value = model.readout[what].get(group)
        return "too few" if value is None else form(value[key] if key else value)

    deviations, cut = models[0].norms["deviations"], models[0].norms["cut"]
    lines: list[tuple[str, list[str]]] = [
        ("median norm", [f"{model.norms['median']:.2f}" for model in models]),
        ("largest norm", [f"{model.norms['largest']:.2f}" for model in models]),
        (f"limit: median + {deviations:g} robust deviations", [f"{model.norms['limit']:.2f}" for model in models]),
        ("outliers: tokens above it", [share(model.norms["outliers"]) for model in models]),
    ]
    if len(models) > 1:
        above = [share(m.norms.get("above_first", m.norms["outliers"])) for m in models]
        lines.append((f"tokens above the limit of {models[0].role!r}", above))
    lines.append((f"tokens above {cut:g}", [share(model.norms["above_cut"]) for model in models]))
    for group, said in (("all", "all tokens"), ("outliers", "outliers alone"), ("others", "other tokens")):
        values = [group_value(model, "reconstruction_r2", group, "{:.3f}".format) for model in models]
        lines.append((f"linear reconstruction R2 of the patch, {said}", values))
    for group, said in (("all", "all tokens"), ("outliers", "outliers alone"), ("others", "other tokens")):
        for key, called in (("accuracy", "accuracy"), ("mean_iou", "mean IoU")):
            values = [group_value(model, "labels", group, share, key) for model in models]
            lines.append((f"dense probe, {called}, {said}", values))
    return [(title, *values) for title, values in lines if any(values)]


def render(models: Sequence[Shown]) -> str:
    """The page, without scripts or requests."""
    head = ("", *(model.role for model in models))
    table = parts.table(head, rows(models), "figures", numbers=range(1, len(head)))
    lead = (
        f"Norms of patch tokens {_layer(models[0].look.layer)}. Robust deviation: 1.4826 times the median distance "
        "from the median. Linear reconstruction R2: how well a linear map reconstructs the patch that a token stands "
        "for (1: wholly; 0: no better than the mean patch; below 0: worse, which outliers can be as the map is fitted "
        f"on all tokens). Too few: fewer than {FEWEST} tokens in what is scored."
    )
    said = [f"{model.role}: {line}." for model in models for line in warnings(model.norms)]
    note = f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in said)}</ul>' if said else ""
    body = [
        f"<header><h1>Artefacts of patch tokens</h1>{''.join(_named(model) for model in models)}</header>",
        parts.section("Figures", lead, f'{note}<div class="card">{table}</div>'),
        parts.section("Norms", "Histogram of the norms; dashed: the limit for outliers.", _histogram(models)),
        _places(models, "medians", "Median norm", "Median norm at each place of the grid, over the samples."),
        _places(
            models, "places", "Places of outliers", "Share of samples that have an outlier at a place of the grid."
        ),
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
    for model in models:
        limit, highest = model.norms["limit"], math.log10(max(model.norms["histogram"]["counts"]))
        lines.append(Series(f"limit, {model.role}", [limit, limit], [0.0, highest], dashed=True))
    across, up = "norm of a patch token", "log10 of the number of tokens (3: 1,000)"
    return f'<div class="card">{line_chart(lines, x_label=across, y_label=up)}</div>'


def _places(models: Sequence[Shown], what: str, title: str, lead: str) -> str:
    """A map of the grid: the median norms, or where outliers lie; nothing where no model has any."""
    if any(what not in model.norms for model in models) or not any(np.nanmax(m.norms[what]) > 0 for m in models):
        return ""
    figures = []
    for model in models:
        values = np.asarray(model.norms[what])
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        shown = (0.0, max(high, 1e-9)) if what == "places" else (low, max(high, low + 1e-9))
        picture = png(heat_rgb(_flat(values, model.look.grid), *shown))
        said = (
            f"{model.role}: at most {100 * high:.1f} %"
            if what == "places"
            else f"{model.role}: {low:.2f} to {high:.2f}"
        )
        figures.append(
            f"<figure>{parts.picture(picture, said, 'pixels')}<figcaption>{escape(said)}</figcaption></figure>"
        )
    maps = f'<div class="card maps" style="--columns:{max(4, len(models))}">{"".join(figures)}</div>'
    return parts.section(title, lead, maps)


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
    """The samples and maps of the page as one picture: titles of the columns, and a row for each sample.

    Raises:
        UserError: the modality cannot be drawn.
    """
    lines = _lines(models)
    if not lines:
        raise UserError(f"samples of {models[0].loaded.modality} cannot be drawn: there is no picture of them")
    rows: list[Picture] = []
    widths: list[int] = []
    for line in lines:
        cells = [resize(picture, CELL, max(1, CELL * picture.shape[1] // picture.shape[0]), False) for picture in line]
        widths = widths or [cell.shape[1] + 2 * GAP for cell in cells]
        rows.append(
            np.concatenate([np.pad(cell, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255) for cell in cells], 1)
        )
    return np.concatenate([_heading(_titles(models), widths), *rows])


def _heading(titles: Sequence[str], widths: Sequence[int]) -> Picture:
    """Titles of columns of these widths in pixels."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (sum(widths), HEADING), "white")
    for title, left in zip(titles, accumulate(widths, initial=0), strict=False):
        ImageDraw.Draw(strip).text((left + GAP, 2), title, fill="black")
    return np.asarray(strip)


def _titles(models: Sequence[Shown]) -> list[str]:
    titles = ["sample"]
    for model in models:
        of = f" {model.role}" if len(models) > 1 else ""
        titles += [f"norms{of}"] + [f"attention{of}"] * (model.look.attention is not None)
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
    return float(known.min()), max(
        float(np.percentile(known, BRIGHT)), min(float(known.max()), float(model.norms["limit"]))
    )


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
