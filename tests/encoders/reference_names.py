"""Weights of the DINOv2 and DINOv3 references under our names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from foundation.zoo.convert.blocks import our_name

__all__ = ["our_name", "our_weights"]


def our_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """State dict of our encoder from the ``param/`` entries of a golden file."""
    weights = {k.removeprefix("param/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("param/")}
    result = {}
    for name, value in weights.items():
        if ".mlp.w1." in name:  # DINOv3 keeps the two halves of the gated layer apart
            both = torch.cat((value, weights[name.replace(".w1.", ".w2.")]))
            result[our_name(name.replace(".w1.", ".w12."))] = both
        elif not (".mlp.w2." in name or name.endswith("bias_mask") or name == "rope_embed.periods"):
            result[our_name(name)] = value
    return result
