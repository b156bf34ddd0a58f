"""Weights of encoders that are to be written."""

from __future__ import annotations

import torch


def random_weights(encoder: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn, those that begin at 0 and 1 too, so that one that is lost shows."""
    torch.manual_seed(0)
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm.weight" in name else 0.0, 0.3)
    return encoder.eval().requires_grad_(False)
