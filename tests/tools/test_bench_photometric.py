"""The bench of the photometric half: it runs with and without the other library, and says which."""

from __future__ import annotations

import importlib.util
import json

import pytest

from foundation.cli import main


@pytest.mark.slow
def test_every_part_is_timed(tmp_path, capsys):
    where = tmp_path / "figures.json"
    assert main(["bench", "photometric", "--batch", "1", "--rounds", "2", "--json", str(where)]) == 0
    found, peer = json.loads(where.read_text()), importlib.util.find_spec("albumentations") is not None
    assert ("albumentations cannot be used here" in capsys.readouterr().err) is not peer
    for part in ("whole", "normalise", "colour jitter", "greyscale", "blur", "solarise"):
        assert found[part]["foundation"]["milliseconds"] > 0
        assert (len(found[part]) > 1) is peer
    whole = found["whole"]["foundation"]["milliseconds"]
    assert found["normalise"]["foundation"]["milliseconds"] < whole
