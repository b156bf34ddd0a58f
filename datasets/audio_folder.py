"""Your own recordings: class folders, one flat folder, or a CSV manifest (the layouts: foundation/data/folders.py)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from foundation.data import folders
from foundation.modalities.audio.decode import EXTENSIONS, facts

CARD = {
    "title": "Your own recordings",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "audio",
    "splits": ["train", "test"],
    "layout": "the file's own extension, cls (number), json (label's name, path, kind, rate, channels, seconds)",
    "recipes": {"cpu": "quickstart-audio"},
    "size": "any; recordings of more than half an hour are refused in training, cut them first",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folders.add_arguments(parser, ",".join(EXTENSIONS), "a recording")


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    return folders.samples(arguments, look, "audio")


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Facts of the header: kind, rate, channels, seconds. Decodes nothing."""
    return facts(data)
