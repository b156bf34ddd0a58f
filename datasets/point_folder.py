"""Your own point clouds: class folders, one flat folder, or a CSV manifest (see foundation/data/folders.py)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from foundation.data import folders

CARD = {
    "title": "Your own point clouds",
    "licence": "yours",
    "source": "a folder or a manifest",
    "citation": "",
    "modality": "points",
    "splits": ["train", "test"],
    "layout": "the file's own extension, cls (number), json (label's name, path, points, numbers per point, extent)",
    "size": "any; clouds beyond a million points train better cut into tiles",
}

classes = folders.classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folders.add_arguments(
        parser, "npy,npz,ply,off,las,laz,pcd.bin,bin,xyz,pts", "a point cloud (txt: --extensions txt)"
    )


def samples(arguments: argparse.Namespace) -> Mapping[str, folders.Split]:
    return folders.samples(arguments, look)


def look(data: bytes, extension: str) -> dict[str, Any]:
    """Facts of the cloud: points, columns, the lengths of its box along x, y and z, and the origin that is taken from a
    cloud far from zero. Reads the whole file."""
    from foundation.modalities.points.decode import decode_bytes

    cloud = decode_bytes(data, extension)
    points = cloud.points
    extent = points[:, :3].max(axis=0) - points[:, :3].min(axis=0)
    facts = {"points": len(points), "columns": points.shape[1], "extent": [float(f"{side:.6g}") for side in extent]}
    return facts | ({"origin": cloud.origin.tolist()} if cloud.origin.any() else {})
