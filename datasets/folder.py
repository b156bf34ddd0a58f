"""Your own pictures: class folders, one flat folder, or a CSV manifest (the layouts: foundation/data/folders.py)."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from typing import Any

from foundation.data import folders

CARD = {
    "title": "Your own files",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "the file's own extension, cls (number), json (label's name, path)",
    "size": "any",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folders.add_arguments(parser, "jpg,jpeg,png,webp,bmp,tif,tiff,gif,ppm,pgm", "a picture")


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    return folders.samples(arguments, look)


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Nothing to write beside a picture; looks at its beginning only."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)):
            return {}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        text = "cannot identify image file" if "cannot identify" in str(error) else str(error)
        raise ValueError(f"not a picture ({text})") from error
