"""The quickstart: it trains on its own data only, and its closing table compares best with best."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from foundation.cli import main

TOOL = Path(__file__).resolve().parents[2] / "tools" / "quickstart.py"


def test_shards_of_other_options_are_refused_before_anything_is_trained(tmp_path, capsys):
    shards = tmp_path / "shards"
    assert main(["data", "build", "letters", str(shards), "--train", "18", "--test", "18", "--size", "48"]) == 0
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{shards} holds other data" in said and "size is 48, not 64" in said and "choose another --out" in said
    assert not list(tmp_path.glob("run-*"))


def test_each_feature_stands_in_the_closing_table_with_its_best_treatment(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("quickstart", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def row(name: str, features: str, treatment: str, top1: float) -> dict:
        interval = [top1 - 0.02, top1 + 0.02]
        return {"name": name, "features": features, "treatment": treatment, "top1": top1, "interval": interval,
                "n": 1000, "balanced": top1}  # fmt: skip

    (tmp_path / "probes").mkdir()
    for probe, shift in (("knn", 0.0), ("linear", 0.1)):
        rows = [
            row("model", "model", "as is", 0.5 + shift), row("model", "model", "whitened", 0.6 + shift),
            row("simple", "HOG", "standardised", 0.4 + shift), row("simple", "HOG", "as is", 0.3 + shift),
        ]  # fmt: skip
        content = {"probe": probe, "metric": "top1", "results": rows, "chance": 0.1}
        (tmp_path / "probes" / f"quickstart-{probe}.json").write_text(json.dumps(content))
    tool.show(tmp_path, 61.4)
    said = " ".join(capsys.readouterr().out.split())
    assert "trained encoder 60.0 (58.0-62.0) 70.0 (68.0-72.0) whitened whitened" in said
    assert "HOG 40.0 (38.0-42.0) 50.0 (48.0-52.0) standardised standardised" in said
    assert "The trained encoder is above" in said and "20.0 points" in said and "61 seconds" in said
