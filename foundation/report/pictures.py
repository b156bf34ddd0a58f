"""What the encoder sees in sample data: attention of the class token, principal components of patches, neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.counter import Draws
from foundation.data.shards import open_shards
from foundation.errors import UserError
from foundation.modalities.drawing import photo, png
from foundation.modalities.parts import decoder, part
from foundation.parallel.threads import default_workers
from foundation.probes import knn
from foundation.probes.features import FeatureSet, depth_of
from foundation.probes.labels import class_names, number_classes
from foundation.probes.road import features_of_shards, loader
from foundation.report.images import options_of, unit_range
from foundation.report.token_maps import by_token
from foundation.run.model_recipe import recipe_of
from foundation.types import Features
from foundation.zoo.load import LoadedEncoder

MOST_HEADS = 6


@dataclass(frozen=True)
class Look:
    """One sample as the encoder sees it; all pictures are data URIs.

    Attributes:
        name: key of the sample.
        image: the evaluation view.
        hidden: the same with a mask of the kind that the student had in training; None without masks.
        attention: (title, picture) of the mean over heads, of single heads, of each register; empty without such taps.
        components: first three principal components of the patches as red, green and blue; None without patches.
    """

    name: str
    image: str
    hidden: str | None
    attention: tuple[tuple[str, str], ...]
    components: str | None


@dataclass(frozen=True)
class Neighbourhood:
    """A query and its nearest samples.

    Attributes:
        query: (picture, label name).
        near: (picture, label name, cosine, same label as the query or None where a label is unknown).
    """

    query: tuple[str, str]
    near: tuple[tuple[str, str, float, bool | None], ...]


@dataclass(frozen=True)
class Gallery:
    """All pictures of a report, and why some are missing.

    Attributes:
        looks: samples.
        neighbours: queries.
        counts: [C][C] leave-one-out confusion matrix over the samples searched, or None without labels.
        k: neighbours of ``counts``.
        top1: accuracy of ``counts``.
        searched: samples among which neighbours were searched.
        classes: names of the class numbers, as the shards' index gives them.
        counted: name of each class of ``counts``.
        notes: what could not be drawn and why.
        no_matrix: why there is no ``counts``; empty where there is.
        legend: what axes and colours of the pictures mean; empty where they are as the eye sees them.
    """

    looks: tuple[Look, ...] = ()
    neighbours: tuple[Neighbourhood, ...] = ()
    counts: list[list[int]] | None = None
    k: int = 0
    top1: float = 0.0
    searched: int = 0
    classes: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    legend: str = ""
    no_matrix: str = ""


def show(view: Any, modality: str, evaluation: Any) -> NDArray[np.uint8] | None:
    """An evaluation view as a picture [H, W, 3] uint8, or None where the modality cannot be drawn."""

    try:
        module = part(modality, "picture")
    except UserError:
        return None
    return np.asarray(module.to_rgb(view, **options_of(evaluation)), dtype=np.uint8)


def _hidden(loaded: LoadedEncoder, coordinates: NDArray[Any], rows: int) -> NDArray[np.bool_] | None:
    """[rows, N] tokens that masks of the training's first rule hide, one mask in each row; None where it had none."""

    recipe = recipe_of(loaded)
    rule = None if recipe is None else next(iter(recipe.mask_rules.values()), None)
    if rule is None or not rows or not rule.mean_share:
        return None
    ids = np.arange(rows, dtype=np.int64)
    mask = rule.shown().build()(coordinates, 1, Draws(0, np.zeros_like(ids), ids), ids, rows, 0)
    return np.asarray(mask.masked.numpy())


def gallery(
    loaded: LoadedEncoder,
    patterns: Sequence[str],
    *,
    samples: int = 6,
    bank: int = 2000,
    queries: int = 6,
    near: int = 7,
    device: Any = "cpu",
    cache: Path | None = None,
) -> Gallery:
    """All pictures of a report.

    Args:
        loaded: the encoder.
        patterns: shards with the samples.
        samples: to look at; spread evenly over the shards.
        bank: most samples among which neighbours are searched.
        queries: rows of neighbours.
        near: neighbours of a row.
        device: where the encoder runs.
        cache: folder for features.

    Raises:
        UserError: when shards are missing or unreadable.
    """

    shards = open_shards(list(patterns))
    notes: list[str] = []
    looks = _looks(loaded, patterns, min(samples, shards.num_samples), device, notes)
    features = features_of_shards(
        loaded.encoder,
        patterns,
        modality=loaded.modality,
        evaluation=loaded.evaluation,
        device=device,
        limit=min(bank, shards.num_samples),
        workers=default_workers(),
        cache=cache,
        weights=loaded.sha256,
        what="report: features",
    )
    rows = _neighbours(loaded, shards, features, queries, near, device, notes)
    matrix = _confusion(features, device, notes)
    counts, k, top1, counted = (None, 0, 0.0, ()) if isinstance(matrix, str) else matrix
    named = class_names(counted, shards.classes)
    return Gallery(
        tuple(looks), tuple(rows), counts, k, top1, len(features), tuple(shards.classes), named, notes,
        str(_of_pictures(loaded.modality, "LEGEND", "")),
        no_matrix=matrix if isinstance(matrix, str) else "",
    )  # fmt: skip


def _looks(loaded: LoadedEncoder, patterns: Sequence[str], count: int, device: Any, notes: list[str]) -> list[Look]:

    tap = f"attention_map.{depth_of(loaded.encoder) - 1}"
    taps = (tap,) if tap in getattr(loaded.encoder, "tap_names", list)() else ()
    if not taps:
        notes.append("This encoder does not tell what its attention sees: it is not drawn.")
    decode = decoder(loaded.modality, loaded.evaluation)
    batches = list(loader(patterns, decode, loaded.evaluation.build(), 16, 0, count))
    views = [view for batch in batches for view in batch.data]
    keys = [key for batch in batches for key in batch.keys]
    with torch.inference_mode():
        features = [loaded.encoder([view[None].to(device)], taps=taps)[0] for view in views]
    if getattr(loaded.config, "coordinates_of", None) is not None:
        return _looks_by_coordinates(loaded, views, keys, features, tap if taps else None)
    coordinates = np.asarray(loaded.config.coordinates(tuple(views[0].shape[1:]))) if views else np.zeros((0, 2), int)
    if coordinates.shape[1] not in _of_pictures(loaded.modality, "AXES", (2,)):
        notes.append(
            f"Tokens of {loaded.modality} lie in {coordinates.shape[1]} dimensions: feature maps are not drawn."
        )
        return []
    grid = tuple(int(side) + 1 for side in coordinates.max(axis=0))

    pictures = [show(view, loaded.modality, loaded.evaluation) for view in views]
    if any(picture is None for picture in pictures):
        notes.append(f"There is no way yet to draw {loaded.modality}: its folder has no picture.py.")
        return []
    drawing = part(loaded.modality, "picture")
    with_patches = bool(features) and features[0].patches.shape[1] == math.prod(grid)
    colours = drawing.pca_rgb(torch.cat([f.patches.float().cpu() for f in features]), grid) if with_patches else None
    masks = _hidden(loaded, coordinates, len(views)) if math.prod(grid) == len(coordinates) else None
    options = options_of(loaded.evaluation)

    def drawn_map(view: Any, values: NDArray[np.floating]) -> str:
        heat = unit_range(values, 0, 99.5).reshape(grid)
        if getattr(drawing, "MAPS_ON_SAMPLES", False):
            return photo(drawing.overlay(view, heat, **options))
        return png(drawing.heat_rgb(heat, 0.0, 1.0))

    looks = []
    for row, (key, view, picture, feature) in enumerate(zip(keys, views, pictures, features, strict=True)):
        attention: list[tuple[str, str]] = []
        if taps:
            attention = [(title, drawn_map(view, values)) for title, values in _maps(feature, tap, len(coordinates))]
        drawn = png(colours[row]) if colours is not None else None
        assert picture is not None
        hidden = None if masks is None else photo(drawing.mask_overlay(view, masks[row], grid, **options))
        looks.append(Look(key, photo(picture), hidden, tuple(attention), drawn))
    return looks


def _maps(feature: Features, tap: str, patches: int) -> list[tuple[str, NDArray[np.floating]]]:
    """Attention [N] to the patches by title: of the class token the mean of the heads and single ones, of each register
    the mean; of all patches together where there are neither."""
    rows = by_token(feature.taps[tap][0].float().cpu(), feature.registers.shape[1], patches)
    first, *others = rows.items()
    maps = [("mean of heads", first[1].mean(dim=0))]
    maps += [(f"head {head + 1}", first[1][head]) for head in range(min(len(first[1]), MOST_HEADS))]
    maps += [(name, weights.mean(dim=0)) for name, weights in others]
    return [(title, values.numpy()) for title, values in maps]


def _of_pictures(modality: str, name: str, default: Any) -> Any:
    """What a modality says of its pictures, where it draws any: ``AXES`` of the token grids that its maps understand
    (usually two), the ``LEGEND`` of axes and colours."""

    try:
        return getattr(part(modality, "picture"), name, default)
    except UserError:
        return default


def _looks_by_coordinates(
    loaded: LoadedEncoder, views: Sequence[Any], keys: Sequence[str], features: Sequence[Any], tap: str | None
) -> list[Look]:
    """Looks of samples whose tokens lie on no grid: every map is drawn onto the sample itself."""

    drawing = part(loaded.modality, "picture")
    upright = {key: value for key, value in options_of(loaded.evaluation).items() if key == "up"}
    colours = drawing.pca_colours(torch.cat([f.patches.float().cpu() for f in features]))
    looks = []
    located = [loaded.config.coordinates_of(view[None])[0] for view in views]
    masks = _hidden(loaded, torch.stack(located).numpy(), len(views)) if views else None
    for row, (key, view, feature) in enumerate(zip(keys, views, features, strict=True)):
        coordinates = located[row]
        attention: list[tuple[str, str]] = []
        if tap is not None:
            attention = [
                (title, photo(drawing.overlay(view, unit_range(values, 0, 99.5), coordinates, **upright)))
                for title, values in _maps(feature, tap, len(coordinates))
            ]
        picture = show(view, loaded.modality, loaded.evaluation)
        assert picture is not None
        hidden = None if masks is None else photo(drawing.mask_overlay(view, masks[row], coordinates, **upright))
        coloured = photo(drawing.overlay(view, colours[row], coordinates, **upright))
        looks.append(Look(key, photo(picture), hidden, tuple(attention), coloured))
    return looks


def _neighbours(
    loaded: LoadedEncoder, shards: Any, features: FeatureSet, queries: int, near: int, device: Any, notes: list[str]
) -> list[Neighbourhood]:

    k = min(near, len(features) - 1)
    if k < 1:
        notes.append("A single sample has no neighbours.")
        return []
    chosen = torch.linspace(0, len(features) - 1, min(queries, len(features))).round().long().unique()
    cosine = knn.search(features.cls[-1], features.cls[-1][chosen], k + 1, device=device)
    decode, view_of = decoder(loaded.modality, loaded.evaluation), loaded.evaluation.build()

    def picture(row: int) -> str | None:
        sample = decode(shards.read(*shards.locate(int(features.ids[row]))))
        drawn = show(view_of([sample])[0], loaded.modality, loaded.evaluation)
        return None if drawn is None else photo(drawn)

    def called(row: int) -> Any:
        label = int(features.labels[row])
        return label if label >= 0 else features.names[row] if features.names else None

    def name(row: int) -> str:
        label = called(row)
        if isinstance(label, int):
            return shards.classes[label] if label < len(shards.classes) else f"class {label}"
        return "" if label is None else label if isinstance(label, str) else ", ".join(map(str, label))

    found = []
    for index, query in enumerate(chosen.tolist()):
        image = picture(query)
        if image is None:
            return []
        row: list[tuple[str, str, float, bool | None]] = []
        for other, value in zip(cosine.indices[index].tolist(), cosine.similarities[index].tolist(), strict=True):
            if other != query and len(row) < k:
                known = called(query) is not None and called(other) is not None
                same = called(query) == called(other) if known else None
                row.append((picture(other) or "", name(other), value, same))
        found.append(Neighbourhood((image, name(query)), tuple(row)))
    return found


def _confusion(
    features: FeatureSet, device: Any, notes: list[str]
) -> tuple[list[list[int]], int, float, tuple[str, ...]] | str:
    """Counts, k, top-1 accuracy and classes, or why there are none."""

    if not features.names and bool((features.labels < 0).all()):
        notes.append("The samples have no labels: neighbours have no names.")
        return "The samples have no labels: there is no confusion matrix."
    try:
        (part,) = number_classes(features.labelled())
    except UserError as error:
        return f"There is no confusion matrix: {error}."
    classes = len(part.classes)
    if classes > 200 or len(part) < 2:
        return f"{len(part)} labelled samples of {classes} classes do not make a confusion matrix (at most 200)."
    k = min(20, len(part) - 1)
    near = knn.search(part.cls[-1], part.cls[-1], k, leave_one_out=True, device=device)
    result = knn.classify(near, part.labels, part.labels, [k])[k]
    counts = torch.bincount(part.labels * classes + result.predictions, minlength=classes**2)
    return counts.reshape(classes, classes).tolist(), k, result.top1, part.classes
