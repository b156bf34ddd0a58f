"""Sets, figures and durations under names for people."""

from __future__ import annotations

import json

import pytest

from foundation.report import names


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("/a/bridges/shards/test-*.tar", "bridges (test)"),
        ("data/digits/train-{000000..000009}.tar", "digits (train)"),
        ("s3://bucket/birds/train-0.tar", "birds (train)"),
        ("https://host/birds/val-000.tar?token=secret", "birds (val)"),
        ("data/digits", "digits"),
        ("train-*.tar", "train"),
        ("pipe:cat x", "the output of a program"),
    ],
)
def test_a_set_is_called_by_its_folder_and_split_not_by_a_pattern(pattern, name):
    assert names.set_name([pattern, pattern]) == name


def test_a_set_with_a_card_is_called_by_its_title(tmp_path):
    about = {"dataset": "x", "card": {"title": "Photo tiles"}}
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "classes": [], "about": about, "splits": {}}))
    assert names.set_name([str(tmp_path / "test-*.tar")]) == "Photo tiles (test)"
    (tmp_path / "index.json").write_text("[")
    assert names.set_name([str(tmp_path / "test-*.tar")]) == f"{tmp_path.name} (test)"


def test_figures_have_names_units_and_no_keys():
    assert names.value("koleo/distance", 0.1) == "KoLeo: distance to the nearest neighbour 0.1"
    assert names.value("ibot-2/prototypes", 0.5) == "iBOT 2: prototypes in use 50 %"
    assert names.value("schedule/weight_decay", 0.05) == "weight decay 0.05"
    assert names.figure("my_loss/odd_thing").title == "My loss: odd thing"
    assert [names.duration(s) for s in (3.21, 75, 200, 900, 7500)] == [
        "3.2 s",
        "75 s",
        "3.3 min",
        "15 min",
        "2 h 5 min",
    ]
