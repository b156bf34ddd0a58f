"""ModelNet10 and ModelNet40 (Wu et al. 2015) from their published folders or archives.

Layouts, as a folder or a .zip of it::

    ModelNet40/airplane/train/airplane_0001.off     the meshes: points are drawn from their surface, by area
    ModelNet40/airplane/test/airplane_0627.off
    modelnet40_normal_resampled/airplane/airplane_0001.txt     10,000 points with normals (the files of PointNet++)
    modelnet40_normal_resampled/modelnet40_train.txt, modelnet40_test.txt (or modelnet10_...): names of each split

Coordinates stay in the file's unit: the views bring every shape to the unit sphere.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from foundation.data.walk import is_hidden
from foundation.errors import UserError
from foundation.ranges import Side, argument

CARD = {
    "title": "ModelNet: shapes of 10 or 40 classes",
    "licence": "for research; the makers of the models hold their copyright",
    "source": "https://modelnet.cs.princeton.edu",
    "citation": "Wu et al. 2015, 3D ShapeNets: A Deep Representation for Volumetric Shapes",
    "modality": "points",
    "splits": ["train", "test"],
    "layout": "npy float32 [points, 3] or, of resampled files, [points, 6] with normals; cls",
    "size": "ModelNet40: 9,843 + 2,468 shapes (about 0.6 GB with 2,048 points and normals); ModelNet10: 3,991 + 908",
}
_LARGEST = 1 << 28
"""Bytes of one file of an archive when unpacked; the largest mesh has some 80 million."""
_MESH = re.compile(r"(?:.*/)?(?P<label>[^/]+)/(?P<split>train|test)/(?P<key>[^/]+)\.off", re.IGNORECASE)
_LIST = re.compile(r"(?:.*/)?modelnet(?P<classes>10|40)_(?P<split>train|test)\.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=Path, required=True, help="ModelNet10 or ModelNet40: folder or .zip")
    parser.add_argument(
        "--points",
        type=argument(Side),
        default=2048,
        help="points of a shape: drawn from a mesh, or the first of a resampled file",
    )
    parser.add_argument(
        "--subset", choices=("10", "40"), default="40", help="which list of a resampled folder (default: %(default)s)"
    )


@dataclass(frozen=True)
class _Shape:
    """One file: its name in the source, key, class and split."""

    name: str
    key: str
    label: str
    split: str


def samples(arguments: argparse.Namespace) -> Mapping[str, _Split]:
    """The splits, read while they are written.

    Raises:
        UserError: no such source, or none of the known layouts.
    """
    if arguments.points < 64:
        raise UserError(f"--points {arguments.points}: give at least 64 (usual: 1024 or 2048)")
    shapes, read = _find(arguments.source, arguments.subset)
    names = classes(arguments)
    splits: dict[str, list[_Shape]] = {}
    for shape in shapes:
        splits.setdefault(shape.split, []).append(shape)
    return {
        split: _Split(splits[split], {name: number for number, name in enumerate(names)}, read, arguments.points)
        for split in ("train", "test")
        if split in splits
    }


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in alphabetical order as everywhere."""
    return sorted({shape.label for shape in _find(arguments.source, arguments.subset)[0]})


@lru_cache(maxsize=2)
def _find(source: Path, subset: str) -> tuple[tuple[_Shape, ...], Callable[[str], bytes]]:
    """All shapes, and how to read a file of the source."""
    names, read = _open(source)
    found = [_MESH.fullmatch(name) for name in names]
    meshes = [
        _Shape(match[0], match["key"], match["label"], match["split"].lower())
        for match in found
        if match and not any(map(is_hidden, PurePosixPath(match[0]).parts))
    ]
    if meshes:
        return tuple(sorted(meshes, key=lambda shape: shape.name)), read
    lists = {
        match["split"]: match[0]
        for match in map(_LIST.fullmatch, names)
        if match and match["classes"] == subset and not any(map(is_hidden, PurePosixPath(match[0]).parts))
    }
    if set(lists) != {"train", "test"}:
        raise UserError(
            f"{source}: neither meshes (airplane/train/airplane_0001.off) nor the lists of a resampled folder "
            f"(modelnet{subset}_train.txt and modelnet{subset}_test.txt)"
        )
    shapes = []
    for split, name in sorted(lists.items()):
        for line in read(name).decode("utf-8", "replace").split():
            if not re.fullmatch(r"[A-Za-z0-9_-]+_[0-9]+", line):  # nothing that could lead out of the folder
                raise UserError(f"{name}: {line!r} does not look like airplane_0001")
            label = line.rpartition("_")[0]
            shapes.append(_Shape(str(PurePosixPath(name).parent / label / f"{line}.txt"), line, label, split))
    return tuple(shapes), read


def _open(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Names of all files of a folder or archive, and how to read one."""
    if source.is_dir():
        paths = (path for path in source.rglob("*") if path.suffix.lower() in (".off", ".txt") and path.is_file())
        return sorted(path.relative_to(source).as_posix() for path in paths), lambda name: (source / name).read_bytes()
    if not source.is_file():
        raise UserError(f"--source {source}: no such file or folder; download it from {CARD['source']}")
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"--source {source}: no whole .zip archive ({error}); download it again") from error

    def read(name: str) -> bytes:
        try:
            info = archive.getinfo(name)
            if info.file_size > _LARGEST:
                raise OSError(f"{info.file_size} bytes when unpacked are more than {_LARGEST}")
            return archive.read(info)
        except KeyError:
            raise OSError("not in the archive") from None
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(str(error)) from error

    return sorted(info.filename for info in archive.infolist() if not info.is_dir()), read


@dataclass
class _Split:
    """Shapes of one split; those that cannot be read are left out and named in ``problems``."""

    shapes: list[_Shape]
    numbers: Mapping[str, int]
    read: Callable[[str], bytes]
    points: int
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import numpy as np

        from foundation import counter
        from foundation.modalities.points.decode import Config, decode_bytes

        config = Config(surface_points=self.points)
        # Shuffled once: in the order of the names, the first shards would hold airplanes only.
        order = counter.permutation(0, 0, 0, f"modelnet.{self.shapes[0].split}", len(self.shapes))
        for row in order.tolist():
            shape = self.shapes[row]
            try:
                extension = shape.name.rpartition(".")[2].lower()
                points = decode_bytes(self.read(shape.name), extension, config).points[: self.points]
            except (OSError, ValueError) as error:
                self.problems.append(f"{shape.name}: {error}")
                continue
            stream = io.BytesIO()
            np.save(stream, np.ascontiguousarray(points, np.float32), allow_pickle=False)
            key = re.sub(r"[^A-Za-z0-9_-]+", "_", shape.key)
            yield {"__key__": key, "npy": stream.getvalue(), "cls": str(self.numbers[shape.label]).encode()}
