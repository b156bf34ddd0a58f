"""Maps of regions: for every pixel the number of the region, superpixel or class that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from foundation.data.extras.member import Member
from foundation.data.shards import RawSample
from foundation.ranges import Side

_BYTES = 4  # of a number of the map
_KINDS = ("L", "P", "I;16", "I", "1")  # numbers of PNG files; colours are no numbers of regions


@dataclass(frozen=True, kw_only=True)
class Config(Member):
    """Maps of whole numbers (``png`` with one channel or a palette, ``npy``) in the geometry of the sample."""

    size: tuple[Side, Side] | None = None
    """Height and width that all are brought to by the nearest pixel, and stacked to [B, height, width] int32. None: a
    tuple of B maps, each as large as its sample."""

    def read(self, payload: bytes, raw: RawSample) -> NDArray[np.int32]:
        """See :meth:`Member.read`."""
        found = self._png(payload, raw) if payload.startswith(b"\x89PNG") else self.array(payload, raw)
        if found.ndim != 2 or found.dtype.kind not in "biu" or not found.size:
            raise self.refused(
                raw, "shape", f"{found.dtype.name} {list(found.shape)}, where whole numbers [H, W] belong"
            )
        if found.dtype.itemsize > 2 and not (int(found.min()) >= -(2**31) and int(found.max()) < 2**31):
            raise self.refused(raw, "range", "numbers of regions beyond 32 bits")
        if self.size is not None:
            rows, columns = (
                ((np.arange(wanted) + 0.5) * there / wanted).astype(np.int64)
                for wanted, there in zip(self.size, found.shape, strict=True)
            )
            found = found[rows][:, columns]
        return found.astype(np.int32)

    def _png(self, payload: bytes, raw: RawSample) -> NDArray[np.generic]:
        with Image.open(BytesIO(payload), formats=("PNG",)) as image:  # the header alone
            if image.width * image.height * _BYTES > self.max_bytes:
                said = f"{image.width} x {image.height} pixels are more than max_mib = {self.max_mib:g}"
                raise self.refused(raw, "too_large", said)
            if image.mode not in _KINDS:
                raise self.refused(raw, "shape", f"a picture in colour (mode {image.mode}), not numbers of regions")
            return np.asarray(image)

    def collate(self, values: Sequence[NDArray[np.int32]]) -> Tensor | tuple[Tensor, ...]:
        """See :attr:`size`."""
        maps = tuple(map(torch.from_numpy, values))
        return maps if self.size is None else torch.stack(maps)
