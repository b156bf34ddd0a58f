"""AdamW by torch's own functional update (``torch.optim.adamw.adamw``), without the class around it.

The class imports torch's compiler at its first step, two seconds of start-up that eager training never uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from foundation.parallel.shards import local


class AdamW:
    """Parameter groups and moments (Loshchilov and Hutter 2019), updated bit for bit as ``torch.optim.AdamW`` does.

    Args:
        groups: parameters that share a learning rate and a weight decay.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        fused: update all tensors of a group in one kernel.

    Attributes:
        param_groups: dicts with ``params``, ``lr`` and ``weight_decay``, both 0 until they are set.
        state: by parameter, once it has had a gradient: ``step`` [] float32, ``exp_avg``, ``exp_avg_sq``, of a
            sharded parameter those of the part that lies here.
    """

    def __init__(self, groups: Sequence[Sequence[Tensor]], betas: tuple[float, float], eps: float, fused: bool) -> None:
        self.betas, self.eps, self.fused = betas, eps, fused
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(parameters), "lr": 0.0, "weight_decay": 0.0} for parameters in groups
        ]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state.get(parameter) or self._begin(parameter) for parameter in parameters]
            if not parameters:
                continue
            adamw(  # of sharded parameters the parts that lie here
                [local(parameter) for parameter in parameters],
                [local(parameter.grad) for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=self.fused,
                foreach=False if self.fused else None,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                maximize=False,
            )

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        where = parameter.device if self.fused else torch.device("cpu")
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=where),
            "exp_avg": torch.zeros_like(local(parameter), memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(local(parameter), memory_format=torch.preserve_format),
        }
        self.state[parameter] = state
        return state

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
