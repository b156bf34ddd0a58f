"""From files, arrays and pictures in memory to the views that an encoder takes, as its probes see them."""

from __future__ import annotations

import importlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from foundation.data.boundary import decoded, good_views
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import in_pieces
from foundation.paths import near_path
from foundation.plugins import resolve
from foundation.types import Sample

Item: TypeAlias = Any
"""One sample: a path, an array, or whatever else the modality takes (a PIL image)."""


class Preprocess:
    """The evaluation view of one modality: ``preprocess(x)`` gives what ``model(x)`` would look at.

    Args:
        modality: folder name in ``foundation/modalities``.
        evaluation: its ``EvaluationConfig``.

    Attributes:
        extensions: of the files that are read, without dots.
    """

    def __init__(self, modality: str, evaluation: Any) -> None:
        # Of samples of several sensors, the evaluation names the one that is looked at.
        self.modality = str(getattr(evaluation, "modality", modality))
        module = resolve("foundation.modalities.{name}.decode", self.modality)
        self._package = module.__name__.rpartition(".")[0]
        self.extensions: tuple[str, ...] = tuple(vars(module).get("EXTENSIONS", ()))
        config = getattr(evaluation, "decode", None) or module.Config()
        self.decode: Callable[[Any], Sample] = config.build()
        self.evaluation = evaluation
        self.views: Callable[[Sequence[Sample]], Tensor] = evaluation.build()

    def __call__(self, x: Item | Sequence[Item], *, rate: float | None = None, pieces: int = 1) -> Tensor:
        """Views [batch, ...] float32 on the CPU, normalised; of several pieces [batch, pieces, ...].

        Args:
            x: one sample or a list of them; see :meth:`foundation.zoo.model.Model.forward`.
            rate: samples, readings or frames per second, where neither file nor array says it.
            pieces: views of each recording, spread evenly from its begin to its end; 1: its middle.

        Raises:
            UserError: something is no file, or of another kind than the model takes; several pieces of what has no
                time.
            SampleError: a file that cannot be used; names it.
        """
        make = self.views if pieces == 1 else in_pieces(self.modality, self.evaluation, pieces)
        items = list(x) if isinstance(x, list | tuple) else [x]
        if not items:
            raise UserError("no samples were given: an empty list has no features")
        samples = [decoded(self.decode, self.raw(item, rate, number)) for number, item in enumerate(items)]
        views, _, bad = good_views(make, samples)
        if bad or views is None:
            raise bad[0][1]
        return views

    def raw(self, item: Item, rate: float | None = None, number: int = 0) -> dict[str, Any]:
        """One sample as a shard would hold it: members by extension, beside its key and number.

        Raises:
            UserError, SampleError: as for a call.
        """
        if isinstance(item, str | os.PathLike):
            folder, key, members = self._of_file(Path(item))
        else:
            folder, key, members = "memory", f"number {number}", self._of_memory(item, rate)
        if rate is not None:
            members["json"] = json.dumps({f"{self.modality}_rate": rate}).encode()
        return {"__key__": key, "__shard__": folder, "__id__": number, **members}

    def extension_of(self, path: Path) -> str | None:
        """The extension by which a file is read (``pcd.bin`` rather than ``bin``), None where it is not."""
        name = path.name.lower()
        found = [extension for extension in self.extensions if name.endswith("." + extension)]
        return max(found, key=len, default=None)

    def _of_file(self, path: Path) -> tuple[str, str, dict[str, bytes]]:
        path = path.expanduser()
        if not path.is_file():
            what = "is a folder: give its files" if path.is_dir() else f"does not exist{near_path(path)}"
            raise UserError(f"{path} {what}")
        extension = self.extension_of(path)
        if extension is None:
            raise UserError(
                f"{path}: this model takes {self.modality} files ({', '.join(self.extensions)}); shards are read by "
                "'foundation embed'"
            )
        try:
            return str(path.parent), path.name, {extension: path.read_bytes()}
        except OSError as error:
            raise SampleError(str(path.parent), path.name, "unreadable", str(error)) from error

    def _of_memory(self, value: Any, rate: float | None) -> dict[str, bytes]:
        try:
            module = importlib.import_module(f"{self._package}.arrays")
        except ModuleNotFoundError as error:
            if error.name != f"{self._package}.arrays":
                raise
            return {"npy": self._npy(value)}
        found: dict[str, bytes] = module.members(value, rate)
        return found

    def _npy(self, value: Any) -> bytes:
        """An array as the file that ``numpy.save`` would write; its decoder checks type and shape."""

        array, data = np.asarray(value), io.BytesIO()
        if array.dtype.kind not in "fiu" or "npy" not in self.extensions:
            raise UserError(f"{type(value).__name__} is nothing that a model of {self.modality} takes: give a path")
        np.save(data, array, allow_pickle=False)
        return data.getvalue()
