"""Blocks whose linear layers multiply in 8 bits."""

from __future__ import annotations

import torch
from torch import nn

from foundation.errors import UserError
from foundation.linear import Linear
from foundation.linear_float8 import fits_float8, multiplies_float8
from foundation.parallel.placement import Placement
from foundation.parallel.units import innermost


def check_float8(placement: Placement) -> None:
    """Refuse what cannot multiply in 8 bits.

    Raises:
        UserError: says why.
    """
    if placement.autocast is not torch.bfloat16:
        raise UserError("train.float8 is blocks, which goes with train.precision=bfloat16 alone: set it, or none")
    if not multiplies_float8(placement.device):
        raise UserError(
            f"train.float8 is blocks, but torch {torch.__version__} does not multiply 8-bit numbers on this "
            f"{placement.device.type} (NVIDIA GPUs do from compute capability 8.9 on: L4, H100): set train.float8=none"
        )


def use_float8(module: nn.Module) -> int:
    """Let the linear layers of all blocks multiply in 8 bits, in place; weights and their names stay what they are.

    Args:
        module: an encoder, a head.

    Returns:
        Layers that do; those whose sizes do not fit stay as they are.
    """
    layers = [layer for block in innermost(module) for layer in block.modules() if isinstance(layer, Linear)]
    fitting = [layer for layer in layers if fits_float8(layer.weight)]
    for layer in fitting:
        layer.float8 = True
    return len(fitting)
