"""Where the files that travel with the code lie: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from foundation.errors import FoundationError, UserError
from foundation.plugins import near

PACKAGE = Path(__file__).resolve().parent
RECIPES = PACKAGE / "recipes"


def bundled(folder: str) -> Path:
    """Folder of scripts or catalogues: ``datasets``, ``tools``, ``launchers`` or ``model_zoo``.

    Raises:
        FoundationError: the installation lacks it.
    """
    for path in (PACKAGE / "_bundled" / folder, PACKAGE.parent / folder):
        if path.is_dir():
            return path
    raise FoundationError(f"the installation is incomplete: no folder {folder!r} inside or beside {PACKAGE}")


def user_cache() -> Path:
    """Folder for what may be lost: copies of remote shards, features of models that have no folder of their own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foundation"


def near_path(path: Path) -> str:
    """``; did you mean 'runs/mine'?`` when something beside a path that does not exist has a name like it."""
    if path.is_symlink():
        return f": it is a link to {str(path.readlink())!r}, which is not there"
    try:
        there = {entry.name: entry for entry in path.parent.iterdir() if not entry.name.startswith(".")}
    except OSError:
        return ""
    matches = difflib.get_close_matches(path.name, list(there), n=1, cutoff=0.6)
    return f"; did you mean {str(there[matches[0]])!r}?" if matches else ""


def recipes() -> dict[str, Path]:
    """The shipped recipes by name (``quickstart``), in alphabetical order."""
    files = sorted(RECIPES.rglob("*.yaml"))
    return {file.relative_to(RECIPES).with_suffix("").as_posix(): file for file in files}


def recipe(name_or_path: str | Path) -> Path:
    """File of a recipe.

    Args:
        name_or_path: name of a shipped recipe, or path of a YAML file of one's own.

    Raises:
        UserError: neither; the message lists the near names.
    """
    shipped, name = recipes(), str(name_or_path)
    if name in shipped:
        return shipped[name]
    path = Path(name_or_path)
    if path.is_file():
        return path
    listed = "'foundation recipes list' shows the shipped ones"
    if path.is_dir():
        raise UserError(f"{name} is a folder, but neither a run nor a recipe: give a YAML file or a name; {listed}")
    what = "no file" if path.suffix in (".yaml", ".yml") else "no recipe called"
    of_shipped, of_files = near(path.stem, shipped, most=3), near_path(path)
    is_path = len(path.parts) > 1 or path.suffix in (".yaml", ".yml")
    similar = (of_files or of_shipped) if is_path else (of_shipped or of_files)
    raise UserError(f"{what} {name!r}{similar} ({listed}; or give the path of a YAML file)")
