"""Batches without data: views' counts and masks are all that objectives look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.masks.rule import token_mask
from foundation.types import Batch, View


def _batch(samples: int, counts: dict[str, int], masked: np.ndarray | None = None) -> Batch:
    views = {
        name: View(torch.empty(count * samples, 0), "image", name, count, torch.empty(0), torch.empty(0))
        for name, count in counts.items()
    }
    masks = {} if masked is None else {("global", "masking"): token_mask(np.asarray(masked))}
    return Batch(views, masks, tuple(map(str, range(samples))), torch.full((samples,), -1), 0, samples)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """``make_batch(samples, {"global": 2}, masked [R, N])``."""
    return _batch


@pytest.fixture
def spawnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets processes that a test starts import the test's own module, which only pytest knows how to find."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))  # spawned processes copy sys.path
