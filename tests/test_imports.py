"""Imports of ``foundation`` run one way: no file leads back to itself, and none reaches into a layer above its own.

Every import counts, wherever it stands: in a function, under ``TYPE_CHECKING`` and as the text of a dotted name, as
``import_module`` takes it. Patterns of plug-ins (``foundation.objectives.{name}``) name no file and do not count: by
them the user of a lower layer reaches a higher one.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "foundation"

LAYERS = (
    # Text, files, settings, processes, numbers: what any program has.
    "allocator bicubic catalogue chunks compatibility config config_nodes config_reader copied_code counter ctrl_c "
    "deadline errors files host_arrays hub_access inherited lifeline linear linear_float8 paths planned plugins "
    "printable ranges records redact schedules schema search_path seeded spread stacks synonyms types version voice "
    "weights",
    "parallel",
    "data",
    "modalities",
    "encoders heads masks",
    "checkpoints zoo",
    "branches",
    "objectives",
    "engine",
    "probes",
    "jobs",
    "run",
    "measure cluster tasks finetuning",
    "report",
    "watch",
    # What a person or a cluster calls. The package itself gives ``foundation.load``.
    "__init__ __main__ api cli evaluate_command picture_command probe_command probe_options submitit_job",
)
"""Files and folders of the package, ground floor first; a file imports from its own layer and those before it."""

LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
Graph = Mapping[str, Mapping[str, int]]


def module_of(path: Path, root: Path) -> str:
    """Dotted name of a file: ``foundation.data.tar``, ``foundation.data`` for its ``__init__.py``."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def named(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports or writes down, with their lines."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and id(node) not in prose and re.fullmatch(r"\w+(\.\w+)+", str(node.value)):
            yield str(node.value), node.lineno


def graph_of(root: Path) -> dict[str, dict[str, int]]:
    """For each file of a package, the files that it imports and the line of the first import."""
    files = {module_of(path, root): path for path in root.rglob("*.py")}
    graph: dict[str, dict[str, int]] = {name: {} for name in files}
    for module, path in files.items():
        for name, line in named(ast.parse(path.read_text(encoding="utf-8"))):
            if name not in files:
                name = name.rpartition(".")[0]  # what stands in a file: a class, a function
            if name in files and name != module:
                graph[module].setdefault(name, line)
    return graph


def circle_in(graph: Graph) -> list[str]:
    """One circle of imports, its first file last again; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upward(graph: Graph) -> list[str]:
    """Imports from a layer above the importer's own."""
    return [
        f"{module} (line {line}) imports {other}"
        for module, others in graph.items()
        for other, line in others.items()
        if level_of(other) > level_of(module)
    ]


def level_of(module: str) -> int:
    """Number of a file's layer."""
    return LEVELS[[*module.split("."), "__init__"][1]]


@cache
def real() -> Graph:
    return graph_of(PACKAGE)


def test_every_file_is_in_a_layer():
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    there -= {"recipes", "py", "__pycache__", "_bundled"}
    assert there <= set(LEVELS), f"put {sorted(there - set(LEVELS))} into a layer"


def test_no_file_imports_in_a_circle():
    assert circle_in(real()) == []


def test_no_file_imports_from_a_higher_layer():
    assert upward(real()) == []


@pytest.mark.parametrize(
    "back",
    [
        "import {}\n",
        "from {0} import thing\n",
        "def late():\n    from {0} import thing\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from {0} import thing\n",
        "import importlib\n\nthing = importlib.import_module('{0}')\n",
    ],
)
def test_circles_and_upward_imports_of_every_form_are_found(back, tmp_path):
    root = tmp_path / "foundation"
    for name, text in {
        "errors.py": '"""See foundation.engine.feed."""\nPATTERN = "foundation.engine.{name}"\n',
        "data/tar.py": back.format("foundation.engine.feed"),
        "engine/feed.py": "from foundation.data import tar\nfrom foundation.errors import UserError\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    graph = graph_of(root)
    assert set(circle_in(graph)) == {"foundation.data.tar", "foundation.engine.feed"}
    (found,) = upward(graph)
    assert found.startswith("foundation.data.tar") and found.endswith("imports foundation.engine.feed")
    assert graph["foundation.errors"] == {}


@pytest.mark.parametrize("words", [["-c", "import foundation"], ["-m", "foundation", "--help"]])
def test_the_door_opens_at_once(words):
    """Processor seconds of a whole process: no torch, no NumPy."""
    code = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(code, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "foundation" in imported
    assert not imported & {"torch", "numpy", "timm", "torchvision"}
