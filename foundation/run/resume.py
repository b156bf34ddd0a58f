"""What a resumed run may differ in from the one that is in the folder, and what else has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.data.sources import Stream
from foundation.errors import UserError
from foundation.parallel.placement import Placement, words
from foundation.run import runs
from foundation.run.recipe import Recipe

FREE = (
    "train.stop_after", "train.device", "train.compile", "train.log_every", "train.grace_seconds",
    "train.peer_timeout_seconds",
    "data.workers", "data.timeout_seconds", "data.max_bad_samples", "data.max_decoded_gib",
    "data.shards", "data.sources.*.shards", "data.cache", "data.cache_gib", "data.prefetch_shards", "data.allow_pipes",
    "parallel", "checkpoints", "guard", "probes", "about",
)  # fmt: skip
"""Keys that do not change what is learnt: a resumed run may differ in them."""


def compare(
    folder: Path,
    numbers: Mapping[str, Any],
    recipe: Recipe,
    flat: Recipe,
    stream: Stream,
    placement: Placement,
    accept_changes: bool,
) -> Iterator[str]:
    """Whether a run may go on from a checkpoint.

    Args:
        folder: of the checkpoint, for messages.
        numbers: its JSON half.
        recipe: of the user.
        flat: of the stage that the checkpoint is of.
        stream: the samples, as they are now.
        placement: where the run computes now.
        accept_changes: go on all the same.

    Yields:
        What is worth knowing and no reason to stop.

    Raises:
        UserError: data, batch size or recipe differ; lists how.
    """
    changes = stream.changes(numbers["data"])
    if numbers["batch_size"] != flat.train.batch_size:
        changes.append(f"train.batch_size: {numbers['batch_size']} then, {flat.train.batch_size} now")
    if changes and not accept_changes:
        listed = "\n".join(f"  {line}" for line in changes)
        raise UserError(
            f"{folder} was trained with other data:\n{listed}\nThe order of the samples would change. "
            "Use what it was, choose another --run, or say --accept-changes"
        )
    if not accept_changes:
        refuse_another_recipe(folder, numbers["recipe"], recipe)
    if stream.uncompared(numbers["data"]):
        yield (
            f"warning: {folder.name} was written by an older version, which did not keep what the shards held: their "
            "names and counts are as they were, their content could not be compared"
        )
    if (then := numbers.get("computed", {})) and then != (now := placement.plain()):
        yield f"the run goes on elsewhere: {words(then)} until now, {words(now)} from here on"


def nothing_left(folder: Path, recipe: Recipe) -> str | None:
    """What to say of a run that has reached its length, when it is started again as it was.

    Args:
        folder: of the run, which nobody holds.
        recipe: of the user.

    Returns:
        One line; None where there may be something to do: the run is not done, its last checkpoint is gone or damaged,
        no export is left, or any key of the recipe differs.
    """
    if not runs.is_run(folder) or not any((folder / "export").glob("*.safetensors")):
        return None
    run = runs.summary(folder)
    if run.state != "done" or run.checkpoint is None or run.total is None or run.step < run.total:
        return None
    last = folder / "checkpoints" / run.checkpoint
    if checkpoint.steps(folder / "checkpoints")[-1] != last or checkpoint.step_of(last) < run.total:
        return None
    if config.read_text(folder / "recipe.yaml") != config.dump(recipe.lasting) or checkpoint.problem(last):
        return None
    length = " + ".join(recipe.stage(number).train.length.to_yaml() for number in range(recipe.num_stages))
    return (
        f"nothing left to do: {folder} has reached its length, {length} (step {run.step:,} of {run.total:,}); to go "
        "on: the same command with a larger train.length and --accept-changes (the schedules stretch with it)"
    )


def refuse_another_recipe(folder: Path, before: str | Path, recipe: Recipe) -> None:
    """Only the recipe that a run or a checkpoint was made with goes on with it.

    Args:
        folder: of the run or the checkpoint, for the message.
        before: as for :func:`changes_in_recipe`.
        recipe: of the user.

    Raises:
        UserError: they differ; lists how.
    """
    listed = "\n".join(f"  {line}" for line in changes_in_recipe(before, recipe))
    if listed:
        raise UserError(
            f"{folder} was trained with another recipe:\n{listed}\n"
            "Resume with the old values, choose another --run, start anew with --fresh --overwrite, or say "
            "--accept-changes"
        )


def changes_in_recipe(before: str | Path, recipe: Recipe) -> list[str]:
    """What differs between a recipe that was written down and one that is to go on, one line for each key.

    The names of parts are compared first, as text: a recipe that names others than the user's own is never loaded.

    Args:
        before: resolved, as YAML, or the file that has it.
        recipe: of the user.
    """
    after = _as_written(recipe)
    try:
        before = config.read_text(before) if isinstance(before, Path) else before
        written = config.plain_of(before, "the recipe of the run before")
    except UserError as error:
        return [str(error)]
    if "teachers" in written:
        return ["it was begun by an earlier version (teachers are branches now); its encoders are read as before"]
    others = list(_differences(written, after))
    if not any(key.endswith((".name", ".kind")) and old is not None for key, old, _ in others):
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
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{key}.{index}")
    elif before != after:
        yield key, before, after
