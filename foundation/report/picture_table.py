"""Pictures in rows and columns under one title, as a PNG or as a page that needs nothing else."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.errors import UserError
from foundation.files import replace_file
from foundation.modalities.contact_sheet import font_for
from foundation.modalities.drawing import Picture, photo, png
from foundation.printable import escape, printable
from foundation.report import parts
from foundation.report.template import PAGE, STYLE

if TYPE_CHECKING:
    from PIL import Image

FRAMES = {"": (222, 224, 228), "same": (23, 138, 80), "own": (47, 111, 222), "other": (194, 65, 12)}
"""Colours of frames around pictures, by kind: none, of the same label, the very same sample, of another label."""
_TITLE, _TEXT = 17, 13  # pixels of letters
_GAP, _MARGIN = 8, 16
_INK, _SOFT, _PAPER, _RULE = (28, 30, 33), (95, 102, 112), (255, 255, 255), (227, 229, 232)


@dataclass(frozen=True)
class Cell:
    """One picture.

    Attributes:
        picture: uint8 [H, W, 3].
        caption: below it.
        kind: of its frame, one of ``FRAMES``.
        sharp: squares of tokens, which are not smoothed at any size.
    """

    picture: Picture
    caption: str = ""
    kind: str = ""
    sharp: bool = False


@dataclass(frozen=True)
class Line:
    """A row of pictures.

    Attributes:
        cells: from left to right; None leaves a place empty.
        name: above the row, such as the sample's key; empty where the row belongs to the one above.
        head: in front of the row, such as the token that attends.
    """

    cells: tuple[Cell | None, ...]
    name: str = ""
    head: str = ""


@dataclass(frozen=True)
class PictureTable:
    """Rows of pictures.

    Attributes:
        title: of the whole.
        about: sentences under the title: what is drawn, and how to read it.
        columns: their titles.
        lines: rows.
        key: what kinds of frames mean, (kind, text).
        most: pixels of a cell, width and height, that pictures are fitted into.
    """

    title: str
    about: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    key: tuple[tuple[str, str], ...] = ()
    most: tuple[int, int] = (320, 160)


def write(table: PictureTable, path: Path) -> Path:
    """Write a ``.png`` or a ``.html``.

    Raises:
        UserError: another kind of file, or it cannot be written.
    """
    content = _page(table).encode() if path.suffix.lower() == ".html" else to_png(table)
    try:
        replace_file(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def to_png(table: PictureTable) -> bytes:
    """The table as a PNG of at most 256 colours, dark text on white."""
    from PIL import Image, ImageDraw

    fitted = [[None if cell is None else _fitted(cell, table.most) for cell in line.cells] for line in table.lines]
    count = max((len(line.cells) for line in table.lines), default=0)
    heads = max((_wide(line.head) for line in table.lines), default=0)
    heads += _GAP if heads else 0
    widths = [max((line[n].width for line in fitted if n < len(line) and line[n]), default=0) + 2 for n in range(count)]  # type: ignore[union-attr]
    starts = [_MARGIN + heads + sum(widths[:n]) + n * _GAP for n in range(count)]
    inner = (starts[-1] + widths[-1] - _MARGIN) if count else 0
    inner = max(inner, min(_wide(table.title, _TITLE), 900), 480)
    about = [line for text in table.about for line in _wrapped(text, inner)]
    key = [text for _, text in table.key]
    titles = any(table.columns)
    top = _MARGIN + _TITLE + _GAP + len(about) * (_TEXT + 5) + (_TEXT + _GAP if key else 0)
    top += _TEXT + _GAP if titles else 0
    heights = []
    for line, row in zip(table.lines, fitted, strict=True):
        captions = any(cell is not None and cell.caption for cell in line.cells)
        tall = max((image.height for image in row if image), default=0) + 2
        heights.append(((_TEXT + 2 * _GAP) if line.name else 0, tall, (_TEXT + 4) if captions else 0))
    whole = top + sum(sum(height) + _GAP for height in heights) + _MARGIN
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, whole), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    _write(draw, (_MARGIN, y), table.title, _INK, inner, _TITLE)
    y += _TITLE + _GAP
    for text in about:
        _write(draw, (_MARGIN, y), text, _SOFT, inner)
        y += _TEXT + 5
    if key:
        x = _MARGIN
        for kind, text in table.key:
            draw.rectangle((x, y + 1, x + _TEXT, y + _TEXT), outline=FRAMES[kind], width=3)
            _write(draw, (x + _TEXT + 6, y), text, _SOFT, inner)
            x += _TEXT + 6 + _wide(text) + 2 * _GAP
        y += _TEXT + _GAP
    if titles:
        for start, wide, text in zip(starts, widths, table.columns, strict=False):
            _write(draw, (start, y), text, _SOFT, max(wide, 60))
        y += _TEXT + _GAP
    for line, row, (above, tall, below) in zip(table.lines, fitted, heights, strict=True):
        if above:
            draw.line((_MARGIN, y, _MARGIN + inner, y), fill=_RULE)
            _write(draw, (_MARGIN, y + _GAP), line.name, _INK, inner)
            y += above
        if line.head:
            _write(draw, (_MARGIN, y + max(0, (tall - _TEXT) // 2)), line.head, _SOFT, heads)
        for start, wide, cell, image in zip(starts, widths, line.cells, row, strict=False):
            if cell is None or image is None:
                continue
            thick = 3 if cell.kind else 1
            box = (start, y, start + image.width + 1, y + image.height + 1)
            sheet.paste(image, (start + 1, y + 1))
            draw.rectangle(box, outline=FRAMES[cell.kind], width=thick)
            if cell.caption:
                _write(draw, (start, y + tall + 2), cell.caption, _SOFT, max(wide, 60))
        y += tall + below + _GAP
    stream = io.BytesIO()
    sheet.quantize(256).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _page(table: PictureTable) -> str:
    cells = []
    heads = any(line.head for line in table.lines)
    count = max((len(line.cells) for line in table.lines), default=0)
    if any(table.columns):
        cells += ['<div class="head"></div>'] * heads
        cells += [f'<div class="head">{escape(text)}</div>' for text in (*table.columns, *[""] * count)[:count]]
    for line in table.lines:
        if line.name:
            cells.append(f'<div class="row">{parts.name(line.name)}</div>')
        if heads:
            cells.append(f'<div class="head side">{parts.name(line.head)}</div>')
        for number in range(count):
            cell = line.cells[number] if number < len(line.cells) else None
            if cell is None:
                cells.append("<div></div>")
                continue
            what = ", ".join(filter(None, (table.columns[number : number + 1] or ("",))))
            said = " ".join(filter(None, (what, line.head, line.name, cell.caption)))
            under = f"<figcaption>{parts.name(cell.caption)}</figcaption>" if cell.caption else ""
            uri = png(cell.picture) if cell.sharp else photo(cell.picture)
            cells.append(f'<figure class="{cell.kind}">{parts.picture(uri, said, "pixel")}{under}</figure>')
    key = "".join(f'<span><i class="frame {kind}"></i>{escape(text)}</span>' for kind, text in table.key)
    columns = f"{'max-content ' * heads}repeat({count},minmax(84px,{table.most[0]}px))"
    body = (
        f"<header><h1>{parts.sentence(table.title)}</h1></header>"
        + "".join(f'<p class="lead">{parts.sentence(text)}</p>' for text in table.about)
        + (f'<div class="legend frames">{key}</div>' if key else "")
        + parts.scroll(
            f'<div class="pictures" style="grid-template-columns:{columns}">{"".join(cells)}</div>', table.title, "card"
        )
    )
    return PAGE.format(title=escape(table.title), style=STYLE + _STYLE, body=body)


_STYLE = """
main{max-width:1800px}.lead{margin:6px 0 0}.card{margin-top:18px;width:fit-content;max-width:100%}
.pictures{display:grid;gap:8px;align-items:start}
.pictures figure{margin:0;min-width:0}.pictures img{display:block;width:100%;height:auto;border-radius:3px;
outline:1px solid var(--rule)}
.pictures .head{color:var(--soft);font-size:12.5px}.pictures .side{align-self:center;padding-right:6px}
.pictures .row{grid-column:1/-1;border-top:1px solid var(--rule);padding-top:8px;margin-top:4px;font-size:13px;
overflow-wrap:anywhere}
.pictures .row:first-child{border-top:0;padding-top:0;margin-top:0}
.same img{outline:3px solid var(--good)}.own img{outline:3px solid var(--accent)}
.other img{outline:3px dashed var(--bad)}
.frames i.frame{height:12px;width:12px;border:3px solid var(--rule);border-radius:2px}
.frames i.same{border-color:var(--good)}.frames i.own{border-color:var(--accent)}
.frames i.other{border:3px dashed var(--bad)}
"""


def _fitted(cell: Cell, most: tuple[int, int]) -> Image.Image:
    """A picture as large as its cell allows; few pixels stay sharp squares."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(cell.picture))
    scale = min(most[0] / image.width, most[1] / image.height)
    method = Image.Resampling.NEAREST if cell.sharp or scale >= 1.5 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _write(draw: Any, place: tuple[int, int], text: str, colour: Any, width: int, size: int = _TEXT) -> None:
    """A line of text that ends with dots where it is too long."""
    shown = printable(text)
    font = font_for("".join(sorted(set(shown))), size)
    if draw.textlength(shown, font=font) > width:
        while shown and draw.textlength(shown + "…", font=font) > width:
            shown = shown[:-1]
        shown += "…"
    draw.text(place, shown, fill=colour, font=font)


def _wide(text: str, size: int = _TEXT) -> int:
    from PIL import Image, ImageDraw

    shown = printable(text)
    font = font_for("".join(sorted(set(shown))), size)
    return round(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(shown, font=font)) + 1 if shown else 0


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _wide(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
