"""``foundation zoo convert`` writes an export that loads without the file, and says how to go on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from foundation import config
from foundation.checkpoints.checkpoint import sha256
from foundation.cli import main
from foundation.zoo.load import load_encoder
from foundation.zoo.shown import EncoderSection
from tests.zoo.convert.test_files import state

__all__ = ["state"]


def test_an_export_of_weights_of_others(state, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, out = tmp_path / "v2.pth", tmp_path / "models"
    torch.save({"teacher": {f"backbone.{name}": value.half() for name, value in state.items()}}, file)
    assert main(["zoo", "convert", str(file), "--as", "dinov2,heads=2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "weights of DINOv2 (Oquab et al. 2024), taken out of teacher > backbone" in said
    assert f"wrote {out / 'v2.safetensors'} and v2.json" in said
    card = json.loads((out / "v2.json").read_text())
    assert card["parents"] == [{"of": sha256(file), "how": "converted", "source": "dinov2", "file": "v2.pth"}]
    view = torch.randn(1, 3, 28, 28)
    first, second = (load_encoder(source) for source in (f"{file},as=dinov2,heads=2", out / "v2.safetensors"))
    assert torch.equal(first.encoder([view])[0].cls, second.encoder([view])[0].cls)
    assert first.evaluation == second.evaluation and first.config == second.config
    shown = yaml.safe_load("".join(line + "\n" for line in said.splitlines() if line.startswith("  ")))
    assert config.from_plain(EncoderSection, shown).encoder == first.config  # the section of a recipe that is shown
    assert main(["zoo", "convert", str(file), "--as", "dinov2,heads=2", "--out", str(out)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["zoo", "convert", str(tmp_path / "photo.png"), "--out", str(out)]) == 2
    assert "no file of weights" in capsys.readouterr().err
