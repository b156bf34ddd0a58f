"""A picture of retrieval: samples of one sensor, and what another sensor recorded of those most like them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.data.boundary import decoded
from foundation.data.shards import ShardSet
from foundation.errors import UserError
from foundation.files import replace_file
from foundation.modalities.parts import part

NEAREST = 4
"""Neighbours of each sample."""
OWN, SAME, OTHER = (23, 138, 80), (47, 111, 222), (200, 203, 208)
"""Frames: the sample's own recording, one of its class, any other."""
KEY = (("the sample's own recording", OWN), ("another one of its class", SAME), ("any other", OTHER))
"""What the frames of the nearest mean."""
_GAP, _FRAME, _TEXT = 6, 3, 14  # pixels
_LETTER = 7  # pixels of a letter, at most on average
_KEY_WIDTH = sum(_TEXT + _LETTER * len(text) + 2 * _GAP for text, _ in KEY) + _GAP
_UNDER = (238, 239, 242)  # behind pictures that are smaller than their cell


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
    """Write a PNG: each row a sample, as the first modality draws it, and the nearest ones as the second draws them.

    Above them the columns' titles and the key of the frames' colours; below each picture its class, by name where the
    shards name classes.

    Args:
        out: file to write.
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
    from PIL import Image, ImageDraw

    one, two = (nn.functional.normalize(embeddings.float(), dim=1) for embeddings in (first, second))
    near = (one @ two.T).topk(min(NEAREST, len(two)), dim=1).indices
    chosen = _spread(labels, rows)
    cells = []
    for row in chosen:
        cells.append([_picture(modalities[0], shards, int(ids[row]), decoders[0])])
        cells[-1] += [_picture(modalities[1], shards, int(ids[other]), decoders[1]) for other in near[row].tolist()]
    widths = [max(line[column].width for line in cells) for column in range(len(cells[0]))]
    height = max(picture.height for line in cells for picture in line)
    step = height + 2 * _FRAME + _GAP + _TEXT
    top = _GAP + 2 * (_TEXT + _GAP)
    wide = max(sum(widths) + len(widths) * (2 * _FRAME + _GAP) + _GAP, _KEY_WIDTH)
    sheet = Image.new("RGB", (wide, top + len(cells) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    _head(draw, modalities, widths)
    for number, (row, line) in enumerate(zip(chosen, cells, strict=True)):
        x, y = _GAP, top + number * step
        for column, picture in enumerate(line):
            other = row if column == 0 else int(near[row, column - 1])
            same = labels[row] == labels[other] and int(labels[row]) >= 0
            colour = OTHER if column == 0 else OWN if other == row else SAME if same else OTHER
            box = (x, y, x + widths[column] + 2 * _FRAME - 1, y + height + 2 * _FRAME - 1)
            draw.rectangle(box, fill=_UNDER, outline=colour, width=_FRAME)
            left, above = (widths[column] - picture.width) // 2, (height - picture.height) // 2
            sheet.paste(picture, (x + _FRAME + left, y + _FRAME + above))
            draw.text((x, y + height + 2 * _FRAME), _name(int(labels[other]), shards.classes), fill="black")
            x += widths[column] + 2 * _FRAME + _GAP
    stream = io.BytesIO()
    sheet.quantize(128).save(stream, "PNG", optimize=True)
    try:
        replace_file(out, stream.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}") from error


def _head(draw: Any, modalities: tuple[str, str], widths: Sequence[int]) -> None:
    """Key of the colours, and under it a title for each column."""
    x = _GAP
    for text, colour in KEY:
        draw.rectangle((x, _GAP, x + _TEXT - 4, _GAP + _TEXT - 4), outline=colour, width=_FRAME)
        draw.text((x + _TEXT, _GAP - 1), text, fill="black")
        x += _TEXT + _LETTER * len(text) + 2 * _GAP
    x = _GAP
    for column, width in enumerate(widths):
        title = f"sample ({modalities[0]})" if column == 0 else f"nearest {column} ({modalities[1]})"
        draw.text((x, _GAP + _TEXT + _GAP), title, fill="black")
        x += width + 2 * _FRAME + _GAP


def _picture(modality: str, shards: ShardSet, number: int, decode: Any) -> Any:
    from PIL import Image

    drawing = part(modality, "picture")
    sample = decoded(decode, shards.read(*shards.locate(number)))
    image = Image.fromarray(np.asarray(drawing.of_sample(sample)))
    width, height = drawing.CELL
    scale = min(width / image.width, height / image.height)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _spread(labels: Tensor, rows: int) -> list[int]:
    """So many samples, each of another class where there are as many."""
    known = labels.unique()
    wanted = known[torch.linspace(0, len(known) - 1, min(rows, len(known))).long()]
    return [int((labels == label).nonzero()[0]) for label in wanted]


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else f"class {label}" if label >= 0 else "no label"
