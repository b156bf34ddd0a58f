"""Your own videos: class folders, one flat folder, or a CSV manifest (the layouts: foundation/data/folders.py)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from foundation.data import folders
from foundation.modalities.video.decode import CONTAINERS

CARD = {
    "title": "Your own videos",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "video",
    "splits": ["train", "test"],
    "layout": "the file's own extension, cls (number), json (label's name, path, codec, width, height, fps, seconds)",
    "recipes": {"cpu": "quickstart-video"},
    "size": "any; files of up to a minute or so train best, longer ones give one span per epoch",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folders.add_arguments(parser, ",".join(CONTAINERS), "a video")


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    return folders.samples(arguments, look, "video")


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Facts of the container: codec, width, height, fps, seconds. Decodes nothing."""
    from foundation.modalities.video.pyav import facts

    try:
        return facts(data)
    except ValueError as error:
        raise ValueError(f"not a video ({error})") from error
