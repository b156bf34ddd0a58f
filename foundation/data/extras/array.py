"""Arrays of one shape: features of a teacher that were computed before, token numbers of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.data.extras.member import Member
from foundation.data.shards import RawSample
from foundation.ranges import Count, Length


@dataclass(frozen=True, kw_only=True)
class Config(Member):
    """Array members (``npy``), stacked to [B, ...]."""

    shape: Annotated[tuple[Count, ...], Length(1, 16)]
    """Sizes of the axes; a sample with others is bad."""
    dtype: Literal["float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"] = "float32"
    """Type of its numbers, which stays; a sample with another is bad."""

    def read(self, payload: bytes, raw: RawSample) -> NDArray[Any]:
        """See :meth:`Member.read`."""
        array = self.array(payload, raw)
        if array.shape != self.shape or array.dtype.name != self.dtype:
            wanted = f"{self.dtype} {list(self.shape)}"
            raise self.refused(raw, "shape", f"{array.dtype.name} {list(array.shape)}, where {wanted} is wanted")
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def collate(self, values: Sequence[NDArray[Any]]) -> Tensor:
        """[B, *shape]."""
        return torch.from_numpy(np.stack(values)) if values else torch.empty(0)
