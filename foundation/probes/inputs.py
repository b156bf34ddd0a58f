"""What a person names to look at: files, folders of files, or shards; and the features of files."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from foundation.counter import Draws
from foundation.data.addresses import is_remote
from foundation.data.boundary import decoded
from foundation.data.pipeline import EvalBatch, EvalPipeline, Plan
from foundation.data.tally import Tally
from foundation.data.walk import walk
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import in_pieces, in_time, pieces_to_cover
from foundation.paths import near_path
from foundation.probes.beforehand import LOOKED_AT
from foundation.probes.features import FeatureSet, extract
from foundation.zoo.load import LoadedEncoder
from foundation.zoo.preprocess import Preprocess


def find_files(sources: Sequence[str], preprocess: Preprocess, left_out: Tally) -> list[Path] | None:
    """The files that some words of a user mean; None where they mean shards.

    Raises:
        UserError: files and shards together, nothing there, or nothing that the model reads.
    """
    files: list[Path] = []
    shards = 0
    for source in sources:
        path = Path(source).expanduser()
        if is_remote(source) or path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
            shards += 1
        elif path.is_dir():
            files += [path / found.name for found in walk(path, left_out)]
        elif path.is_file():
            files.append(path)
        elif found := [Path(name) for name in sorted(glob.glob(str(path))) if Path(name).is_file()]:
            files += found
        else:
            raise UserError(f"{source} does not exist{near_path(path)}")
    for file in files:
        if preprocess.extension_of(file) is None:
            left_out.add(file.suffix or "no extension", str(file))
    files = [file for file in files if preprocess.extension_of(file) is not None]
    if shards and files:
        raise UserError("files and shards in one command: take them one after the other")
    if not shards and not files:
        kinds = ", ".join(f"{number} {reason}" for reason, number in left_out.counts.items()) or "empty"
        raise UserError(
            f"{' '.join(sources)}: no files that this model reads ({kinds}); it takes {preprocess.modality} files: "
            f"{', '.join(preprocess.extensions)}"
        )
    return None if shards else files


def features_of_files(
    loaded: LoadedEncoder,
    files: Sequence[Path],
    preprocess: Preprocess,
    rate: float | None,
    batch_size: int,
    pieces: int = 1,
) -> FeatureSet:
    """Features of files in their order, the mean over several pieces of each; files that cannot be used are counted.

    Raises:
        UserError: none can be used, or there are no pieces of what has no time.
    """
    device = next(loaded.encoder.parameters()).device
    batches = file_batches(files, preprocess, rate, batch_size, pieces)
    found = extract(
        loaded.encoder, batches, device=device, total=-(-len(files) // batch_size), what="features", pieces=pieces
    )
    return dataclasses.replace(found, keys=tuple(str(files[number]) for number in found.ids.tolist()))


def pieces_of_files(files: Sequence[Path], preprocess: Preprocess, rate: float | None) -> int:
    """As :func:`foundation.probes.beforehand.pieces_of`, of the longest of a few files."""
    if not in_time(preprocess.evaluation):
        return 1
    samples = []
    for number in sorted({round(place) for place in np.linspace(0, len(files) - 1, LOOKED_AT)}):
        with suppress(SampleError):
            samples.append(decoded(preprocess.decode, preprocess.raw(files[number], rate, number)))
    return pieces_to_cover(preprocess.evaluation, samples)


def file_batches(
    files: Sequence[Path], preprocess: Preprocess, rate: float | None, batch_size: int, pieces: int = 1
) -> Iterator[EvalBatch]:
    """Batches of evaluation views of files, whose ids are places in ``files``.

    Args:
        files: that :func:`find_files` found.
        preprocess: of the model.
        rate: samples, readings or frames per second of files that do not say it.
        batch_size: files of a batch.
        pieces: views of each file, along its time.
    """

    def read(number: int) -> Any:
        try:
            return preprocess.raw(files[number], rate, number)
        except SampleError as error:
            return error

    views = preprocess.views
    if pieces > 1:
        views = in_pieces(preprocess.modality, preprocess.evaluation, pieces)
    pipeline = EvalPipeline(preprocess.decode, views)  # type: ignore[arg-type]
    for start in range(0, len(files), batch_size):
        numbers = range(start, min(start + batch_size, len(files)))
        draws = Draws(0, np.zeros(len(numbers), np.int64), np.array(numbers, np.int64))
        plan = Plan(start, 0, len(numbers), len(numbers), 0)
        yield pipeline([read(number) for number in numbers], draws, plan, _no_other)


def _no_other(row: int, attempt: int) -> Any:
    raise AssertionError("no other sample takes the place of a bad one here")
