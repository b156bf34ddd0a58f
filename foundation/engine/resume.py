"""What a resumed run may differ in from the one that is in the folder, and what else has changed."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from foundation import config
from foundation.errors import UserError
from foundation.recipe import Recipe

FREE = (
    "train.stop_after", "train.device", "train.log_every", "train.grace_seconds", "train.peer_timeout_seconds",
    "data.workers", "data.timeout_seconds", "data.max_bad_samples", "data.max_decoded_gib",
    "data.shards", "data.sources.*.shards", "data.cache", "data.cache_gib", "data.prefetch_shards", "data.allow_pipes",
    "checkpoints", "guard", "probes",
)  # fmt: skip
"""Keys that do not change what is learnt: a resumed run may differ in them."""


def changes_in_recipe(before: str, recipe: Recipe) -> list[str]:
    """What differs between a recipe that was written down and one that is to go on, one line for each key.

    The names of parts are compared first, as text: a recipe that names others than the user's own is never loaded.

    Args:
        before: resolved, as YAML.
        recipe: of the user.
    """
    after = _as_written(recipe)
    try:
        written = config.plain_of(before, "the recipe of the run before")
    except UserError as error:
        return [str(error)]
    others = list(_differences(written, after))
    if not any(key.endswith(".name") for key, _, _ in others):
        try:
            written = _as_written(config.load(Recipe, before, name="the recipe of the run before"))
        except UserError as error:
            return [str(error)]
        others = list(_differences(written, after))
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in others]


def _as_written(recipe: Recipe) -> Any:
    """A recipe as it stands in files, so that both sides have gone through the same hands."""
    return config.plain_of(config.dump(recipe), "the recipe")


def _differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys whose values differ, with both values; keys in FREE are left out."""
    if any(fnmatchcase(key, free) for free in FREE):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{key}.{place}")
    elif before != after:
        yield key, before, after
