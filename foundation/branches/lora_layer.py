"""The linear layer of a LoRA branch; imported only where peft is there."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from foundation.linear import Linear, linear

ADAPTER = "default"
"""What peft calls an adapter that was given no name."""


class LoraLinear(PeftLinear):  # type: ignore[misc]
    """A layer of ours with its update, for attention that reads ``weight`` instead of calling the layer."""

    @property
    def inside(self) -> Linear:
        """The layer itself, which stands still."""
        return cast(Linear, self.get_base_layer())

    @property
    def float8(self) -> bool:
        """As of the layer inside."""
        return self.inside.float8

    @property
    def weight(self) -> Tensor:
        """[O, I] with the update, differentiable."""
        weight: Tensor = self.inside.weight + self.get_delta_weight(ADAPTER)
        return weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(x, self.weight, self.inside.bias, self.float8)


def inject(encoder: nn.Module, layers: list[str], rank: int, alpha: float) -> None:
    """Give linear layers of these names an update, in place; all else stands still."""
    # Any number will do, whatever peft's annotation says.
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[arg-type]
    settings._register_custom_module({Linear: LoraLinear})
    inject_adapter_in_model(settings, encoder)


def updates(encoder: nn.Module) -> dict[str, Tensor]:
    """Update [O, I] of each layer that has one, by the layer's name."""
    with torch.no_grad():
        return {
            name: module.get_delta_weight(ADAPTER)
            for name, module in encoder.named_modules()
            if isinstance(module, PeftLinear)
        }
