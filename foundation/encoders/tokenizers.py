"""What a tokenizer is for an encoder: how it is built, and what it can say of its tokens."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@runtime_checkable
class TokenizerConfig(Protocol):
    """How an input becomes tokens: ``foundation/modalities/*/tokenizer.py``."""

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]: ...

    def build(self, width: int) -> Any: ...


@runtime_checkable
class StemmedTokenizerConfig(TokenizerConfig, Protocol):
    """One with layers in front of its last projection whose width follows that of a token, unless it is given."""

    def with_stem_of(self, width: int) -> TokenizerConfig: ...


@runtime_checkable
class ScatteredTokenizerConfig(TokenizerConfig, Protocol):
    """One whose tokens lie on no grid, but elsewhere in every sample."""

    @property
    def dimensions(self) -> int: ...

    def coordinates_of(self, view: Tensor) -> Tensor: ...


@runtime_checkable
class CoveringTokenizer(Protocol):
    """A tokenizer that says what numbers a token covers."""

    @property
    def cell_shape(self) -> tuple[int, ...]: ...

    def cells(self, view: Tensor) -> Tensor: ...


@runtime_checkable
class SpreadingTokenizer(Protocol):
    """A tokenizer that says where in the view a token lies."""

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor: ...
