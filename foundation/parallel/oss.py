"""fairscale's OSS and ShardedDataParallel: each process owns some parameters' gradients and moments (ZeRO stage 2).

For those whose stack is built on fairscale; FSDP2 shards the weights as well. It is in the extra ``cluster``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.parallel.batch_norm import synchronise


class OwnedAdamW:
    """AdamW of which each process updates the parameters that it owns, and sends them to the others.

    It is called as :class:`foundation.engine.adamw.AdamW` is, with the same numbers.

    Args:
        groups: parameters that share a learning rate and a weight decay.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        fused: must be True.

    Attributes:
        param_groups: dicts with ``params``, ``lr`` and ``weight_decay``, both 0 until they are set.
        state: of owned parameters, once they have had a gradient: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Raises:
        UserError: fairscale is not installed, or ``fused`` is False.
    """

    def __init__(self, groups: Sequence[Sequence[Tensor]], betas: tuple[float, float], eps: float, fused: bool) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from fairscale.optim.oss import OSS
        except ImportError as error:
            raise UserError(
                "parallel.data is fairscale, which is not installed: pip install 'foundation-pretrain[cluster]', or "
                "use parallel.data=fsdp"
            ) from error
        if not fused:
            raise UserError("parallel.data=fairscale needs optimizer.fused=true: only that refuses a bad step unread")
        chosen = [{"params": list(parameters), "lr": 0.0, "weight_decay": 0.0} for parameters in groups]
        self.oss = OSS(chosen, optim=torch.optim.AdamW, lr=0.0, betas=betas, eps=eps, fused=True)
        self.owner = {
            parameter: owner
            for owner, share in enumerate(self.oss.partition_parameters())
            for group in share
            for parameter in group["params"]
        }

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """See the class."""
        return self.oss.param_groups  # type: ignore[no-any-return]

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """See the class."""
        return self.oss.optim.state  # type: ignore[no-any-return]

    def owns(self, parameter: Tensor) -> bool:
        """Whether this process updates a parameter."""
        return self.owner[parameter] == dist.get_rank()

    def states(self) -> dict[Tensor, dict[str, Tensor]]:
        """The state of all parameters that have one, sent by their owners; all processes call this together."""
        found: dict[Tensor, dict[str, Tensor]] = {}
        for parameter, owner in self.owner.items():
            own = self.state.get(parameter) or {}
            begun = torch.tensor(float(bool(own)))
            dist.broadcast(begun, owner)
            if not begun.item():
                continue
            for item in ("step", "exp_avg", "exp_avg_sq"):
                like = torch.zeros((), device=parameter.device) if item == "step" else parameter.detach()
                value = own[item].to(parameter.device) if own else torch.empty_like(like)
                dist.broadcast(value, owner)
                found.setdefault(parameter, {})[item] = value
        return found

    def step(self, refused: Tensor | None = None) -> None:
        """Update every parameter that has a gradient; see :meth:`foundation.engine.adamw.AdamW.step`."""
        self.oss.optim.found_inf, self.oss.optim.grad_scale = refused, None
        self.oss.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def owned(module: nn.Module, update: OwnedAdamW) -> nn.Module:
    """Wrap a module so that each gradient is reduced to the process that owns its parameter, and freed elsewhere.

    Args:
        module: to train, with the weights of process 0.
        update: of its parameters.
    """
    from fairscale.nn.data_parallel import ShardedDataParallel

    synchronise(module)
    # Without buckets: gradients that lie in them are lost by setting them to None, in silence.
    wrapped: nn.Module = ShardedDataParallel(module, update.oss, broadcast_buffers=False, reduce_buffer_size=0)
    return wrapped
