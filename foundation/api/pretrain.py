"""``foundation.pretrain``: from a folder of files, or shards, to a trained encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.api.command import command, settings
from foundation.api.folder_shards import holds_shards, own_files, shards_of_folder
from foundation.api.run import Run, run_of
from foundation.errors import UserError


def pretrain(
    *,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None,
    recipe: str | Path | None,
    set: Mapping[str, Any] | None,
    modality: str | None,
    fresh: bool,
    processes: int,
    overrides: Mapping[str, Any],
) -> Run:
    """See :func:`foundation.pretrain`."""
    folder = Path(out)
    if recipe is None and data is None:
        if not (folder / "recipe.yaml").is_file():
            raise UserError("pretrain: give data=, a folder of files or shards, or recipe=, or both")
        recipe = folder  # goes on
    changes = settings(set, overrides)
    if data is not None:
        pattern, kind = _shards(data, modality)
        if recipe is None:
            recipe = _recipe_for(kind)
        changes = [*settings({"data.shards": pattern}, {}), *changes]
    flags = ["--fresh", "--overwrite"] if fresh else []
    flags += ["--processes", str(processes)] if processes > 1 else []
    command("pretrain", str(recipe), *changes, "--run", str(folder), *flags)
    return run_of(folder)


def _shards(data: str | Path | Sequence[str | Path], modality: str | None) -> tuple[list[str], str | None]:
    """Patterns of shards, and the modality where that is known."""
    if not isinstance(data, str | Path):
        return [str(one) for one in data], modality
    path = Path(data)
    if path.is_dir() and not holds_shards(path):
        built = shards_of_folder(path, modality)
        return [built.train], built.modality
    if path.is_dir():
        train = path / "train-*.tar"
        return [str(train if any(path.glob(train.name)) else path / "*.tar")], modality or _said(path)
    return [str(data)], modality or _said(path.parent)


def _said(folder: Path) -> str | None:
    """Modality of shards as the index beside them says it."""
    from foundation.data.index import read_index

    index = read_index(folder) if folder.is_dir() else None
    card = index.about.get("card", {}) if index is not None else {}
    return str(card["modality"]) if "modality" in card else None


def _recipe_for(modality: str | None) -> str:
    """A shipped recipe to begin with: small, for a CPU; for a GPU where there is one and a recipe for it."""
    import torch

    known = own_files()
    if modality not in known:
        of = f" of {modality}" if modality else ""
        raise UserError(f"pretrain: no recipe is chosen for these shards{of}: give recipe= (foundation recipes list)")
    recipes = known[modality].recipes
    return recipes["gpu"] if "gpu" in recipes and torch.cuda.is_available() else recipes["cpu"]
