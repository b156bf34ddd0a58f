"""Contact sheets: some samples of shards as their modality draws them, each with its label, as PNG or as HTML."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.data import members
from foundation.data.index import default_decoding, read_index
from foundation.errors import UserError
from foundation.files import replace_file
from foundation.modalities.drawing import photo
from foundation.modalities.inspect import Facts, spread
from foundation.modalities.parts import part
from foundation.printable import escape, printable
from foundation.voice import plural

if TYPE_CHECKING:
    from PIL import Image

_CELL, _GAP, _TEXT = 96, 4, 14  # pixels of a usual picture, between two, and of a line of text
_FONT_SIZE = 10
_FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/System/Library/Fonts",
          "/Library/Fonts", "C:/Windows/Fonts")  # fmt: skip
_MOST_FONTS = 500


def contact_sheet(
    facts: Facts,
    out: Path,
    number: int = 96,
    overwrite: bool = False,
    modality: str | None = None,
    reading: Mapping[str, Any] | None = None,
    say: Callable[[str], object] | None = None,
) -> int:
    """Write a sheet with some samples, spread evenly over the shards.

    Args:
        facts: of :func:`foundation.modalities.inspect.inspect`.
        out: file to write, ``.png`` or ``.html``; a page draws labels of any script.
        number: of pictures, at most.
        overwrite: replace the file if it exists.
        modality: whose pictures are drawn; None: as the index says, else images.
        reading: what ``of_raw`` of the modality's pictures is told of a recipe, such as its ``decode``; None: samples
            are read as the shards' index says, else with the defaults.
        say: gets a line about samples that cannot be shown, and about labels that no font of this machine can draw.

    Returns:
        Number of pictures on it.

    Raises:
        UserError: no sample can be shown, the file exists, or there is no such modality.
    """
    from PIL import Image

    if out.suffix.lower() not in (".png", ".html"):
        raise UserError(f"a contact sheet is a picture or a page: give a name that ends in .png or .html, not {out}")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: add --overwrite to replace it, or give another name after --sheet")
    if not out.absolute().parent.is_dir():
        raise UserError(f"the folder of {out} does not exist")
    drawing = part(modality or facts.modality, "picture")
    cells: list[tuple[Image.Image, str]] = []
    trouble, bad = "", 0
    for raw in spread(facts.readable, number) if facts.readable else ():
        try:
            own = _own_reading(drawing.__name__.split(".")[-2], os.path.dirname(raw["__shard__"]))
            image = Image.fromarray(drawing.of_raw(raw, **(own if reading is None else reading)))
        except Exception as error:  # a damaged file raises almost anything: the sheet shows what can be shown
            trouble, bad = trouble or f" (the first: {error})", bad + 1
            continue
        cells.append((_fitted(image, drawing.CELL), _label(raw, facts.classes)))
    if not cells:
        raise UserError(f"no sample of these shards has a picture that can be shown{trouble}")
    content = _page(cells, drawing.CELL) if out.suffix.lower() == ".html" else _picture(cells, drawing.CELL, say)
    try:
        replace_file(out, content)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}") from error
    if bad and say is not None:
        say(f"{bad:,} of the {plural(bad + len(cells), 'sample')} looked at cannot be shown{trouble}")
    return len(cells)


@functools.lru_cache(maxsize=64)
def _own_reading(modality: str, folder: str) -> Mapping[str, Any]:
    """What the index beside the shards says of how they are read; nothing where it says nothing."""
    index = read_index(Path(folder))
    if index is None or not index.decode or index.modality != modality:
        return {}
    return {"decode": default_decoding(modality, index).build()}


def _fitted(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    from PIL import Image

    scale = min(cell[0] / image.width, cell[1] / image.height)
    smooth = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), smooth)


def _label(raw: Mapping[str, Any], classes: Sequence[str]) -> str:
    value, _ = members.label_of(raw)
    if isinstance(value, int) and value < len(classes):
        return classes[value]
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _picture(
    cells: Sequence[tuple[Image.Image, str]], cell: tuple[int, int], say: Callable[[str], object] | None
) -> bytes:
    from PIL import Image, ImageDraw

    width, height = cell
    columns = max(1, min(16 * _CELL // width, int(np.ceil(np.sqrt(len(cells) * 1.5 * height / width)))))
    lines = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, lines * (height + _GAP + _TEXT) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    missing: dict[str, None] = {}
    for index, (image, label) in enumerate(cells):
        x = _GAP + index % columns * (width + _GAP)
        y = _GAP + index // columns * (height + _GAP + _TEXT)
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        text = printable(label)
        font = font_for("".join(sorted(set(text))))
        if font is None:
            missing[text] = None
        shown = text
        while shown and draw.textlength(shown + ("…" if shown != text else ""), font=font) > width:
            shown = shown[:-1]
        draw.text((x, y + height + 1), shown if shown == text else shown + "…", fill="black", font=font)
    if missing and say is not None:
        first = next(iter(missing))
        which = f"the label {first!r} has" if len(missing) == 1 else f"{len(missing)} labels, such as {first!r}, have"
        say(f"{which} letters that no font of this machine draws: a sheet whose name ends in .html shows them")
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


@functools.lru_cache(maxsize=4096)
def font_for(signs: str, size: int = _FONT_SIZE) -> Any:
    """A font of this machine that has all these signs, ``size`` pixels high; None: no such font is there."""
    from PIL import ImageFont

    plain = ImageFont.load_default(size)
    if signs.isascii():
        return plain
    for path in _fonts():
        try:
            font = ImageFont.truetype(path, size)
            unknown = bytes(font.getmask("\U0010fffe"))  # is no sign: what a font draws in the place of any it lacks
            if all(sign.isspace() or bytes(font.getmask(sign)) != unknown for sign in signs):
                return font
        except (OSError, ValueError):
            continue
    return None


@functools.cache
def _fonts() -> tuple[str, ...]:
    """Upright fonts of this machine, those of many scripts first."""
    found = [
        str(path)
        for folder in _FONTS
        for path in sorted(Path(folder).expanduser().rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    many = ("DejaVuSans.", "NotoSans-Regular", "NotoSansCJK-Regular", "Unifont", "unifont", "Arial Unicode")
    slanted = ("Bold", "Italic", "Oblique", "Mono", "Light", "Condensed", "Narrow")

    def rank(path: str) -> tuple[int, bool]:
        name = os.path.basename(path)
        known = next((index for index, start in enumerate(many) if name.startswith(start)), len(many))
        return known, any(word in name for word in slanted)

    return tuple(sorted(found, key=rank)[:_MOST_FONTS])


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>Contact sheet</title><style>
:root{{color-scheme:light dark}}body{{margin:16px;font:13px/1.35 system-ui,"Noto Sans","DejaVu Sans",sans-serif}}
main{{display:grid;gap:12px 8px;grid-template-columns:repeat(auto-fill,minmax({width}px,1fr))}}
figure{{margin:0}}img{{display:block;max-width:100%}}figcaption{{padding-top:3px;overflow-wrap:anywhere}}
</style></head><body><main>
{cells}
</main></body></html>
"""


def _page(cells: Sequence[tuple[Image.Image, str]], cell: tuple[int, int]) -> bytes:
    figures = [
        f'<figure><img src="{photo(np.asarray(image))}" alt="sample"><figcaption dir="auto">{escape(label)}'
        "</figcaption></figure>"
        for image, label in cells
    ]
    return _PAGE.format(width=cell[0], cells="\n".join(figures)).encode()
