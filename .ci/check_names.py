"""In an environment that holds only the wheel: the package is whole, and no other top-level name came with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

import foundation
from foundation.cli import VERBS
from foundation.paths import bundled, recipes

files = importlib.metadata.files("foundation-pretrain") or []
names = {file.parts[0] for file in files if not file.parts[0].endswith(".dist-info") and file.parts[0] != ".."}
problems = [f"the wheel installs the top-level name {name!r}" for name in sorted(names - {"foundation"})]
problems += [
    f"{name!r} can be imported" for name in ("launchers", "model_zoo", "tools") if importlib.util.find_spec(name)
]
for verb, (script, _) in VERBS.items():
    folder, _, name = script.partition("/")
    if not (bundled(folder) / name).exists():
        problems.append(f"the script of {verb!r} is missing: {script}")
if not recipes():
    problems.append("no recipes came along")
print(f"{foundation.__file__}: {len(files)} files, {len(VERBS)} verbs, {len(recipes())} recipes")
print("\n".join(problems))
sys.exit(1 if problems else 0)
