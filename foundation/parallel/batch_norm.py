"""BatchNorm over the rows of all processes: n processes normalise, and remember, what one would.

Left to themselves the processes of a run would normalise by the statistics of their own rows and gather different
running statistics, which an EMA teacher copies: they would train against different teachers, and a checkpoint holds
only one of them. (``torch.nn.SyncBatchNorm`` does not run on a CPU.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from foundation.parallel import collective


def synchronise(module: nn.Module) -> None:
    """Let every BatchNorm of a module, of whatever class and library, count the rows of all processes in training.

    Parameters, buffers and their names stay. All processes must call these layers equally often and in the same order;
    the number of rows may differ, and a process may have none. Evaluation and ``nn.SyncBatchNorm`` stay as they are.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not isinstance(part, nn.SyncBatchNorm):
            part.forward = partial(_forward, part, part.forward)  # type: ignore[method-assign]


def _forward(layer: nn.Module, local: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The layer's own forward pass, with the kernel exchanged: subclasses reshape before it or activate behind it."""
    with _OverRanks():
        return local(x)


class _OverRanks(TorchFunctionMode):
    """While entered, ``F.batch_norm`` is :func:`batch_norm`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` whose batch is that of all processes.

    Args:
        x: [R, C, ...]; R may differ between processes.
        running_mean: [C], moved alike in all processes; None: there is none.
        running_var: [C], of the unbiased variance.
        weight: [C].
        bias: [C].
        training: False uses the running statistics, and talks to no other process.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
    """
    # Sharded weights may be gathered in half precision; statistics never are.
    weight, bias = (None if one is None else one.float() for one in (weight, bias))
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    result, mean, squares, count = _BatchNorm.apply(x, weight, bias, eps)
    with torch.no_grad():
        for running, new in ((running_mean, mean), (running_var, squares / (count - 1.0).clamp(min=1.0))):
            if running is not None:  # a batch without any row tells nothing
                running.lerp_(torch.where(count > 0, new, running).to(running.dtype), momentum)
    return result  # type: ignore[no-any-return]


class _BatchNorm(torch.autograd.Function):
    """Normalises by statistics of all processes; gives mean, sum of squared deviations [C] and count [1] as well.

    Mean and deviations of the parts are put together in the order of the ranks (Chan et al. 1979), which loses nothing
    where the mean is large, and gives all processes the same bits. One exchange forward, one backward, in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        own = torch.zeros(2 * channels + 1, device=x.device)  # mean, squared deviations, count
        rows = x.numel() // channels
        if rows:
            variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)], correction=0)
            own[:channels], own[channels:-1] = mean, variance * rows
            own[-1:] = rows
        parts = collective.gather_rows(own[None])  # [processes, 2 C + 1]
        means, deviations, counts = parts[:, :channels], parts[:, channels:-1], parts[:, -1:]
        count = counts.sum(0)
        divisor = count.clamp(min=1.0)
        mean = (means * counts).sum(0) / divisor
        squares = (deviations + counts * (means - mean).square()).sum(0)
        variance = squares / divisor
        ctx.save_for_backward(x, weight, mean, variance, divisor)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, squares, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, squares, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *unused: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        channels, shape = x.shape[1], (1, -1, *[1] * (x.ndim - 2))
        direct, along, plain = gradient, torch.zeros_like(mean), torch.zeros_like(mean)
        if x.numel():
            # As if the statistics were constants, and the sums over this process's rows that weight and bias want.
            factor, none = torch.ones_like(mean) if weight is None else weight, mean.new_empty(0)
            direct, along, plain = torch.ops.aten.native_batch_norm_backward(
                gradient, x, factor, mean, variance, none, none, False, ctx.eps, [True, True, True]
            )
        total = collective.sum_over_ranks(torch.cat([along, plain]).float())
        scale = (variance + ctx.eps).rsqrt()
        outer = scale if weight is None else scale * weight.float()
        slope = outer * scale * total[:channels] / count
        offset = outer * total[channels:] / count - slope * mean
        through = torch.addcmul(offset.view(shape), x.float(), slope.view(shape))  # what the statistics pass on
        needs = ctx.needs_input_grad
        return direct - through.to(direct.dtype), along if needs[1] else None, plain if needs[2] else None, None
