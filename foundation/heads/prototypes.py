"""Prototype heads and projectors, for single tokens. Letters: R rows, D width, K prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from foundation.chunks import row_parts
from foundation.errors import UserError
from foundation.linear import Linear, linear
from foundation.ranges import Depth, Range, Side, check


@dataclass(frozen=True, kw_only=True)
class Config:
    """A prototype head (Caron et al. 2021, section 3.1): scores of a token against K learned directions; or, without
    prototypes, a projector as BYOL has it (Grill et al. 2020)."""

    prototypes: Annotated[int, Range(1, 2**24)] | None
    """Number of prototypes K, the size of the output; null: none, the output is the vector of ``bottleneck`` numbers
    itself, not normalised."""
    hidden: Side = 2048
    """Width of the hidden layers."""
    bottleneck: Side = 256
    """Width of the normalised vector that meets the prototypes."""
    layers: Depth = 3
    """Linear layers before the prototypes; 1 is a single projection without activation."""
    norm: Literal["none", "batch"] = "none"
    """Normalisation between the hidden layers."""
    bias: bool = True
    """Whether the hidden layers have biases."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Between the hidden layers."""
    freeze_scale: bool = True
    """Keep every prototype at length 1 (DINO's ``norm_last_layer``); False learns one length each, as DINOv2."""

    whole: ClassVar[bool] = False
    """It takes rows of tokens, whatever view or place they are of."""

    def __post_init__(self) -> None:
        check(self, "heads")
        if self.norm not in ("none", "batch"):
            raise UserError(f"heads: norm must be 'none' or 'batch', got {self.norm!r}")

        if self.activation not in ("gelu", "relu"):
            raise UserError(f"heads: activation must be 'gelu' or 'relu', got {self.activation!r}")

    @property
    def outputs(self) -> int:
        """Numbers of the output."""
        return self.prototypes or self.bottleneck

    def build(self, width: int) -> PrototypeHead | Projector:
        """Head for features of ``width`` numbers."""
        return PrototypeHead(self, width) if self.prototypes is not None else Projector(self, width)


class _NormaliseRows(torch.autograd.Function):
    """``length * v / |v|`` of each row, in the precision of the product that follows.

    65,536 prototypes are 67 MB: what costs is memory traffic, so that each row is read once, computed in the precision
    of ``direction`` and written once in that of the result.
    """

    @staticmethod
    def forward(ctx: Any, direction: Tensor, length: Tensor | None, dtype: torch.dtype) -> Tensor:
        result = torch.empty_like(direction, dtype=dtype)
        inverse = direction.new_empty(len(direction), 1)
        for part in row_parts(direction):
            rows = direction[part]
            inverse[part] = torch.linalg.vector_norm(rows, dim=1, keepdim=True).reciprocal_()  # [K, 1]
            result[part] = rows * (inverse[part] if length is None else inverse[part] * length[part])
        ctx.save_for_backward(direction, inverse, length)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        direction, inverse, length = ctx.saved_tensors
        across = torch.empty_like(direction)
        along = torch.empty_like(inverse)  # the part that changes the length
        for part in row_parts(direction):
            rows, towards = direction[part], gradient[part].to(direction.dtype)
            along[part] = (towards * rows).sum(dim=1, keepdim=True).mul_(inverse[part])
            scale = inverse[part] if length is None else inverse[part] * length[part]
            torch.mul(towards, scale, out=across[part])
            across[part].addcmul_(rows, along[part] * inverse[part] * scale, value=-1.0)
        return across, None if length is None else along, None


class PrototypeLayer(nn.Module):
    """Linear layer without bias whose rows are ``weight_g * weight_v / |weight_v|`` (Salimans and Kingma 2016).

    Attributes:
        weight_v: [K, bottleneck] directions; only their direction matters.
        weight_g: [K, 1] lengths; absent when they are fixed at 1.
    """

    def __init__(self, bottleneck: int, prototypes: int, freeze_scale: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.trunc_normal_(self.weight_v, std=0.02)
        self.weight_g = None if freeze_scale else nn.Parameter(torch.ones(prototypes, 1))

    def weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[K, bottleneck] in ``dtype``, computed in float32: in 16 bits the lengths would be off by up to a percent."""
        length = None if self.weight_g is None else self.weight_g.float()
        weight: Tensor = _NormaliseRows.apply(self.weight_v.float(), length, dtype)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        return linear(x, self.weight(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype))


def perceptron(config: Config, width: int) -> nn.Sequential:
    """The linear layers of a head, from ``width`` numbers to ``bottleneck``."""
    modules: list[nn.Module] = []
    for layer in range(config.layers):
        last = layer == config.layers - 1
        inputs = width if layer == 0 else config.hidden
        modules.append(Linear(inputs, config.bottleneck if last else config.hidden, bias=config.bias))
        if not last:
            if config.norm == "batch":
                modules.append(nn.BatchNorm1d(config.hidden))
            modules.append(nn.GELU() if config.activation == "gelu" else nn.ReLU())
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return nn.Sequential(*modules)


class Projector(nn.Module):
    """The linear layers alone. Call it once on the tokens of all requests together: BatchNorm compares them."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.mlp = perceptron(config, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., bottleneck]."""
        projected: Tensor = self.mlp(tokens.reshape(-1, tokens.shape[-1]))  # BatchNorm counts every token as one sample
        return projected.unflatten(0, tokens.shape[:-1])  # of no rows as well


class PrototypeHead(nn.Module):
    """Linear-GELU stack, L2 normalisation, weight-normalised prototypes.

    Call it once on the concatenated tokens of all requests: the normalised prototypes are computed once per call.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        assert config.prototypes is not None
        self.mlp = perceptron(config, width)
        self.last_layer = PrototypeLayer(config.bottleneck, config.prototypes, config.freeze_scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Prototype scores [..., K] of tokens [..., D]."""
        rows = tokens.reshape(-1, tokens.shape[-1])  # BatchNorm counts every token as one sample
        x = self.mlp(rows)
        # A zero vector must not divide the gradient by a number that 16 bits cannot hold.
        eps = 1e-12 if x.dtype in (torch.float32, torch.float64) else 1e-6
        x = F.normalize(x.float(), dim=-1, eps=eps).to(x.dtype)
        scores: Tensor = self.last_layer(x)
        return scores.unflatten(0, tokens.shape[:-1])
