"""Heads that are drawn once and stay as they are: a fixed random projection of a teacher's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from foundation import counter
from foundation.branches.base import BranchContext
from foundation.seeded import seeded


def fixed_heads(configs: Mapping[str, Any], width: int, context: BranchContext) -> nn.ModuleDict:
    """Heads without gradients, in evaluation mode.

    Args:
        configs: Configs by name.
        width: of the features.
        context: of the branch; equal seeds and names of branches give equal heads, whatever kind the branch is.
    """
    with torch.device("cpu"), seeded(int(counter.bits(context.seed, 0, 0, f"branch.{context.name}", 1)[0][0])):
        heads = {name: config.build(int(width)) for name, config in configs.items()}
    return nn.ModuleDict(heads).requires_grad_(False).eval()
