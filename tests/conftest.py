"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def _shared(name: str) -> Path:
    base = Path(os.environ.get("FOUNDATION_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = base.parent / "golden" if name == "golden" else base / name
    if not path.exists():
        pytest.skip(
            f"no {name} beside the checkout: set FOUNDATION_TEST_DATA to the folder that holds the test data sets"
        )
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("cifar10")``: folder of a small real data set, or a skip that says what is missing."""
    return _shared


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """``golden("01_dinov2_vit_mlp")``: arrays that a reference implementation computed, or a skip."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(_shared("golden") / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture
def happened(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """``happened("checksum mismatch in student.safetensors; step 4 used")``: for the table in docs/reliability.md."""
    return lambda text: request.node.user_properties.append(("happened", text))
