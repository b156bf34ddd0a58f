"""Your own point clouds: class folders, one flat folder, or a CSV manifest (see foundation/data/folders.py)."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from typing import Any

from foundation.data import folders
from foundation.modalities.points.decode import EXTENSIONS

CARD = {
    "title": "Your own point clouds",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "points",
    "splits": ["train", "test"],
    "layout": "the file's own extension, cls (number), json (label's name, path, points, numbers per point, extent)",
    "recipes": {"cpu": "quickstart-points"},
    "size": "any; clouds beyond a million points train better cut into tiles",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = [extension for extension in EXTENSIONS if extension != "txt"]  # those are mostly somebody's notes
    folders.add_arguments(parser, usual, "a point cloud (for .txt: --extensions +txt)")


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    splits = folders.samples(arguments, look, "points", describe)
    seen: Counter[int] = Counter()
    for split in splits.values():
        split.alike, split.seen = "columns", seen  # one batch holds clouds of one width: see views.channels
    return splits


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Nothing: formats of points say too little in their headers."""
    return {}


def describe(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a decoded cloud: points, columns, the lengths of its box along x, y and z, and the origin that was taken
    from a cloud far from zero."""
    points = sample["points"].numpy()
    extent = points[:, :3].max(axis=0) - points[:, :3].min(axis=0)
    facts = {"points": len(points), "columns": points.shape[1], "extent": [float(f"{side:.6g}") for side in extent]}
    origin = sample.get("points_origin")
    return facts | ({} if origin is None or not any(origin) else {"origin": [float(number) for number in origin]})
