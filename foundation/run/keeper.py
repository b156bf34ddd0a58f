"""The keeper: takes the state of a run at a step, and puts it back: at a start, and when a run goes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.checkpoints.saver import Saver
from foundation.engine import state
from foundation.engine.agreement import check_agreement
from foundation.parallel.blocks import any_sharded
from foundation.parallel.collective import gather_to_first, on_first_rank, rank, world_size
from foundation.parallel.placement import Placement
from foundation.run.recipe import Recipe
from foundation.run.run_folder import RunFolder
from foundation.run.stage import Stage
from foundation.run.watchdog import Watchdog
from foundation.schedules import Clock


class Keeper:
    """Checkpoints of one run. Each process has one; process 0 writes for all, or all write what they hold of a sharded
    state.

    Args:
        folder: of the run.
        recipe: whole.
        clock: length of the whole run.
        placement: where the run computes.
        say: gets each line meant for a person.

    Attributes:
        saver: writes.
        last: newest checkpoint that this process knows of.
    """

    def __init__(
        self, folder: RunFolder, recipe: Recipe, clock: Clock, placement: Placement, say: Callable[[str], None]
    ) -> None:
        self.folder, self.recipe, self.placement, self.say = folder, recipe, placement, say
        self.saver = Saver(
            folder.checkpoints, recipe.checkpoints, clock, say, timeout_seconds=recipe.train.peer_timeout_seconds
        )  # fmt: skip
        self.last: Path | None = None
        self._failure: BaseException | None = None
        self._recipe_kept = False

    def newest(self) -> Path | None:
        """The newest whole checkpoint, in all processes."""
        name = on_first_rank(self._recover)
        found = None if name is None else self.folder.checkpoints / name
        if rank() != 0:
            self.saver.know(found)
        return found

    def _recover(self) -> str | None:
        found = self.saver.recover()
        return found.name if found else None

    def save(
        self,
        stage: Stage,
        progress: state.Progress,
        further: Mapping[str, Any],
        watchdog: Watchdog,
        wait: bool = False,
    ) -> None:
        """Hand the state to the saver; all processes call this at the same step.

        Args:
            stage: that the run is in.
            progress: where the run is.
            further: numbers to keep.
            watchdog: of this process.
            wait: return when it is on disk.

        Raises:
            RequeueRequest: with ``wait``, in all processes, when it could not be written.
            DisagreementError: in all processes, when they do not hold the same state; nothing is written then.
        """
        tensors = stage.capture()
        everyone = any_sharded(tensors)
        with watchdog.longer("checkpoint"):
            check_agreement(tensors, progress.step)
        random = gather_to_first(state.random_state())

        def save() -> None:
            if rank() == 0 and not self._recipe_kept:  # what the run is from here on
                self.folder.write_recipe(config.dump(self.recipe.lasting))
                self._recipe_kept = True
            numbers = state.numbers(
                progress, stage.recipe.train.batch_size, world_size(), recipe=config.dump(self.recipe.lasting),
                data=stage.stream.fingerprint,
            )  # fmt: skip
            known = {"measured": stage.learner.measured, "exports": stage.learner.exports}
            numbers |= {**further, **known, "computed": self.placement.plain()}
            self.saver.save(progress.step, {**tensors, "random": state.of_ranks(random)}, numbers, wait=wait)

        if wait:
            watchdog.expect("checkpoint", on_first_rank(lambda: self.saver.seconds) or 0.0)
        with watchdog.longer("checkpoint"):
            if wait and not everyone:
                on_first_rank(save)
            elif everyone or rank() == 0:
                save()
        self.last = self.saver.newest or self.last or self.folder.checkpoints

    def has_failed(self) -> bool:
        """Whether a checkpoint could not be written and the recipe says to stop then; not alike in all processes."""
        self._failure = self.saver.failure()
        return self._failure is not None

    @property
    def failure(self) -> BaseException | None:
        """Why, in the processes that know."""
        return self._failure

    def moved(self) -> None:
        """The run folder has another name."""
        if rank() == 0:
            self.saver.move(self.folder.checkpoints)
            self.folder.write_recipe(config.dump(self.recipe.lasting))
        self.last = self.folder.checkpoints / self.last.name if self.last else None


def read(folder: Path) -> tuple[dict[str, Any], state.Progress]:
    """Numbers and progress of a checkpoint that process 0 has verified."""
    numbers = checkpoint.read(folder, (), verify=False)[1]
    return numbers, state.progress_of(numbers)
