"""A linear head: one affine map of a token, for classes, numbers or several labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from foundation.linear import Linear
from foundation.ranges import Range, ShareBelowOne, check


@dataclass(frozen=True, kw_only=True)
class Config:
    """One linear layer, its weights from a normal distribution of deviation 0.01, its bias 0."""

    outputs: Annotated[int, Range(1, 2**24)]
    """Numbers of the output: classes, labels or targets."""
    dropout: ShareBelowOne = 0.0
    """Share of the inputs that is set to 0 in training."""

    whole: ClassVar[bool] = False
    """It takes vectors, not the tokens of whole rows."""
    prototypes: ClassVar[None] = None
    """Its outputs are no prototypes."""

    def __post_init__(self) -> None:
        check(self, "heads")

    def build(self, width: int) -> LinearHead:
        """Head for features of ``width`` numbers."""
        return LinearHead(self, width)


class LinearHead(nn.Module):
    """See :class:`Config`."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.output = Linear(width, config.outputs)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., outputs]."""
        result: Tensor = self.output(self.dropout(tokens))
        return result
