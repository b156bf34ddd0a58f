"""``foundation bench parallel``: real processes, every way, and figures that could not stand there by chance."""

from __future__ import annotations

import json

import pytest

from foundation.cli import main


@pytest.mark.slow
def test_ways_are_measured_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["bench", "parallel", "quickstart-imu", "--processes", "2", "--batch", "4", "--steps", "1", "--rounds", "1"]
    assert main([*words, "--ways", "ddp", "fsdp", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["medians"]
    assert list(found) == ["ddp", "fsdp"]
    for figures in found.values():
        assert figures["seconds"] > 0 and figures["mebibytes"] > 0
        assert figures["loopback_megabytes"] > 0.5  # 0.3 million gradients, there and back
    assert "quickstart-imu" in capsys.readouterr().out


def test_a_batch_that_cannot_be_shared_is_refused(capsys):
    assert main(["bench", "parallel", "--processes", "3", "--batch", "4"]) == 2
    assert "--batch 4 cannot be divided among 3 processes" in capsys.readouterr().err
