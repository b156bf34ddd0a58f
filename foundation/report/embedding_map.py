"""A map of all samples: features as points in the plane, like samples side by side, with a picture of each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.data.boundary import decoded
from foundation.data.tally import Tally
from foundation.errors import SampleError, UserError
from foundation.files import replace_file
from foundation.modalities.drawing import Picture, main_directions, resize
from foundation.modalities.parts import decoder, part
from foundation.parallel.threads import default_workers
from foundation.printable import printable
from foundation.probes import knn
from foundation.probes.features import FeatureSet, Tokens
from foundation.probes.inputs import features_of_files, find_files
from foundation.probes.results import progress
from foundation.probes.road import features_of_shards, open_limited
from foundation.report.embedding_page import page
from foundation.report.looked_at import label_name
from foundation.zoo.load import LoadedEncoder
from foundation.zoo.preprocess import Preprocess

Method: TypeAlias = Literal["tsne", "pca"]
COMPONENTS = 50
"""Principal components that t-SNE is given (van der Maaten and Hinton 2008 take 30, common practice is 50)."""
PERPLEXITY = 30.0
NEAR = 5
"""Nearest samples that the page names for each."""
MOST_BYTES = 8 << 20
"""Of all pictures of a page together; where they would take more, only some samples have one."""
_SHEET = 16  # pictures across and down a sheet
_QUALITY = 76


@dataclass(frozen=True)
class Located:
    """Samples with their features, and how each is read again to be drawn.

    Attributes:
        features: of all samples.
        labels: [S] of each by name, empty for none.
        there: samples that there are; more than S where only some were taken.
        picture: of a sample by its row.
    """

    features: FeatureSet
    labels: tuple[str, ...]
    there: int
    picture: Callable[[int], Picture]


def located(
    loaded: LoadedEncoder,
    sources: Sequence[str],
    *,
    device: Any = "cpu",
    limit: int | None = None,
    rate: float | None = None,
    batch_size: int = 64,
    cache: Path | None = None,
) -> Located:
    """Features of files or shards.

    Args:
        loaded: the model.
        sources: files, folders of files, or shards.
        device: of the encoder.
        limit: samples at most, spread evenly; None: all.
        rate: samples, readings or frames per second of files that do not say it.
        batch_size: samples per pass.
        cache: folder of features; None: none is kept.

    Raises:
        UserError: nothing is there, or no sample can be read.
    """
    preprocess = Preprocess(loaded.modality, loaded.evaluation)
    drawing = part(loaded.own[0], "picture")
    files = find_files(sources, preprocess, Tally())
    if files is not None:
        there = len(files)
        if limit is not None and limit < there:
            files = [files[number * there // limit] for number in range(limit)]
        features = features_of_files(loaded, files, preprocess, rate, batch_size)
        paths = files

        def of_file(row: int) -> Picture:
            number = int(features.ids[row])
            return np.asarray(
                drawing.of_sample(decoded(preprocess.decode, preprocess.raw(paths[number], rate, number)))
            )

        return Located(features, _labels(features, ()), there, of_file)
    shards = open_limited(sources, None)
    features = features_of_shards(
        loaded.encoder,
        sources,
        modality=loaded.modality,
        evaluation=loaded.evaluation,
        device=device,
        limit=limit,
        workers=default_workers(),
        batch_size=batch_size,
        cache=cache,
        weights=loaded.sha256,
    )
    decode = decoder(loaded.modality, loaded.evaluation)

    def of_shard(row: int) -> Picture:
        raw = shards.read(*shards.locate(int(features.ids[row])))
        return np.asarray(drawing.of_sample(decoded(decode, raw)))

    return Located(features, _labels(features, shards.classes), shards.num_samples, of_shard)


def _labels(features: FeatureSet, classes: Sequence[str]) -> tuple[str, ...]:
    names = features.names or (None,) * len(features)
    return tuple(label_name(label, name, classes) for label, name in zip(features.labels.tolist(), names, strict=True))


def plane(vectors: Tensor, method: Method = "tsne", seed: int = 0) -> NDArray[np.float64]:
    """Vectors as points in the plane.

    Args:
        vectors: [S, D]; their directions count, not their lengths.
        method: ``pca``, the first two principal components; or ``tsne``, t-SNE of the first 50.
        seed: of t-SNE, which begins at the first two components.

    Returns:
        [S, 2].

    Raises:
        UserError: fewer than three samples, or vectors that are not finite.
    """
    if len(vectors) < 3:
        raise UserError(f"{len(vectors)} samples make no map: at least 3 are needed")
    if not bool(vectors.isfinite().all()):
        raise UserError("some features are NaN or infinite: no probe or picture of this model means anything")
    unit = nn.functional.normalize(vectors.double(), dim=1)
    if method == "pca":
        return main_directions(unit, 2).numpy()
    from sklearn.manifold import TSNE

    reduced = main_directions(unit, min(COMPONENTS, unit.shape[1], len(unit))).numpy()
    start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    found: NDArray[np.float64] = TSNE(
        init=start.astype(np.float32), perplexity=perplexity, random_state=seed, n_jobs=1, learning_rate="auto"
    ).fit_transform(reduced.astype(np.float32))
    return np.asarray(found, np.float64)


def write_map(
    loaded: LoadedEncoder,
    there: Located,
    out: Path,
    *,
    method: Method = "tsne",
    tokens: Tokens = "cls",
    seed: int = 0,
    most_bytes: int = MOST_BYTES,
    key: str | None = None,
) -> str:
    """Write the page.

    Args:
        loaded: the model.
        there: the samples.
        out: HTML file.
        method: see :func:`plane`.
        tokens: what stands for a sample.
        seed: of t-SNE.
        most_bytes: of all pictures.
        key: of the sample that the page opens with; None: with none.

    Returns:
        What a person should know of it, one line.

    Raises:
        UserError: see :func:`plane`; or the file cannot be written.
    """
    if key is not None and key not in there.features.keys:
        raise UserError(f"no sample has the key {key!r}; the first is {there.features.keys[0]!r}")
    vectors = torch.cat(there.features.tokens(tokens), dim=1)
    places = plane(vectors, method, seed)
    near = nearest(vectors)
    sheets, pictured, size, bad = thumbnails(there, loaded, most_bytes)
    names = sorted(set(there.labels) - {""}, key=_natural)
    numbers = {name: number for number, name in enumerate(names)} | {"": -1}
    unit = places - places.min(axis=0)
    unit = unit / max(float(unit.max()), 1e-12)
    shown = int((np.array(pictured) >= 0).sum())
    said = _about(there, method, tokens, seed, near, shown)
    data = {
        "x": (unit[:, 0] * 1e4).round().astype(int).tolist(),
        "y": ((unit[:, 1].max() - unit[:, 1]) * 1e4).round().astype(int).tolist(),
        "label": [numbers[label] for label in there.labels],
        "labels": [printable(name) for name in names],
        "keys": [printable(key) for key in there.features.keys],
        "near": near.tolist(),
        "picture": pictured,
        "cell": list(size),
        "across": _SHEET,
        "open": -1 if key is None else there.features.keys.index(key),
    }
    content = page("Map of samples", (f"By {loaded.description}.", *said), json.dumps(data, ensure_ascii=True), sheets)
    try:
        replace_file(out, content.encode())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    without = f"; {len(there.labels) - shown:,} samples have no picture" if shown < len(there.labels) else ""
    return f"{len(there.labels):,} samples, {len(content) / 2**20:.1f} MB{without}" + (f" ({bad})" if bad else "")


def nearest(vectors: Tensor, count: int = NEAR) -> NDArray[np.int64]:
    """Rows [S, count] of the samples with the largest cosine to each, itself left out; fewer where there are fewer."""
    found = knn.search(vectors, vectors, min(count, len(vectors) - 1), leave_one_out=True)
    return np.asarray(found.indices.numpy())


def thumbnails(
    there: Located, loaded: LoadedEncoder, most_bytes: int = MOST_BYTES
) -> tuple[list[str], list[int], tuple[int, int], str]:
    """Small pictures of the samples on sheets.

    Args:
        there: the samples.
        loaded: the model.
        most_bytes: of all sheets; where all pictures would take more, samples spread evenly have one.

    Returns:
        Data URIs of the sheets; for each sample the number of its picture, counted through the sheets, or -1; width and
        height of a picture; what was wrong with the first sample that cannot be drawn.
    """
    cell = part(loaded.own[0], "picture").CELL
    scale = min(1.0, 72 / cell[1])
    width, height = round(cell[0] * scale), round(cell[1] * scale)
    count = len(there.labels)
    order = np.argsort((np.arange(count) * 0.6180339887498949) % 1.0, kind="stable")  # any beginning is spread evenly
    places, room, bad = [-1] * count, most_bytes, ""
    sheets: list[str] = []
    held: list[tuple[int, Picture]] = []

    def close() -> bool:
        """Put what is held on a sheet, if that still fits."""
        nonlocal room
        uri = _sheet([picture for _, picture in held], width, height)
        if len(uri) > room:
            return False
        room -= len(uri)
        for number, (row, _) in enumerate(held):
            places[row] = len(sheets) * _SHEET**2 + number
        sheets.append(uri)
        held.clear()
        return True

    for row in progress(order.tolist(), count, "pictures", "sample"):
        try:
            held.append((row, _fitted(there.picture(row), width, height)))
        except (SampleError, ValueError) as error:
            bad = bad or str(error)
        if len(held) == _SHEET**2 and not close():
            return sheets, places, (width, height), bad
    if held:
        close()
    return sheets, places, (width, height), bad


def _fitted(picture: Picture, width: int, height: int) -> Picture:
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
    small = resize(picture, *size, smooth=scale < 1.5)
    whole = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    whole[top : top + size[0], left : left + size[1]] = small
    return whole


def _sheet(pictures: Sequence[Picture], width: int, height: int) -> str:
    from base64 import b64encode

    from PIL import Image

    sheet = np.full((-(-len(pictures) // _SHEET) * height, _SHEET * width, 3), 128, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // _SHEET * height, number % _SHEET * width
        sheet[top : top + height, left : left + width] = picture
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + b64encode(stream.getvalue()).decode()


def _about(
    there: Located, method: Method, tokens: Tokens, seed: int, near: NDArray[np.int64], shown: int
) -> tuple[str, ...]:
    count = len(there.labels)
    of = f"{count:,} of {there.there:,} samples, spread evenly" if count < there.there else f"{count:,} samples"
    what = {"cls": "class token", "patches": "mean of patch tokens", "both": "class token and mean of patch tokens"}
    way = (
        "first two principal components"
        if method == "pca"
        else f"t-SNE (seed {seed}) of the first {COMPONENTS} principal components: who is near whom counts, "
        "not how far groups lie apart"
    )
    said = [f"{of}; {what[tokens]}, lengths set to 1; {way}."]
    labels = np.array(there.labels, dtype=object)
    known = labels != ""
    if near.shape[1] and known.sum() > 1 and len(set(labels[known])) > 1:
        same = (labels[near[:, 0]] == labels)[known].mean()
        said.append(f"The nearest sample by cosine has the same label for {100 * same:.1f} % of those with a label.")
    if shown < count:
        said.append(f"Pictures of {shown:,} samples, so that the page stays small.")
    return tuple(said)


def _natural(name: str) -> tuple[Any, ...]:
    """Orders class 2 before class 10."""
    import re

    return tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)", name) if word)
