"""The bench of few labels: one table of models, an untrained encoder and simple features."""

from __future__ import annotations

import pytest

from foundation.cli import main


@pytest.mark.slow
def test_one_table(tiny_shards, capsys):
    words = ["--train", tiny_shards, "--test", tiny_shards, "--per-class", "1", "2", "--draws", "1"]
    assert main(["bench", "labels", "timm:test_vit,random", *words]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "accuracy in %" and head.endswith("kNN  linear SVM  RBF SVM")
    assert len({len(row) for row in (head, *rows)}) == 1
    labels = [row.split("  ")[0] for row in rows]
    assert labels[:2] == ["timm test_vit (random weights)"] * 2 and labels.count("untrained") == 2
    assert all(0 <= float(value) <= 100 for row in rows for value in row.split()[-3:])
