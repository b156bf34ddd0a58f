"""What a run writes when it is done: the last state, and the encoders for use."""

from __future__ import annotations

from foundation.engine.build import Placement
from foundation.engine.learner import Learner
from foundation.engine.run_folder import RunFolder
from foundation.engine.saver import Saver
from foundation.errors import RequeueRequest
from foundation.recipe import Recipe


def last_writes(
    saver: Saver, recipe: Recipe, learner: Learner, folder: RunFolder, step: int, place: Placement
) -> str | None:
    """Wait for the last checkpoint and export the encoders; for process 0.

    Args:
        saver: of the run.
        recipe: of the run.
        learner: trained.
        folder: of the run.
        step: optimiser steps done.
        place: where the run computed.

    Returns:
        What could not be written, and what to do; None when everything is there.
    """
    from foundation.zoo.export import export_branches

    try:
        saver.wait()
    except RequeueRequest as error:
        return str(error)
    try:
        export_branches(recipe, learner, folder.export, step, place.plain())
    except OSError as error:
        return (
            f"step {step:,} is saved, but the export cannot be written to {folder.export}: {error}. Make room and "
            f"start the same command again, or write it with 'foundation export {folder.path}'"
        )
    return None
