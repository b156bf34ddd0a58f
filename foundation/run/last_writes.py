"""What a run writes when it is done: the last state, and the encoders for use."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from foundation.checkpoints import checkpoint
from foundation.checkpoints.saver import Saver
from foundation.engine.learner import Learner
from foundation.errors import RequeueRequest
from foundation.parallel.blocks import any_sharded
from foundation.parallel.collective import on_first_rank, rank
from foundation.parallel.placement import Placement
from foundation.run.recipe import Recipe
from foundation.run.run_folder import RunFolder

LAST_SECONDS = 60.0
"""At the end of training a full disk is given so long to have room for the last checkpoint and the exports."""
_LOOK_AGAIN_SECONDS = 2.0


def last_writes(
    saver: Saver, recipe: Recipe, learner: Learner, folder: RunFolder, step: int, placement: Placement
) -> str | None:
    """Wait for the last checkpoint and export the encoders; for process 0. Those of sharded weights are made from the
    checkpoint, so that no process ever holds all.

    Args:
        saver: of the run.
        recipe: of the run.
        learner: trained.
        folder: of the run.
        step: optimiser steps done.
        placement: where the run computed.

    Returns:
        What could not be written, and what to do; None when everything is there.
    """
    from foundation.zoo.export import export_branches, export_checkpoint

    try:
        saver.wait()
    except RequeueRequest as error:
        return str(error)
    try:
        folder.export.mkdir(parents=True, exist_ok=True)
        if any_sharded({"learner": learner.state_dict()}):
            export_checkpoint(folder.checkpoints / checkpoint.name_of(step), folder.export, verify=False)
        else:
            export_branches(recipe, learner, folder.export, step, placement.plain())
    except OSError as error:
        return (
            f"step {step:,} is saved, but the export cannot be written to {folder.export}: {error}. Make room and "
            f"start the same command again, or write it: foundation export {shlex.quote(str(folder.path))}"
        )
    return None


def try_for_a_while(
    write: Callable[[], str | None],
    save_anew: Callable[[], None],
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Write until everything is there; all processes call this together.

    Args:
        write: for process 0: what could not be written, or None.
        save_anew: for all processes, before another attempt.
        stopped: whether a signal has come.
        say: gets each line meant for a person.

    Raises:
        RequeueRequest: in all processes, when there is no room for :data:`LAST_SECONDS`, or a signal has come.
    """
    until, again = time.monotonic() + LAST_SECONDS, False
    while (problem := on_first_rank(write)) is not None:
        if not on_first_rank(lambda: not stopped() and time.monotonic() < until):
            raise RequeueRequest(problem)
        if not again and rank() == 0:
            say(f"{problem}. Trying again for {LAST_SECONDS:.0f} seconds")
        again = True
        time.sleep(_LOOK_AGAIN_SECONDS)
        save_anew()
