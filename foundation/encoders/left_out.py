"""Hidden tokens that are left out of the trunk and put back behind it (He et al. 2022, MAE)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def visible(mask: Tensor, hidden: int, prefix: int) -> Tensor:
    """Places of the tokens that stay when hidden ones are left out; never waits for the device.

    Args:
        mask: [R, N] bool.
        hidden: True entries in each of its rows.
        prefix: class and register tokens in front.

    Returns:
        [R, prefix + N - hidden] int64, ascending.
    """
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, : mask.shape[1] - hidden]
    front = torch.arange(prefix, device=mask.device).expand(len(mask), -1)
    return torch.cat((front, order + prefix), dim=1)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """One view whose hidden tokens do not enter the trunk.

    Attributes:
        tokens: [R, prefix + N, D] all tokens as they were embedded, mask tokens in hidden places.
        kept: [R, prefix + N - hidden] places of those that stay.
        prefix: class and register tokens in front.
    """

    tokens: Tensor
    kept: Tensor
    prefix: int

    @classmethod
    def of(cls, tokens: Tensor, mask: Tensor, hidden: int, prefix: int) -> LeftOut:
        """Of embedded tokens and their mask [R, N] with so many True entries in each row."""
        return cls(tokens, visible(mask, hidden, prefix), prefix)

    @property
    def visible(self) -> Tensor:
        """Tokens that enter the trunk, [R, prefix + N - hidden, D]."""
        return self.visible_of(self.tokens)

    def visible_of(self, tokens: Tensor) -> Tensor:
        """Of any such tokens [R, prefix + N, D] those in the places that stay."""
        return tokens.gather(1, self.kept[..., None].expand(-1, -1, tokens.shape[-1]))

    def visible_patches(self, values: Tensor) -> Tensor:
        """What stays of one value for each patch token, [R, N] -> [R, N - hidden]."""
        return values.gather(1, self.kept[:, self.prefix :] - self.prefix)

    def put_back(self, patches: Tensor) -> Tensor:
        """Visible patch tokens behind the trunk [R, N - hidden, D] between the mask tokens, [R, N, D]."""
        places = (self.kept[:, self.prefix :] - self.prefix)[..., None].expand_as(patches)
        return self.tokens[:, self.prefix :].to(patches.dtype).scatter(1, places, patches)
