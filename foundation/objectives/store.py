"""Stores: one value for each sample of the data, kept from one visit to the next (pseudo labels, past predictions)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.parallel import collective


class Store(nn.Module):
    """A value for each sample, equal in all processes.

    Args:
        samples: number of samples S of the data.
        shape: of one value.
        dtype: of the values.
        fill: what stands where nothing has been written.
        classes: the values are class numbers below this; None: they are none.

    Attributes:
        values: [S, *shape].
    """

    values: Tensor

    def __init__(
        self,
        samples: int,
        shape: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
        fill: Any = 0,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("values", torch.full((samples, *shape), fill, dtype=dtype))

    def read(self, index: Tensor) -> Tensor:
        """[B, *shape] of the samples ``Batch.index`` [B]."""
        return self.values.index_select(0, index)

    @torch.no_grad()
    def write(self, index: Tensor, values: Tensor) -> None:
        """Put values [B, *shape] of samples [B]; those of all processes arrive in all. All processes call it, each with
        as many rows."""
        index, values = (collective.gather_views(part, 1) for part in (index, values.to(self.values.dtype)))
        self.values.index_copy_(0, index, values)


class Stores:
    """The stores of a run by name; the first who opens one makes it.

    Args:
        samples: number of samples of the data; None: not known (a dry run without shards).
    """

    def __init__(self, samples: int | None = None) -> None:
        self.samples = samples
        self.opened: dict[str, Store] = {}

    def open(
        self,
        name: str,
        shape: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
        fill: Any = 0,
        classes: int | None = None,
    ) -> Store:
        """The store of this name.

        Raises:
            UserError: somebody else has opened it with another shape, type or number of classes.
        """
        made = self.opened.get(name) or Store(self.samples or 0, shape, dtype, fill, classes)
        if (made.values.shape[1:], made.values.dtype) != (torch.Size(shape), dtype):
            raise UserError(
                f"the store {name!r} holds {list(made.values.shape[1:])} {made.values.dtype}, and is asked for "
                f"{list(shape)} {dtype}: give one of the two another name"
            )
        if made.classes != classes:
            raise UserError(
                f"the store {name!r} has {made.classes} classes for one reader and {classes} for another: give their "
                "heads as many prototypes, or the stores two names"
            )
        return self.opened.setdefault(name, made)

    def modules(self) -> Mapping[str, Store]:
        """All stores, to be saved with the run."""
        return dict(self.opened)
