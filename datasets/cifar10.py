"""CIFAR-10 from its published archive, or from image folders.

The archive ``cifar-10-binary.tar.gz`` holds plain bytes; ``cifar-10-python.tar.gz`` holds pickles, which are read by
an unpickler that knows nothing but NumPy arrays, so that a doctored archive can do no harm. Either may be unpacked.
"""

from __future__ import annotations

import argparse
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.data.tally import Tally
from foundation.data.walk import is_hidden
from foundation.errors import SampleError, UserError

CARD = {
    "title": "CIFAR-10",
    "licence": "none stated; for research use",
    "source": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "citation": "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    "modality": "image",
    "splits": ["train", "test"],
    "layout": "png (folders: the file's own), cls",
    "size": "50,000 + 10,000 pictures, 150 MB",
}
_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_PIXELS = 3 * 32 * 32
_BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the user can choose."""
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        help="cifar-10-binary.tar.gz, cifar-10-python.tar.gz, a folder of either unpacked, or a folder with "
        "train/CLASS/* and test/CLASS/*",
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the labels, in the order of the archive."""
    return list(_NAMES)


def samples(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The splits, read while they are written.

    Raises:
        UserError: the source is missing or is none of the layouts.
    """
    source: Path = arguments.source
    if source.is_dir():
        if (source / "train").is_dir() and (source / "test").is_dir():
            return {split: _FolderSplit(_images(source, split), split) for split in ("train", "test")}
        files = {path.name: path for path in source.rglob("*") if path.is_file() and "_batch" in path.name}
        return _archive_splits(source, {name: path.read_bytes for name, path in files.items()})
    if not source.is_file():
        raise UserError(f"--source {source}: no such file or folder; get an archive from {CARD['source']}")
    try:
        members = _members(source)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"--source {source}: not a readable tar archive ({error}); download it again") from error
    return _archive_splits(source, {name: (lambda data=data: data) for name, data in members.items()})  # type: ignore[misc]


def _members(source: Path) -> dict[str, bytes]:
    """The batches of an archive by file name; nothing is unpacked to disk."""
    members = {}
    with tarfile.open(source, "r:*") as archive:
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and "_batch" in name and (file := archive.extractfile(member)) is not None:
                members[name] = file.read()
    return members


def _archive_splits(source: Path, files: Mapping[str, Callable[[], bytes]]) -> Mapping[str, _ArchiveSplit]:
    splits = {}
    for split, names in _BATCHES.items():
        for suffix, parse in ((".bin", _parse_binary), ("", _parse_pickle)):
            present = [name + suffix for name in names if name + suffix in files]
            if present:
                missing = [name + suffix for name in names if name + suffix not in files]
                if missing:
                    raise UserError(f"--source {source}: {', '.join(missing)} missing; download the archive again")
                splits[split] = _ArchiveSplit(split, [(name, files[name]) for name in present], parse)
                break
        else:
            raise UserError(
                f"--source {source}: holds neither {names[0]}.bin (binary) nor {names[0]} (python) nor train/ and test/"
            )
    return splits


@dataclass(frozen=True)
class _ArchiveSplit:
    split: str
    batches: list[tuple[str, Callable[[], bytes]]]
    parse: Callable[[str, bytes], tuple[NDArray[np.uint8], NDArray[np.int64]]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from PIL import Image

        number = 0
        for name, read in self.batches:
            pixels, labels = self.parse(name, read())
            for image, label in zip(pixels, labels.tolist(), strict=True):
                buffer = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=6)
                yield {
                    "__key__": f"{self.split}-{_NAMES[label]}-{number:05d}",
                    "png": buffer.getvalue(),
                    "cls": str(label).encode(),
                }
                number += 1


def _parse_binary(name: str, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One label byte, then 1024 red, 1024 green and 1024 blue bytes, again and again."""
    if not data or len(data) % (_PIXELS + 1):
        raise UserError(f"{name}: {len(data)} bytes are not a whole number of pictures of {_PIXELS + 1} bytes")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, _PIXELS + 1)
    return _checked(name, rows[:, 1:], rows[:, 0].astype(np.int64))


def _parse_pickle(name: str, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UserError(f"{name}: not a batch of CIFAR-10 ({error})") from error
    if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
        raise UserError(f"{name}: not a batch of CIFAR-10 (no 'data' and 'labels')")
    return _checked(name, np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], dtype=np.int64))


def _checked(name: str, pixels: NDArray[Any], labels: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
        raise UserError(
            f"{name}: pictures are {pixels.dtype} {pixels.shape}, expected uint8 ({len(labels)}, {_PIXELS})"
        )
    if len(labels) and (labels.min() < 0 or labels.max() >= len(_NAMES)):
        raise UserError(f"{name}: labels from {labels.min()} to {labels.max()}, expected 0 to 9")
    return pixels.reshape(-1, 3, 32, 32), labels


class _ArraysOnly(pickle.Unpickler):
    """Knows the three names with which a pickle describes a NumPy array, and the one for bytes under protocol 2."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"refused: it asks for {module}.{name}")
        if name == "_reconstruct":
            from numpy._core.multiarray import _reconstruct

            return _reconstruct
        return super().find_class(module, name)


def _images(source: Path, split: str) -> list[tuple[Path, int]]:
    folders = sorted(path for path in (source / split).iterdir() if path.is_dir() and not is_hidden(path.name))
    unknown = [folder.name for folder in folders if folder.name not in _NAMES]
    if unknown or not folders:
        raise UserError(
            f"{source / split}: {'unknown classes ' + ', '.join(unknown[:3]) if unknown else 'no class folders'}; "
            f"expected {', '.join(_NAMES)}. For other pictures use 'foundation data build folder'"
        )
    kinds = (".png", ".jpg", ".jpeg")
    return [
        (path, _NAMES.index(folder.name))
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in kinds and not is_hidden(path.name)
    ]


@dataclass(frozen=True)
class _FolderSplit:
    files: list[tuple[Path, int]]
    split: str
    left_out: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from foundation import counter
        from foundation.data.items import decoder_of, tried

        decode = decoder_of("image")
        # Shuffled once: in folder order, the first shards would hold airplanes only.
        for row in counter.permutation(0, 0, 0, f"cifar10.{self.split}", len(self.files)).tolist():
            path, label = self.files[row]
            stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in path.stem)
            try:
                sample = {
                    "__key__": f"{self.split}-{_NAMES[label]}-{stem}",
                    path.suffix.lower().lstrip("."): path.read_bytes(),
                    "cls": str(label).encode(),
                }
                tried(decode, sample)
            except OSError as error:
                self.left_out.add("unreadable", f"{_NAMES[label]}/{path.name}", error.strerror or str(error))
            except SampleError as error:
                self.left_out.add(error.reason, f"{_NAMES[label]}/{path.name}", error.detail)
            else:
                yield sample
