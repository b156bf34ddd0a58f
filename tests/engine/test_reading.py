"""Values on their way to the host."""

from __future__ import annotations

import math

import torch

from foundation.engine.reading import Reading


def test_values_are_those_of_their_moment_in_their_order():
    loss, norm = torch.tensor(2.5, requires_grad=True), torch.tensor([1 / 3])
    reading = Reading({"loss": loss, "plain": 3, "norm": norm, "half": torch.tensor(0.5, dtype=torch.bfloat16)})
    with torch.no_grad():
        loss.fill_(9.0)
        norm.zero_()
    values = reading.get()
    assert [*values] == ["loss", "plain", "norm", "half"]
    assert values == {"loss": 2.5, "plain": 3.0, "norm": float(torch.tensor(1 / 3)), "half": 0.5}
    assert reading.get() == values


def test_what_is_no_number_arrives_as_such_and_nothing_is_nothing():
    assert math.isnan(Reading({"a": torch.tensor(math.nan)}).get()["a"])
    assert Reading({}).get() == {}
