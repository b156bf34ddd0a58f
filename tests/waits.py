"""What a GPU would have to be waited for, counted on a CPU: operators whose result the host needs before it goes on."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]

ALWAYS = {
    "aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select", "aten.is_nonzero",
    "aten.unique_dim", "aten._unique2", "aten._unique", "aten.unique_consecutive", "aten.bincount", "aten.lift_fresh",
    "aten.linalg_svd", "aten._linalg_svd", "aten._linalg_eigh", "aten.linalg_eig", "aten.linalg_lstsq",
}  # fmt: skip
"""Operators that wait whatever their arguments are. ``lift_fresh`` is ``torch.tensor(...)``: numbers of the host, which
a GPU gets by a copy that waits."""
ON_THE_HOST = ("foundation/host_arrays.py", "foundation/encoders/timm_models.py")
"""Files whose tensors are the host's: arrays on their way to page-locked memory, models that are being made."""
METHODS = ("tolist", "numpy", "cpu", "__array__")
"""Methods of a tensor that hand its values to the host, some of them past all operators."""


class Waits(TorchDispatchMode):
    """While entered, counts what would wait, by the innermost line of ours that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._free, self._thread = 0, threading.get_ident()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._waits(func, args, kwargs):
            self.note(str(func))
        return func(*args, **kwargs)

    @staticmethod
    def _waits(func: Any, args: Any, kwargs: Any) -> bool:
        name = func._schema.name.replace("::", ".").rstrip("_")
        if name == "aten.repeat_interleave":
            return args[-1] is not None and kwargs.get("output_size") is None
        if name in ("aten.index", "aten.index_put"):
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return name in ALWAYS

    def note(self, what: str) -> None:
        """Count one, unless it happens where waiting is allowed."""
        if not self._free and threading.get_ident() == self._thread:  # checkpoints are written by another
            lines = [line for line in traceback.extract_stack() if _is_ours(line.filename)]
            where = f"{Path(lines[-1].filename).relative_to(ROOT)}:{lines[-1].lineno}" if lines else "somewhere"
            if lines and lines[-1].filename.endswith(ON_THE_HOST):
                return
            self.found[f"{where}: {what}"] += 1

    @contextmanager
    def free(self) -> Iterator[None]:
        """Around what may wait."""
        self._free += 1
        try:
            yield
        finally:
            self._free -= 1


def _is_ours(file: str) -> bool:
    return file.startswith(str(ROOT / "foundation"))


@contextmanager
def counted() -> Iterator[Waits]:
    """``with counted() as waits: ...``: what would have waited is in ``waits.found``."""
    waits = Waits()

    def told(name: str) -> Callable[..., Any]:
        inner = getattr(Tensor, name)

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            waits.note(f"Tensor.{name}")
            with waits.free():
                return inner(self, *args, **kwargs)

        return method

    with ExitStack() as stack:
        for name in METHODS:
            stack.enter_context(mock.patch.object(Tensor, name, told(name)))
        stack.enter_context(waits)
        yield waits


def allowed(waits: Waits, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may wait while the others are counted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with waits.free():
            return function(*args, **kwargs)

    return call
