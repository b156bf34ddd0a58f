"""The bench against DINOv2's own loop: two real processes that take turns."""

from __future__ import annotations

import json
import math

import pytest

from foundation.cli import main


@pytest.mark.slow
def test_both_sides_take_steps_of_the_same_task_in_turn(tmp_path):
    where = tmp_path / "figures.json"
    words = ["encoder.preset=nano", "--batch", "2", "--prototypes", "64", "--pairs", "2", "--json", str(where)]
    assert main(["bench", "peers", *words]) == 0
    found = json.loads(where.read_text())
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    for side in ("ours", "dinov2"):
        assert found[f"{side}_seconds"] > 0
        # DINO at ln K, iBOT at most at ln K over all rows, KoLeo at most at 2 x 0.1 x -log of its smallest distance.
        assert 0.9 * math.log(64) < found[f"{side}_loss"] < 2 * math.log(64) + 0.2 * 18.5
