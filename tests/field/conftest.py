"""Inputs from the field: files on which the product once failed, drawn anew beside the checkout's test data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def field_inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``field_inputs("hidden_folder")``: a folder of such inputs, or a skip that says what is missing."""
    pytest.importorskip("av", reason="films and telephone recordings are drawn by PyAV: install the extra 'video'")
    base = Path(os.environ.get("FOUNDATION_TEST_DATA", ROOT.parent / "shared" / "data"))
    script = base.parent / "field" / "make.py"
    if not script.is_file():
        pytest.skip("no field/make.py beside the test data: set FOUNDATION_TEST_DATA to the folder of the data sets")
    out = tmp_path_factory.mktemp("field")
    subprocess.run([sys.executable, str(script), str(out)], check=True, timeout=120)
    return lambda case: out / case
