"""``foundation bench step``: a recipe against a plain loop, and against itself under other settings."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main

TINY = ["encoder.preset=null", "encoder.width=32", "encoder.depth=1", "encoder.heads=2", "heads.cls.prototypes=64"]
WORDS = ["bench", "step", "cifar10-dino-ibot-nano", *TINY, "heads.patch.prototypes=64", "train.device=cpu"]


@pytest.mark.parametrize("against", [[], ["--against", "train.precision=bfloat16"]])
def test_two_steps_are_timed_in_turn(against, tmp_path):
    assert main([*WORDS, "--batch", "2", "--rounds", "2", "--json", str(tmp_path / "figures.json"), *against]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["against"] == (against[1] if against else "plain loop")
    assert figures["ours_seconds"] > 0 and figures["against_seconds"] > 0
    assert figures["ratio_min"] <= figures["ratio"] <= figures["ratio_max"]
