"""Nearest neighbours by cosine, exact: searched in blocks, with bfloat16 products where the processor has them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.probes.features import check_finite
from foundation.probes.results import progress

_UNIT = 2e-6
"""Rows whose length differs from 1 by less, which is rounding, are taken as they are."""
_LANES = 32
"""Products of which only the largest is looked at, while all of them are too small."""
_RARE = 256
"""Of so many products one may pass: to multiply it again takes as long as a hundred products in float32."""
_NARROW_ERROR = 0.0041
"""Bound of the error of a cosine whose factors, of length 1, are rounded to bfloat16: 2 * 2^-9 + 2^-18, and what sums
in float32 may add."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest samples of the bank, nearest first.

    Attributes:
        similarities: [Q, k] cosine, float32.
        indices: [Q, k] int64, rows of the bank.
    """

    similarities: Tensor
    indices: Tensor


def search(
    bank: Tensor,
    queries: Tensor,
    k: int,
    *,
    leave_one_out: bool = False,
    groups: Tensor | None = None,
    device: torch.device | str = "cpu",
    query_block: int = 1024,
    bank_block: int | None = None,
    what: str | None = None,
) -> Neighbours:
    """The k nearest rows of the bank for each query, exactly, in blocks of bounded memory.

    Args:
        bank: [S, D]; of any length, neither changed nor copied.
        queries: [Q, D]; likewise.
        k: neighbours.
        leave_one_out: queries are the bank itself, and a row is not its own neighbour.
        groups: [S] int64; leaving one out, rows of one group (windows of one recording) are no neighbours either.
        device: where the products run; only one block of queries and one of the bank lie there.
        query_block: queries per block.
        bank_block: bank rows per block; None: 2,048 on a CPU, whose cache holds the products, and 16,384 elsewhere.
        what: shows a progress bar of this name.

    Raises:
        UserError: when k is larger than the bank, or features are not finite.
    """
    available = neighbours_of(len(bank), leave_one_out, groups)
    if not 1 <= k <= available:
        besides = "" if not leave_one_out else " besides the query" + (" itself" if groups is None else "'s group")
        raise UserError(f"k must lie between 1 and the {available} samples of the bank{besides}, got {k}")
    check_finite(bank, "bank")
    check_finite(queries, "query")
    device = torch.device(device)
    # On a CPU the products of a block stay in its cache.
    bank_block = bank_block or (2048 if device.type == "cpu" else 16_384)
    of_length_one = _Bank(bank, groups if leave_one_out else None, leave_one_out)
    found: list[tuple[Tensor, Tensor]] = []
    starts: Any = range(0, len(queries), query_block)
    with torch.inference_mode():
        for start in progress(starts, len(starts), what, "block") if what else starts:
            block = nn.functional.normalize(queries[start : start + query_block].float(), dim=1).to(device)
            best = _Best(block, k)
            for first in range(0, len(bank), bank_block):
                rows = slice(first, min(first + bank_block, len(bank)))
                part = of_length_one.part(rows).to(device)
                best.add(part, first, functools.partial(of_length_one.hide, start=start, rows=rows))
            found.append(best.found())
    similarities = torch.cat([near for near, _ in found] or [torch.zeros(0, k)])
    return Neighbours(
        similarities.clone(), torch.cat([rows for _, rows in found] or [torch.zeros(0, k).long()]).clone()
    )


class _Bank:
    """Rows of a bank at length 1, some at a time.

    Args:
        rows: [S, D].
        groups: [S] int64, or None.
        leave_one_out: the queries are these rows.
    """

    def __init__(self, rows: Tensor, groups: Tensor | None, leave_one_out: bool) -> None:
        self.rows, self.groups, self.leave_one_out = rows, groups, leave_one_out
        norms = [torch.linalg.vector_norm(part.float(), dim=1) for part in rows.split(65_536)]
        self.factors = 1 / torch.cat(norms).clamp(min=1e-12)
        self.unit = bool(((self.factors - 1).abs() < _UNIT).all())

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, rows: slice) -> Tensor:
        """[n, D] float32."""
        found = self.rows[rows].float()
        return found if self.unit else found * self.factors[rows, None]

    def hide(self, cosine: Tensor, start: int, rows: slice) -> None:
        """Set what is no neighbour to minus infinity.

        Args:
            cosine: [q, n] of queries from ``start`` on with ``rows`` of the bank.
            start: number of the first query.
            rows: of the bank.
        """
        if not self.leave_one_out:
            return
        own = torch.arange(start, start + len(cosine), device=cosine.device) - rows.start
        inside = ((own >= 0) & (own < cosine.shape[1])).nonzero().flatten()
        cosine[inside, own[inside]] = -torch.inf
        if self.groups is not None:
            mine, theirs = self.groups[start : start + len(cosine)], self.groups[rows]
            cosine.masked_fill_(mine[:, None].to(cosine.device) == theirs.to(cosine.device), -torch.inf)


class _Best:
    """The k nearest rows so far of each query of a block.

    Sorting costs more than it may: of products that a processor has just made, in its cache, most are not looked at.
    Once every query has k neighbours, the least of them is what others must exceed. The largest of a few products at a
    time is compared with it, and only where that is more, the products themselves. What passes is put down behind the
    k, and sorted in when there is no room any more.

    Where a processor multiplies bfloat16 twice as fast, products in bfloat16 say first which may exceed it: they are
    wrong by no more than a known bound, and what passes is multiplied again in float32. Neighbours are the same.

    Args:
        block: [q, D] queries of length 1.
        k: neighbours.
    """

    def __init__(self, block: Tensor, k: int) -> None:
        self.block, self.k, self.room = block, k, 2 * k + 64
        queries, device = len(block), block.device
        self.similarities = torch.full((queries, self.room), -torch.inf, device=device)
        self.rows = torch.zeros(queries, self.room, dtype=torch.int64, device=device)
        self.filled = torch.zeros(queries, dtype=torch.int64, device=device)
        self.least = torch.full((queries,), -torch.inf, device=device)
        # Elsewhere than on a CPU, to sort is cheaper than to ask how many pass.
        self.selects = device.type == "cpu"
        self.narrow = block.bfloat16() if self.selects and multiplies_bfloat16() else None
        self.crowded = self.tried = 0
        self.products: dict[torch.dtype, Tensor] = {}

    def add(self, part: Tensor, first: int, hide: Callable[[Tensor], None]) -> None:
        """Rows [b, D] of the bank, of length 1, from ``first`` on; ``hide`` sets products [q, b] of rows that are no
        neighbours to minus infinity."""
        whole = self.selects and first > 0 and len(part) % _LANES == 0
        # Before so many rows were seen too many pass; and where many are alike, always.
        if whole and self.narrow is not None and first >= 2 * _RARE * self.k and self.crowded <= 2 + self.tried // 4:
            self.tried += 1
            if self._from_narrow(part, first, hide):
                return
            self.crowded += 1
        cosine = self._product(self.block, part)
        hide(cosine)
        if whole:
            query, column, values = _above(cosine, self.least)
            if self._put_down(query, first + column, values):
                return
        value, column = cosine.topk(min(self.k, cosine.shape[1]), dim=1)
        self._sort_in(value, column + first)

    def _product(self, block: Tensor, part: Tensor) -> Tensor:
        """[q, b], in the same memory each time."""
        out = self.products.get(block.dtype)
        if out is None or out.shape[1] != len(part):
            out = self.products[block.dtype] = block.new_empty(len(block), len(part))
        return torch.mm(block, part.T, out=out)

    def _from_narrow(self, part: Tensor, first: int, hide: Callable[[Tensor], None]) -> bool:
        """By products in bfloat16; False, and nothing is done, where too many pass."""
        assert self.narrow is not None
        cosine = self._product(self.narrow, part.bfloat16())
        hide(cosine)
        # Rounding keeps the order, so that what is rounded can be compared with the rounded bound.
        query, column, _ = _above(cosine, (self.least - _NARROW_ERROR).bfloat16(), or_equal=True)
        if len(query) * _RARE > cosine.numel():
            return False
        values = (self.block[query] * part[column]).sum(dim=1)
        above = (values > self.least[query]).nonzero().flatten()
        return self._put_down(query[above], first + column[above], values[above])

    def _put_down(self, query: Tensor, rows: Tensor, values: Tensor) -> bool:
        """Products that pass, in the order of their queries; False, and nothing is done, where there are too many."""
        counts = torch.bincount(query, minlength=len(self.filled))
        if int((self.filled + counts).max()) > self.room:
            if int(counts.max()) > self.room - self.k:
                return False
            self._sort_in()
        slot = self.filled[query] + torch.arange(len(query)) - (counts.cumsum(dim=0) - counts)[query]
        self.similarities[query, slot], self.rows[query, slot] = values, rows
        self.filled += counts
        if int(self.filled.sum()) > 2 * self.k * len(counts):  # the bound is out of date
            self._sort_in()
        return True

    def _sort_in(self, *more: Tensor) -> None:
        """Keep the k nearest, of what is here and of ``more`` similarities and rows [q, n]."""
        similarities, rows = self.similarities, self.rows
        if more:
            similarities, rows = torch.cat([similarities, more[0]], dim=1), torch.cat([rows, more[1]], dim=1)
        best, order = similarities.topk(self.k, dim=1)
        self.rows[:, : self.k] = rows.gather(1, order)
        self.similarities.fill_(-torch.inf)
        self.similarities[:, : self.k] = best
        self.filled.fill_(self.k)
        self.least = best[:, -1]

    def found(self) -> tuple[Tensor, Tensor]:
        """[q, k] similarities and rows on the CPU, nearest first."""
        self._sort_in()
        return self.similarities[:, : self.k].cpu(), self.rows[:, : self.k].cpu()


def _above(cosine: Tensor, bound: Tensor, or_equal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (ascending), columns and values of products [q, b] that are above the bound [q] of their query."""
    lanes = cosine.unflatten(1, (_LANES, -1))
    passes = torch.ge if or_equal else torch.gt
    query, place = passes(lanes.amax(dim=1), bound[:, None]).nonzero(as_tuple=True)
    values = lanes[query, :, place]
    which, lane = passes(values, bound[query, None]).nonzero(as_tuple=True)
    return query[which], lane * lanes.shape[2] + place[which], values[which, lane]


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16, and torch the library that uses them."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return torch.backends.mkldnn.is_available() and ("avx512_bf16" in flags or "amx_bf16" in flags)


def neighbours_of(samples: int, leave_one_out: bool, groups: Tensor | None = None) -> int:
    """How many samples of a bank can be neighbours of every query; see :func:`search`.

    Raises:
        UserError: all samples are of one group.
    """
    if not leave_one_out:
        return samples
    left = samples - (1 if groups is None else int(torch.bincount(groups).max()))
    if groups is not None and not left:
        raise UserError(f"--group puts all {samples} samples into one group: none has a neighbour outside of it")
    return left
