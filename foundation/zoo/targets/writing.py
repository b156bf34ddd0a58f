"""Writing a target: beside the wanted place, checked there by reading it back, and moved only if it agrees."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from foundation.encoders.protocol import EncoderConfig
from foundation.errors import UserError
from foundation.files import sync_folder, temporary_name
from foundation.modalities.parts import evaluation_shape
from foundation.zoo.load import LoadedEncoder, load_encoder
from foundation.zoo.preprocess import Item, Preprocess
from foundation.zoo.targets.base import VIEWS, Source, Target, deviation, find, require, traceable


@dataclass(frozen=True)
class Written:
    """A target that was written and agrees with its encoder.

    Attributes:
        path: file or folder.
        deviation: largest difference between it and the encoder, as a share of the largest value.
        tolerance: that it may have.
        view: shape of the view that both were given.
        real: the view was of samples; else it was random.
        notes: what a user should know, a sentence each.
    """

    path: Path
    deviation: float
    tolerance: float
    view: tuple[int, ...]
    real: bool
    notes: tuple[str, ...]

    @property
    def checked(self) -> str:
        """The check in one line."""
        what = "samples" if self.real else "random numbers"
        return (
            f"checked on {what} {list(self.view)}: its features differ from the encoder's by at most "
            f"{self.deviation:.1e} of the largest value (allowed: {self.tolerance:.0e})"
        )


def export(
    model: Any,
    *,
    to: str,
    out: str | Path,
    samples: Sequence[Item] = (),
    rate: float | None = None,
    branch: str | None = None,
    overwrite: bool = False,
) -> Written:
    """Write an encoder for use without this package, and check it.

    Args:
        model: whatever :func:`foundation.zoo.load.load_encoder` takes, or what it gave.
        to: name of the target: ``safetensors``, ``timm``, ``torch-export``, ``onnx`` or ``transformers``.
        out: the file or the folder to write.
        samples: files or arrays that it is checked with, see :meth:`foundation.zoo.model.Model.forward`; none: with
            random numbers.
        rate: of samples that do not say it, see there.
        branch: of a run.
        overwrite: replace what an earlier export left at ``out``.

    Returns:
        Where it lies, and how far it differs.

    Raises:
        UserError: there is no such target or model; the encoder has no equal there; a package is missing; ``out``
            cannot be written; what was written does not agree with the encoder (nothing is left of it then).
    """
    target, path = find(to), Path(out)
    require(to, target.packages)
    check_place(target, path, overwrite)
    loaded = model if isinstance(model, LoadedEncoder) else load_encoder(model, branch=branch)
    source = source_of(loaded, samples, rate)
    if reason := target.refusal(source):
        raise UserError(f"{loaded.name or model} cannot be written as {to}: {reason}")
    return write_checked(target, source, path, overwrite)


def write_checked(target: Target, source: Source, path: Path, overwrite: bool = False) -> Written:
    """Write an encoder that the target does not refuse.

    Raises:
        UserError: as :func:`export`.
    """
    check_place(target, path, overwrite)
    with placing(target, path) as place:
        notes = _written(target, source, place, path)
        off = compared(target, source, place)
        if not off <= target.tolerance:
            raise UserError(
                f"what was written of {source.loaded.name} does not agree with the encoder: features differ by "
                f"{off:.1e} of the largest value, allowed are {target.tolerance:.0e}; {path} was not written"
            )
    return Written(path, off, target.tolerance, tuple(source.view.shape), source.real, tuple(notes))


def _written(target: Target, source: Source, place: Path, path: Path) -> Sequence[str]:
    """What the target says; a disk that is full is an error of one line, whichever library has met it."""
    try:
        return target.write(source, place)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing of it was left there") from None
    except SafetensorError as error:
        if "I/O error" not in str(error):
            raise
        raise UserError(f"cannot write {path}: {error}; nothing of it was left there") from None


def source_of(loaded: LoadedEncoder, samples: Sequence[Item] = (), rate: float | None = None) -> Source:
    """What targets are written from.

    Args:
        loaded: the encoder; it stays as it is.
        samples: that its view is made of; none: random numbers, with seed 0.
        rate: of samples that do not say it.

    Raises:
        UserError: samples that cannot be read.
    """
    modality, evaluation = loaded.own
    if samples:
        view = Preprocess(modality, evaluation)(list(samples), rate=rate)
    else:
        shape = evaluation_shape(modality, evaluation)
        view = torch.randn(VIEWS, *shape, generator=torch.Generator().manual_seed(0))
    encoder = traceable(loaded.encoder, modality)
    assert isinstance(encoder.config, EncoderConfig)
    return Source(loaded, encoder, modality, evaluation, view, bool(samples))


def compared(target: Target, source: Source, place: Path) -> float:
    """Largest deviation of what lies at ``place`` from the encoder: on the whole view and on its first row alone, so
    that a number of rows that was written into it shows."""
    read = target.read(place)
    worst = 0.0
    for view in (source.view, source.view[:1]):
        found = {name: _plain(value) for name, value in read(view).items()}
        worst = max(worst, deviation(source.outputs(view), found))
    return worst


def _plain(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32)


def check_place(target: Target, path: Path, overwrite: bool) -> None:
    """Refuse a place before any work.

    Raises:
        UserError: something is there and may not be replaced, or the name does not fit.
    """
    if target.ending and path.suffix != target.ending:
        raise UserError(f"--out {path}: the name of such a file ends in {target.ending}")
    if not target.ending and path.is_symlink():
        raise UserError(f"--out {path} is a link: name the folder itself")
    there = [one for one in (path, *(target.beside(path) if target.ending else ())) if one.exists() or one.is_symlink()]
    if not there:
        return
    if not overwrite:
        raise UserError(f"{there[0]} exists already: name another, or add --overwrite")
    if target.ending:
        if wrong := [one for one in there if not one.is_file()]:
            raise UserError(f"{wrong[0]} is no file: name another")
        return
    if not path.is_dir():
        raise UserError(f"{path} is no folder: name another")
    known = {one.name for one in target.beside(path)}
    if strange := sorted(one.name for one in path.iterdir() if one.name not in known):
        raise UserError(f"{path} is not replaced: it has {strange[0]}, which is of no such export")


@contextmanager
def placing(target: Target, path: Path) -> Iterator[Path]:
    """A place to write to, in a hidden folder beside ``path``; what is there at the end of the block replaces ``path``,
    and nothing does where the block fails.

    Raises:
        UserError: the folder cannot be written to.
    """
    hidden = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    try:
        place = hidden / path.name
        if not target.ending:
            place.mkdir()
        yield place
        if target.ending:
            for part in target.beside(place):
                if part.exists():
                    part.replace(path.with_name(part.name))
                else:
                    path.with_name(part.name).unlink(missing_ok=True)  # of an earlier, larger one
        elif path.exists():
            path.rename(hidden / ".before")
        place.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
