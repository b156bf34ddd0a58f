"""Activation checkpointing: a block keeps less for its backward pass and computes the rest again (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_KEPT = (
    "mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_flash_attention_forward", "_efficient_attention_forward",
)  # fmt: skip
"""Operators of torch whose results ``selective`` keeps: products of matrices and attention, which cost most."""


def recompute(blocks: Iterable[nn.Module], what: Literal["none", "selective", "full"]) -> None:
    """Let blocks compute again in the backward pass what they do not keep.

    Parameters and names stay, so that checkpoints are the same; nothing changes where no gradient is wanted.

    Args:
        blocks: each is one piece.
        what: see :class:`foundation.parallel.config.Config`.
    """
    if what == "none":
        return
    contexts: Any = partial(create_selective_checkpoint_contexts, _policy) if what == "selective" else None
    for block in blocks:
        block.forward = partial(_forward, block.forward, contexts)  # type: ignore[method-assign]


def _forward(own: Callable[..., Any], contexts: Any, *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return own(*arguments, **options)
    if contexts is None:
        return checkpoint(own, *arguments, use_reentrant=False, **options)
    return checkpoint(partial(_casting, own), *arguments, use_reentrant=False, context_fn=contexts, **options)


def _casting(own: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a block without autocast's cache: where a block is called twice in a step, the second call would find its
    weights cast already, and what is kept is found again by counting the operators of both passes."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        return own(*arguments, **options)
    finally:
        torch.set_autocast_cache_enabled(before)


def _policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    name = getattr(operator, "overloadpacket", operator).__name__
    return CheckpointPolicy.MUST_SAVE if name in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
