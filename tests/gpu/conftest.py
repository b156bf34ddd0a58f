"""What the tests that need a GPU share. ``foundation bench gpu`` runs them; by hand: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from foundation.measure.parity import exact_products


@pytest.fixture
def device() -> torch.device:
    """The GPU."""
    return torch.device("cuda", 0)


@pytest.fixture
def exact() -> Iterator[None]:
    """No TF32."""
    with exact_products():
        yield
