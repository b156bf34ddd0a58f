"""Rotary positions as the released V-JEPA 2 has them, in the terms of ours.

There a head's pairs are neighbours (2 k, 2 k + 1) of each axis's part, here places i and i + half a head: a matter of
the order of the rows of the queries' and keys' weights. And there the two members of a pair are turned by different
frequencies, because the table of an axis is laid out ``[f, f]`` while the pairs are neighbours: no rotation, but what
the released weights were trained with. Only these tests know it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foundation.encoders.positions import PositionConfig, RotaryPositions

POSITION = PositionConfig(kind="rotary", base=10000.0, normalise="none")


class ReleasedRotation(RotaryPositions):
    """Tables whose pairs have the frequencies of neighbours in ``[f, f]``."""

    def tables(self, grid, device, augmentation=None) -> tuple[Tensor, Tensor]:
        sin, cos = super().tables(grid, device, augmentation)
        half, axes = self.head_width // 2, len(grid)
        count = self.head_width // (2 * axes)
        pair = torch.arange(count)
        picks = []
        for member in (0, 1):  # column of our table that holds frequency (2 k + member) mod count of the axis
            picks += [axis * count + (2 * pair + member) % count for axis in range(axes)]
            picks.append(torch.arange(axes * count, half))
        order = torch.cat(picks)
        return sin[:, order], cos[:, order]


def order_of_heads(head_width: int, axes: int = 3) -> Tensor:
    """[head_width] the place in a head of theirs of each place of ours."""
    count, half = head_width // (2 * axes), head_width // 2
    first = torch.cat([axis * 2 * count + 2 * torch.arange(count) for axis in range(axes)])
    rest = torch.arange(2 * axes * count, head_width)
    left = half - len(first)
    return torch.cat((first, rest[:left], first + 1, rest[left:]))


def reordered(qkv: Tensor, heads: int) -> Tensor:
    """Weights or biases of queries, keys and values, [3 D, ...], with each head of queries and keys in our order."""
    joint = qkv.unflatten(0, (3, heads, -1)).clone()
    joint[:2] = joint[:2, :, order_of_heads(joint.shape[2])]
    return joint.flatten(0, 2)
