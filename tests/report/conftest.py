"""Loads the sample run by its path: test folders are no packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def load_sample_run():
    path = Path(__file__).resolve().parents[1] / "report" / "sample_run.py"
    spec = importlib.util.spec_from_file_location("sample_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sample_run():
    return load_sample_run()
