"""Every shipped recipe learns as it was recorded: five steps of its losses and gradients are those of ``losses.json``.

A rebuild of what lies behind the recipes must pass. Where a change of numbers is meant, ``python -m
tests.frozen.record`` rewrites the file, and the commit says why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.frozen.runs import STEPS, load, measure, rounding, settings, shards

ROOT = Path(__file__).resolve().parents[2]
FROZEN = load()
RUNS = FROZEN["runs"]
MODALITIES = {"image", "audio", "points", "video", "imu", "paired"}
TOLERANCE = 1e-6 if FROZEN["recorded"] == rounding() else 1e-2
"""Relative. Where the values were recorded sums differ by their order at most; other instructions
or another torch differ in the last bits of everything, which five steps of AdamW enlarge."""
NEAR_ZERO = min(TOLERANCE, 1e-4)
"""Absolute."""


@pytest.fixture(scope="session")
def data_of(shared_data, tmp_path_factory) -> Callable[[str], str]:
    """``data_of("letters")``: pattern of the shards, which are made once."""
    made: dict[str, str] = {}

    def find(name: str) -> str:
        if name not in made:
            made[name] = shards(FROZEN["data"][name], shared_data, tmp_path_factory.mktemp("frozen") / name)
        return made[name]

    return find


def _marked(name: str):
    return pytest.param(name, marks=pytest.mark.slow) if RUNS[name].get("slow") else name


@pytest.mark.parametrize("name", [_marked(name) for name in RUNS])
def test_a_run_learns_as_recorded(name: str, data_of, tmp_path: Path) -> None:
    run = RUNS[name]
    words = [f"data.shards=['{data_of(run['data'])}']", *settings(FROZEN, name)]
    found = measure(run["recipe"], words, tmp_path / "run")
    assert found.keys() == run["values"].keys()
    wrong = {key: (found[key], values) for key, values in run["values"].items() if found[key] != close(values)}
    assert not wrong, "\n".join(f"{key}: {new} instead of {old}" for key, (new, old) in wrong.items())


def close(values: list[float]):
    return pytest.approx(values, rel=TOLERANCE, abs=NEAR_ZERO)


def test_no_shipped_recipe_is_missing() -> None:
    shipped = {file.stem for file in (ROOT / "foundation" / "recipes").glob("*.yaml")}
    assert len(shipped) > 30 and {run["recipe"] for run in RUNS.values()} == shipped


def test_every_run_has_its_values() -> None:
    for name, run in RUNS.items():
        columns = run["values"]
        assert "loss" in columns and "gradient/norm" in columns and len(columns) >= 3, name
        assert all(len(column) == STEPS and len(set(column)) > 1 for column in columns.values()), name


def test_every_modality_is_in_the_default_suite(capsys) -> None:
    from foundation.cli import main

    assert main(["recipes", "list"]) == 0
    modality, of = "", {}
    for line in capsys.readouterr().out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            modality = line[:-1]
        elif line.startswith("  ") and not line.startswith("   "):
            of[line.strip()] = modality
    assert {of[run["recipe"]] for run in RUNS.values() if not run.get("slow")} == MODALITIES
