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
    "size": "any; files of up to a minute or so train best, longer ones give one span per epoch",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folders.add_arguments(parser, ",".join(CONTAINERS), "a video")


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    return folders.samples(arguments, look, "video")


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Facts of the container: codec, width, height, fps, seconds. Decodes nothing."""
    from foundation.modalities.video.pyav import library, open_container

    av = library()
    try:
        with open_container(data) as container:
            if not container.streams.video:
                raise ValueError("not a video (no video track)")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None or not context.width or not context.height:
                raise ValueError("not a video (unknown codec or no size)")
            facts = {"codec": context.name, "width": context.width, "height": context.height}
            if stream.average_rate:
                facts["fps"] = round(float(stream.average_rate), 3)
            if container.duration:
                facts["seconds"] = round(container.duration / 1e6, 3)
            return facts
    except av.error.FFmpegError as error:
        raise ValueError(f"not a video ({error})") from error
