"""The checksum that processes compare at every save."""

from __future__ import annotations

import pytest
import torch

from foundation.engine.agreement import checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8])
def test_one_bit_one_place_or_another_order_changes_the_checksum(dtype):
    values = torch.arange(1, 200_002).to(dtype)
    assert checksum(torch.cat([values[:1], values])[1:]) == checksum(values)  # lies elsewhere in memory
    for change in (lambda v: v[-1:].zero_(), lambda v: v.copy_(v.flip(0)), lambda v: v[70_000:70_002].copy_(v[1:3])):
        other = values.clone()
        change(other)
        assert checksum(other) != checksum(values)
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))
    assert checksum(torch.zeros(0, 3)) == 0
