"""What a view says of its padding reaches the encoder of every branch, whole or under a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from foundation.branches.request import Request
from foundation.run import build
from foundation.run.rehearsal import random_batch
from foundation.schedules import Clock


@pytest.mark.parametrize("mode", ["token", "drop"])
def test_padding_is_seen_by_nobody(tiny_recipe: Callable[..., Any], mode: str) -> None:
    recipe = tiny_recipe(
        f"masking={{kind: random, probability: 1.0, ratio: [0.25, 0.25], mode: {mode}}}", "encoder.drop_path=0.0"
    )
    learner = build.learner(recipe, Clock(10, 1.0)).eval()
    batch = random_batch(recipe, 3)
    view = batch.views["global"]
    valid = torch.ones(len(view.data), 16, dtype=torch.bool)
    valid[:, -4:] = False  # the last row of patches
    other = view.data.clone()
    other[..., -4:, :] = 100.0

    def seen(data: torch.Tensor, name: str, mask: str | None, said: torch.Tensor | None) -> torch.Tensor:
        padded = replace(batch, views={**batch.views, "global": replace(view, data=data, valid=said)})
        request = Request(name, "global", "cls", mask=mask)
        found: dict[Request, torch.Tensor] = learner.named_branches[name](padded, [request], {})
        return found[request]

    for name, mask in (("student", "masking"), ("student", None), ("teacher", None)):
        assert torch.equal(seen(view.data, name, mask, valid), seen(other, name, mask, valid))
        assert not torch.allclose(seen(view.data, name, mask, None), seen(other, name, mask, None))
