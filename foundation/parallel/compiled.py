"""Regional compilation: the blocks of a network are compiled one by one (torch.compile), those that are alike once."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import nn

from foundation.errors import UserError
from foundation.parallel.units import innermost

VARIANTS = 64
"""Compiled forms of one kind of block that may be kept: with and without gradients, one length and any length, all
tokens and some, each rate of drop path. torch's own limit of 8 would leave the last blocks of a network uncompiled."""


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where nothing can.

    Raises:
        UserError: says what is missing.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UserError("train.compile is blocks, which needs Triton on a GPU: pip install triton, or compile=none")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name):
        raise UserError(
            "train.compile is blocks, which needs a C++ compiler on a CPU, and there is no g++ or clang++: install "
            "one, name it in $CXX, or set train.compile=none"
        )


def compile_blocks(module: nn.Module) -> int:
    """Compile the blocks of a network, in place; each when it is called first.

    Names of parameters and copies of the network stay what they are. Lengths that change from step to step, and those
    of global and local crops, are compiled once for any length. Call it behind activation checkpointing, which is then
    compiled too, and before sharding, whose hooks stay outside.

    Args:
        module: an encoder, a head.

    Returns:
        Blocks that are compiled: those that hold no other block.
    """
    import torch._dynamo.config as limits

    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)  # type: ignore[attr-defined]
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 4 * VARIANTS)  # type: ignore[attr-defined]
    blocks = innermost(module)
    for block in blocks:
        block.compile()
    return len(blocks)
