"""Your own pictures: class folders, one flat folder, or a CSV manifest (the layouts: foundation/data/folders.py)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from foundation.data import folders
from foundation.modalities.image.decode import EXTENSIONS, open_image

CARD = {
    "title": "Your own files",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "the file's own extension, cls (number), json (label's name, path)",
    "recipes": {"cpu": "photos-cpu", "gpu": "photos-gpu"},
    "size": "any",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folders.add_arguments(parser, EXTENSIONS, "a picture")


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    return folders.samples(arguments, look, "image")


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Nothing to write beside a picture; looks at its header."""
    open_image(data).close()
    return {}
