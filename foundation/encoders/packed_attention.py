"""Attention over rows of several lengths in one call: xformers, varlen and FlexAttention, each kept to its row.

What a kernel must know of the packing (where rows begin, which blocks of the score matrix are empty) follows from the
layout alone. It is made once for each layout on its device, without a wait, and used by every block, view and step.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

PackedBackend = Literal["xformers", "varlen", "flex"]
PACKED: tuple[PackedBackend, ...] = ("xformers", "varlen", "flex")

Layout = tuple[tuple[int, int], ...]
"""(rows, tokens of a row) of each segment, in their order."""

FLEX_BLOCK = 128
"""Side of the blocks of the score matrix that FlexAttention leaves out or computes."""

_KEPT = 64  # layouts: a run has a few (views, the teacher's, the last block's, rows that drop path keeps)


def unavailable(backend: PackedBackend, device: torch.device) -> str:
    """Why a backend cannot be used on a device, and what to do; empty where it can."""
    if backend == "flex":
        return "" if _flex() is not None else "this torch has no FlexAttention: use torch 2.10 or newer"
    if device.type != "cuda":
        return f"{backend} needs a CUDA GPU, but the tokens are on {device.type!r}"
    if backend == "varlen":
        if _varlen() is None:
            return "this torch has no torch.nn.attention.varlen: use torch 2.10 or newer"
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 8 else f"varlen needs a GPU of compute capability 8.0 or newer, not {major}.{minor}"
    found, problem = xformers()
    if found is None:
        return f"xformers cannot be imported ({problem}): install the extra foundation-pretrain[gpu]"
    return ""


unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]
# As torch.compiler.assume_constant_result does, which imports the compiler: two seconds of every start.


def unfit(backend: PackedBackend, device: torch.device, head_width: int, trained: bool) -> str:
    """Why a backend that is there cannot serve these tokens; empty where it can."""
    if backend == "varlen" and (head_width % 8 or head_width > 256):
        return f"its heads are multiples of 8 wide, up to 256, and these are {head_width}"
    if backend == "flex" and device.type == "cpu" and trained:
        return "it has no backward pass on a CPU"
    if backend == "flex" and device.type == "cuda" and head_width < 16:
        return f"its heads are at least 16 wide, and these are {head_width}"
    return ""


def attend_packed(backend: PackedBackend, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Softmax attention inside each row.

    Args:
        backend: one that :func:`unavailable` and :func:`unfit` have nothing to say against.
        query: [T, heads, head_width].
        key: likewise.
        value: likewise.
        layout: of the T tokens.

    Returns:
        [T, heads, head_width].
    """
    return _CALLS[backend](query, key, value, layout)


def _attend_xformers(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    operations, _ = xformers()
    mask = _xformers_mask(layout, query.device)
    mixed: Tensor = operations.memory_efficient_attention(query[None], key[None], value[None], attn_bias=mask)
    return mixed[0]


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    starts, longest = row_starts(layout, query.device), max(tokens for _, tokens in layout)
    # Contiguous: some of its kernels count rows in tokens of heads * head_width numbers, whatever the strides say.
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    mixed: Tensor = _varlen()(query, key, value, starts, starts, longest, longest)
    return mixed


def _attend_flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    if query.is_cuda:
        function = _flex_compiled()
    else:  # there is no backward pass, and it refuses what could want one
        function, query, key, value = _flex().flex_attention, query.detach(), key.detach(), value.detach()
    mixed: Tensor = function(query, key, value, block_mask=block_mask(layout, query.device))
    return mixed[0].transpose(0, 1)


_CALLS: dict[PackedBackend, Callable[[Tensor, Tensor, Tensor, Layout], Tensor]] = {
    "xformers": _attend_xformers,
    "varlen": _attend_varlen,
    "flex": _attend_flex,
}


@functools.cache
def xformers() -> tuple[Any, str]:
    """The module ``xformers.ops``, or None and the reason."""
    if importlib.util.find_spec("xformers") is None:
        return None, "it is not installed"
    try:
        return importlib.import_module("xformers.ops"), ""
    except Exception as problem:  # a wheel for another torch build fails in many ways
        return None, f"{type(problem).__name__}: {problem}"


@functools.cache
def _varlen() -> Any:
    """The function ``varlen_attn`` of torch, or None."""
    try:
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None


@functools.cache
def _flex() -> Any:
    """The module of FlexAttention, or None."""
    try:
        return importlib.import_module("torch.nn.attention.flex_attention")
    except ImportError:
        return None


@functools.cache
def _flex_compiled() -> Any:
    return torch.compile(_flex().flex_attention)


# What is made here outlives the step that asks for it first. If that is a probe's, it must not be an inference tensor,
# which no later backward pass could keep.


@functools.lru_cache(_KEPT)
def row_starts(layout: Layout, device: torch.device) -> Tensor:
    """Where each row begins, and the end: [rows + 1] int32."""
    with torch.inference_mode(False):
        parts, start = [], 0
        for rows, tokens in layout:
            parts.append(start + tokens * torch.arange(rows, device=device, dtype=torch.int32))
            start += rows * tokens
        return torch.cat([*parts, torch.full((1,), start, device=device, dtype=torch.int32)])


@torch._disable_dynamo  # torch.compiler.disable, which imports the compiler at once
@functools.lru_cache(_KEPT)
def _xformers_mask(layout: Layout, device: torch.device) -> Any:
    operations, _ = xformers()
    with torch.inference_mode(False):
        lengths = [tokens for rows, tokens in layout for _ in range(rows)]
        return operations.fmha.BlockDiagonalMask.from_seqlens(lengths, device=device)


@torch._disable_dynamo  # torch.compiler.disable, which imports the compiler at once
@functools.lru_cache(_KEPT)
def block_mask(layout: Layout, device: torch.device) -> Any:
    """The ``BlockMask`` of a layout: which blocks of the score matrix hold two tokens of one row.

    torch's own ``create_block_mask`` writes the whole matrix down first, 2 GB at 44,000 tokens. Rows lie one behind the
    other, so the blocks of a stretch of queries are those from the begin of its first row to the end of its last.
    """
    with torch.inference_mode(False):
        total = sum(rows * tokens for rows, tokens in layout)
        row_of, begin_of, end_of = _of_tokens(layout, device)
        first = torch.arange(0, total, FLEX_BLOCK, device=device)
        last = (first + FLEX_BLOCK).clamp(max=total) - 1
        low = begin_of[first].div(FLEX_BLOCK, rounding_mode="floor")
        high = (end_of[last] - 1).div(FLEX_BLOCK, rounding_mode="floor") + 1
        # Whole blocks: the queries are all of one row, and so are the keys. They need no look at single tokens.
        alone = (row_of[first] == row_of[last]) & (last - first == FLEX_BLOCK - 1)
        whole_low = (begin_of[first] + FLEX_BLOCK - 1).div(FLEX_BLOCK, rounding_mode="floor")
        whole_high = end_of[first].div(FLEX_BLOCK, rounding_mode="floor")
        whole = torch.where(alone, (whole_high - whole_low).clamp(min=0), 0)
        places = torch.arange(len(first), device=device)
        table = low[:, None] + places  # the blocks of each stretch of queries, in their order
        inside = (table >= whole_low[:, None]) & (table < (whole_low + whole)[:, None])
        present = table < high[:, None]
        return _flex().BlockMask.from_kv_blocks(
            *_numbered(table, present & ~inside),
            *_numbered(table, present & inside),
            BLOCK_SIZE=FLEX_BLOCK,
            mask_mod=_same_row(row_of),
            seq_lengths=(total, total),
        )


def _numbered(table: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Number of chosen blocks of each stretch, [1, 1, Q], and their numbers in front of the others', [1, 1, Q, Q]."""
    order = torch.argsort((~chosen).to(torch.int8), dim=1, stable=True)
    blocks = (table.gather(1, order) % len(table)).to(torch.int32)
    return chosen.sum(1).to(torch.int32)[None, None], blocks[None, None].contiguous()


def _same_row(row_of: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def same_row(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return row_of[query] == row_of[key]

    return same_row


def _of_tokens(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Number, begin and end of the row of each token, [T] int32 each."""
    numbers, begins, ends = [], [], []
    row = start = 0
    for rows, tokens in layout:
        of = torch.arange(rows * tokens, device=device, dtype=torch.int32).div(max(tokens, 1), rounding_mode="floor")
        numbers.append(row + of)
        begins.append(start + tokens * of)
        ends.append(start + tokens * (of + 1))
        row, start = row + rows, start + rows * tokens
    return torch.cat(numbers), torch.cat(begins), torch.cat(ends)


def layout_of(sizes: Sequence[tuple[int, int]]) -> Layout:
    """(rows, tokens) of segments as a layout; empty ones are left out."""
    return tuple((rows, tokens) for rows, tokens in sizes if rows * tokens)
