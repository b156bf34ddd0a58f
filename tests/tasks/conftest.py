"""The sample run of the tools' tests."""

from __future__ import annotations

from tests.tools.conftest import sample_run

__all__ = ["sample_run"]
