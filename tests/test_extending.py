"""The examples of docs/extending.md, run in a package outside the repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from foundation import config
from foundation.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The files of the page, written as they stand there."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    names = []
    for _, name, body in BLOCK.findall(text):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(body, encoding="utf-8")
        names.append(name)
    assert len(names) == 8 and "my.yaml" in names
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def foundation(folder: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "foundation", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_examples_train_together(package: Path):
    foundation(package, "data", "build", "my_package/stripes.py", "data/stripes")
    foundation(package, "pretrain", "my.yaml")
    run = package / "runs" / "extended"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(any(f"loss/{name}" in line for line in lines) for name in ("align", "neighbours")) and any(
        "align/cosine" in line for line in lines
    )
    assert any("probe/mean_cosine" in line for line in lines)
    drift = [line["drift/cosine"] for line in lines if "drift/cosine" in line]
    assert drift[0] == 0 and 0 < drift[1] <= 1  # the first look has nothing to compare with
    foundation(package, "pretrain", "runs/extended", "--allow-plugins", "my_package", "train.stop_after=4 steps")
    shards = ("--train", "data/stripes/train-*.tar", "--test", "data/stripes/test-*.tar", "--workers", "0")
    assert "written" in foundation(package, "knn", "runs/extended", "--allow-plugins", "my_package", *shards)
    card = json.loads((run / "export" / "student.json").read_text())
    assert card["encoder"] == {"name": "my_package.pyramid", "width": 32}


def test_the_recipe_of_the_page_survives_a_round_trip(package: Path):
    from foundation.run.recipe import Recipe

    recipe = config.load(Recipe, package / "my.yaml", own=True)
    assert config.load(Recipe, config.dump(recipe)) == recipe
    assert "my_package.stepwise" in config.dump(recipe)


def test_the_example_refuses_what_cannot_work(package: Path):
    from foundation.run.recipe import Recipe

    with pytest.raises(UserError, match=r"my\.yaml:11: objectives\.0\.margin is 3; it must be at least 0 and below 2"):
        text = (package / "my.yaml").read_text().replace("margin: 0.1", "margin: 3")
        (package / "my.yaml").write_text(text)
        config.load(Recipe, package / "my.yaml", own=True)
