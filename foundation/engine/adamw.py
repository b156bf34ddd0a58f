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
        fused: update all tensors of a group in one kernel, else one tensor after the other.

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

    def owns(self, parameter: Tensor) -> bool:
        """Whether this process updates a parameter: it does."""
        return True

    def states(self) -> dict[Tensor, dict[str, Tensor]]:
        """The state of all parameters that have one."""
        return self.state

    @torch.no_grad()
    def step(self, refused: Tensor | None = None) -> None:
        """Update every parameter that has a gradient.

        Args:
            refused: [] float32 on the device of the parameters; where it is 1, parameters and state stay bit for bit as
                they are, whatever the gradients hold. It is not waited for. None: 0.
        """
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state.get(parameter) or self._begin(parameter) for parameter in parameters]
            if not parameters:
                continue
            if self.fused:
                self._update(group, parameters, states, found_inf=refused)
                continue
            for parameter, state in zip(parameters, states, strict=True):
                moved = (local(parameter), *state.values())
                before = [] if refused is None else [tensor.clone() for tensor in moved]
                self._update(group, [parameter], [state])
                if refused is not None:
                    for tensor, kept in zip(moved, before, strict=True):
                        tensor.copy_(torch.where(refused != 0, kept, tensor))

    def _update(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        states: list[dict[str, Tensor]],
        found_inf: Tensor | None = None,
    ) -> None:
        adamw(  # of sharded parameters the parts that lie here
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=self.fused,
            foreach=False,
            capturable=not self.fused and parameters[0].device.type != "cpu",  # else it would read the step's number
            found_inf=found_inf,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self.eps,
            maximize=False,
        )

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
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
