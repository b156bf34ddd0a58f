"""The trainer: the loop around the learner. Read :meth:`Trainer._train` and :meth:`Trainer._step`; the rest serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from foundation.data.loader import WaitEndedError
from foundation.engine import state
from foundation.engine.feed import Feed
from foundation.engine.learner import Learner
from foundation.errors import DataBudgetError, NumericsError, RequeueRequest, StopRequest, UserError
from foundation.parallel.collective import on_first_rank, rank, sums_over_ranks, world_size
from foundation.parallel.process_group import is_lost_connection
from foundation.parallel.threads import leave_one_processor
from foundation.run import build
from foundation.run import stage as stages
from foundation.run.data_guard import DataGuard
from foundation.run.guard import NumericsGuard
from foundation.run.interrupt import StopFlag
from foundation.run.journal import Journal
from foundation.run.keeper import Keeper, read
from foundation.run.last_writes import last_writes, try_for_a_while
from foundation.run.late import LateStep, late_step
from foundation.run.origin import record_start
from foundation.run.recipe import Recipe
from foundation.run.resume import compare
from foundation.run.run_folder import RunFolder
from foundation.run.stage import Part, Stage
from foundation.run.watchdog import Watchdog
from foundation.run.words import advice_of, banner, doubts_about_saves, end_by, next_stage, stopped_early


class Trainer:
    """One run of a recipe in its folder, through all its stages; resumes by itself when the folder holds a checkpoint.

    It owns folder, journal, checkpoints, watchdog and guards; a :class:`foundation.run.stage.Stage` has what is
    trained. With several processes each holds a trainer; process 0 writes for all.

    Args:
        recipe: the whole run.
        folder: entered (locked) by the caller in process 0.
        say: gets each line meant for a person.
        accept_changes: resume although data or batch size differ from those of the checkpoint.

    Raises:
        UserError: for anything about recipe, data or folder that cannot work in any stage, before the first step.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, say: Callable[[str], None] = print, accept_changes: bool = False
    ) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.placement = build.placement(recipe)
        build.set_up(recipe, self.placement)
        self.parts = stages.parts(recipe)
        sources = {id(shards): shards for part in self.parts for shards in part.sources.values()}
        for warning in (line for shards in sources.values() for line in shards.warnings):
            say(f"warning: {warning}")
        if len(self.parts) > 1:  # a single one is about to be built as it is
            stages.check(recipe, self.parts, self.placement, folder.path)
        self.clock = stages.clock_of(self.parts)
        self.advice = on_first_rank(lambda: advice_of(self.parts))
        if self.placement.device.type == "cpu":
            leave_one_processor()
        self.keeper = Keeper(folder, recipe, self.clock, self.placement, say)
        self.numerics = NumericsGuard(recipe.guard, folder, say, rank())
        self.progress = state.Progress()
        self._late: LateStep | None = None  # the last step, when its values have not been read yet
        self._loss: float | None = None  # mean over the processes, of the last step that has been read
        self.stage = self._built(self.parts[0])
        self._resume(accept_changes)
        self.data_guard = self._data_guard()
        self.stage.replicate()
        self.last_step = stages.last_step(recipe, self.parts, self.stage, self.progress.step)

    def _data_guard(self) -> DataGuard:
        data, skipped = self.stage.recipe.data, self.progress.skipped if rank() == 0 else None
        return DataGuard(data.max_bad_samples, self.stage.stream.num_samples, self.folder, self.say, skipped)

    @property
    def learner(self) -> Learner:
        """That of the stage."""
        return self.stage.learner

    def _built(self, part: Part) -> Stage:
        """A stage behind the one that there is."""
        previous = self.stage.handed_on() if part.number else None
        return Stage(part, self.placement, self.folder.path, self.say, previous)

    def run(self) -> None:
        """Train to the end of the recipe.

        Raises:
            RequeueRequest: after a signal, when the state has been saved.
            NumericsError: for a loss or gradient that is not finite, as the recipe's guard says.
            DataBudgetError: for too many bad samples.
        """
        self.folder.hold()
        self._moves = self.folder.moves
        with StopFlag() as self.stop:  # around the last word too: a signal that comes late must not make it another
            try:
                self._run()
                self._status(*(("stopped", self.stopped_early) if self.stopped_early else ("done",)))
            except BaseException as error:
                if self.stop.name == "SIGINT" and isinstance(error, RuntimeError) and is_lost_connection(error):
                    error = KeyboardInterrupt()  # another process was quicker to end
                self._status(*end_by(error, self.keeper.saver.newest))
                raise error

    def _run(self) -> None:
        with ExitStack() as stack:
            journal = Journal(self.folder, self.recipe.name, self.progress.step, self.last_step, self.say)
            self.journal = stack.enter_context(journal)
            seconds, step = self.recipe.guard.stall_seconds, self.progress.step or None
            dog = Watchdog(
                self.folder, rank(), seconds, lambda: self.feed.loader.worker_pids(), asked=self.stop.since, step=step
            )
            stack.callback(dog.sweep)  # once more, when the workers have ended
            self.feed = self._feed()
            stack.callback(lambda: self.feed.close())
            stack.enter_context(self.keeper.saver)
            self.watchdog = stack.enter_context(dog)
            self._prepare()
            self._train()
            self._finish()

    @property
    def stopped_early(self) -> str | None:
        """What to say where ``train.stop_after`` has ended the run before its length."""
        length = stages.length(self.parts, self.stage, self.progress.step)
        return stopped_early(self.progress.step, length, self.folder.path)

    def _prepare(self) -> None:
        """Write the first checkpoint before the first step: a run that cannot save must not find out a day later."""
        self._status("running")
        record_start(self.folder, self.progress.step, self.placement.plain())
        new, saver = self.keeper.last is None, self.keeper.saver
        if rank() == 0:
            head = banner(self.recipe, self.parts, self.stage, self.clock, self.last_step, self.progress.step)
            for line in (*head, f"  folder      {self.folder.path}", *(f"warning: {line}" for line in self.advice)):
                self.say(line)
        if new:
            self._run_jobs()
            self._save(wait=True)
        if rank() == 0:
            needed, grace = None if new else self.stage.bytes, self.recipe.train.grace_seconds
            for line in doubts_about_saves(self.folder.checkpoints, needed, saver.seconds, grace):
                self.say(line)

    def _train(self) -> None:
        while self.progress.step < self.last_step:
            if self.progress.step == self.stage.part.ends:
                self._next_stage()
            try:
                agreed = self._step()
            except WaitEndedError as error:
                self.stage.optimizer.zero_grad()  # the state is that of the last step, whole
                self._settle()
                self._save(wait=True)
                raise StopRequest(self.stop.name, self.progress.step, f"{error}. ") from error
            if agreed is not None:
                self._after_step(agreed)

    def _step(self) -> dict[str, float] | None:
        """One optimiser step. The device is not waited for: :meth:`_settle` reads its values when the next is queued.

        Returns:
            What all processes agreed on; None when the step before has sent the run back to a checkpoint.
        """
        stage, step, number = self.stage, self.progress.step, self.progress.of_stage
        stage.optimizer.apply_schedule(number)
        result = stage.gradients(self.feed, number, self._logged(step + 1), self.data_guard.see)
        norm = stage.optimizer.grad_norm()
        self.feed.prefetch()
        if self._settle():  # of the step before: the device is busy with this one by now
            return None
        agreed = sums_over_ranks(
            {
                "skipped": result.skipped,
                "stop": self.stop.name is not None,
                "save_failed": self.keeper.has_failed(),
                "save_overdue": self._save_is_overdue(),
                "collapsed": stage.collapse.failure is not None,
            }
        )
        if agreed["skipped"]:
            self._spend()
        refused, told = self.numerics.refuse(torch.as_tensor(result.loss), norm)
        schedules = stage.apply(norm, number, refused) | stage.optimizer.schedule_values()
        stage.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.position += stage.recipe.train.batch_size
        schedules = {f"schedule/{name}": value for name, value in schedules.items()}
        beside = self._figures() if self._logged(step + 1) else None
        self._late = late_step(step, number, result, norm, told, schedules, beside)
        return agreed

    def _settle(self) -> bool:
        """Read the values of the last step, if that has not been done, and act on them: guard, collapse watch, log.

        All processes call this when the next step has been queued, or something needs to know that the last was good.

        Returns:
            Whether the run has gone back to a checkpoint.
        """
        late, self._late = self._late, None
        if late is None:
            return False
        values = late.read()
        verdict = values.judge(self.numerics, self.keeper.saver.newest or self.keeper.last)
        if verdict == "rewind" and self._rewind():
            return True
        self._loss = values.loss
        self.stage.collapse.look(late.of_stage, values.figures)
        if late.beside is not None:
            further = {**self.numerics.metrics(), **self.stage.collapse.metrics()}
            self.journal.line(late.step + 1, {**values.figures, **late.beside, **further})
        return False

    def _after_step(self, agreed: Mapping[str, float]) -> None:
        """What is due between two steps."""
        step = self.progress.step
        self.watchdog.beat(step, total=self.last_step, **({} if self._loss is None else {"loss": self._loss}))
        self.journal.advance()
        last = step == self._stop
        save = self.keeper.saver.due(step) or agreed["save_overdue"] or last
        ends = agreed["stop"] or agreed["save_failed"] or agreed["collapsed"]
        if not (save or ends or self.stage.jobs.due(self.progress.of_stage, last)):
            return
        gone_back = self._settle()
        if not gone_back:
            self._run_jobs()
            self.last_step = min(self.last_step, stages.length(self.parts, self.stage, step))
        if agreed["stop"]:
            self._save(wait=True)
            raise StopRequest(self.stop.name, self.progress.step)
        if agreed["save_failed"]:
            raise self.keeper.failure or RequeueRequest("process 0 could not write a checkpoint")
        if agreed["collapsed"]:
            raise self.stage.collapse.failure or NumericsError(f"step {step}: collapsed, as another process says")
        if (save or step == self.last_step) and not gone_back:
            self._save()

    @property
    def _stop(self) -> int:
        """Step at which the stage ends, or this process before it."""
        return min(self.last_step, self.stage.part.ends)

    def _next_stage(self) -> None:
        """Build the next stage on the branches of the one that is done, whose state is a function of its last one."""
        with self.watchdog.longer("next stage"):
            self.feed.close()
            self.stage = self._built(self.parts[self.stage.part.number + 1])
            part = self.stage.part
            self.progress.stage, self.progress.begun, self.progress.position = part.number, part.begun, 0
            self.data_guard = self._data_guard()
            self.stage.begin()
            self.stage.replicate()
            self.feed = self._feed()
        self.say(next_stage(self.stage))
        self._run_jobs()

    def _run_jobs(self) -> None:
        last = self.progress.step == self._stop
        for figures in self.stage.jobs.run(self.progress, last, self.watchdog, self.folder.path):
            if rank() == 0 and figures:
                self.journal.note(self.progress.step, figures)
                self.keeper.saver.note(self.progress.step, figures)

    def _logged(self, step: int) -> bool:
        return step % self.recipe.train.log_every == 0 or step == self._stop

    def _figures(self) -> dict[str, float]:
        """What is logged beside the step's own figures, as it stands now."""
        return {
            **self.feed.summary(),
            **self.stage.stream.metrics(self.progress.position),
            "epoch": self.progress.of_stage / self.stage.clock.steps_per_epoch,
            **({"stage": float(self.progress.stage)} if len(self.parts) > 1 else {}),
            **self.data_guard.metrics(),
        }

    def _spend(self) -> None:
        try:
            self.data_guard.spend()
        except DataBudgetError:
            self.stage.optimizer.zero_grad()  # the state is that of the last step, whole: nothing learnt so far is lost
            self._save(wait=True)
            raise

    def _feed(self) -> Feed:
        return self.stage.feed(self.progress, self.last_step, self._may_leave_wait)

    def _may_leave_wait(self) -> bool:
        """Whether a wait for a batch may end unfulfilled: only a process on its own can save without the others."""
        return self.stop.name is not None and world_size() == 1

    def _resume(self, accept_changes: bool) -> None:
        """Take over the newest valid checkpoint, if there is one; build the stage that it is of."""
        folder = self.keeper.newest()
        if folder is None:
            self.stage.begin()
            return
        numbers, self.progress = read(folder)
        if self.progress.stage >= len(self.parts):
            raise UserError(f"{folder} is of stage {self.progress.stage + 1}, and the recipe has {len(self.parts)}")
        if shift := self.progress.begun - self.parts[self.progress.stage].begun:  # --accept-changes: an epoch changed
            self.parts = [replace(part, begun=part.begun + shift) for part in self.parts]
            self.say("warning: the lengths of stages that are done have changed, which changes nothing any more")
            self.clock = stages.clock_of(self.parts)
        for part in self.parts[1 : self.progress.stage + 1]:
            self.stage = self._built(part)
        self.stage.restore(folder, numbers)
        self.numerics.restore(numbers.get("guard", {}))
        self.stage.collapse.restore(numbers.get("collapse", {}))
        stage = self.stage
        for line in compare(folder, numbers, self.recipe, stage.recipe, stage.stream, self.placement, accept_changes):
            self.say(line)
        where = f", stage {stage.part.name}" if stage.part.name else ""
        self.say(f"resuming from {folder.name} (step {self.progress.step:,} of {self.clock.total_steps:,}{where})")
        self.keeper.last = folder

    def _rewind(self) -> bool:
        """Go back to the last checkpoint and go on behind the batch that was refused; False where none is left."""
        position, stage = self.progress.position, self.progress.stage
        with self.watchdog.longer("going back"):
            on_first_rank(self.keeper.saver.settle)  # where the last save failed, an older checkpoint serves
            self._follow()
            folder = self.keeper.newest()
            if folder is None:
                self.say(f"no whole checkpoint is left in {self.folder.checkpoints}: the batch is left out")
                return False
            numbers, before = read(folder)
            if before.stage != stage:  # of the stage before: this one begins anew
                self.say("no checkpoint of this stage is there yet: the batch is left out")
                return False
            self.stage.optimizer.zero_grad()  # of the step that was begun since
            self.progress = before
            self.stage.restore(folder, numbers)
        self.progress.position = position
        self.feed.close()
        self.feed = self._feed()
        self.journal.go_back(self.progress.step)
        return True

    def _save(self, wait: bool = False) -> None:
        """Hand the state to the saver; see :meth:`foundation.run.keeper.Keeper.save`."""
        self._follow()
        self.folder.require_ours()
        self.progress.skipped = dict(self.data_guard.of_all())
        further = {"guard": self.numerics.state(), "collapse": self.stage.collapse.state()}
        self.keeper.save(self.stage, self.progress, further, self.watchdog, wait)
        self._status("running")

    def _save_is_overdue(self) -> bool:
        """Whether there is room again for a state that could not be saved, or the run folder was lost with its own."""
        if rank() != 0:
            return False
        if self._moves != self.folder.moves:
            self._follow()
        return self.keeper.saver.overdue()

    def _follow(self) -> None:
        """Let everything that holds a path of the run folder know where it lies now."""
        self.folder.follow()
        if self._moves == self.folder.moves:
            return
        self._moves = self.folder.moves
        if rank() == 0:
            self.journal.go_back(self.progress.step)
        self.keeper.moved()

    def _finish(self) -> None:
        """Wait until the last state is on disk, and export it. Where there is no room, try again for a while.

        Raises:
            RequeueRequest: in all processes, when there is no room all the while.
        """
        saver, stage = self.keeper.saver, self.stage

        def write() -> str | None:
            return last_writes(saver, stage.recipe, stage.learner, self.folder, self.progress.step, self.placement)

        def save_anew() -> None:
            if on_first_rank(lambda: not saver.has(self.progress.step)):
                self._save()

        with self.watchdog.longer("last checkpoint and export"):
            try_for_a_while(write, save_anew, stopped=lambda: self.stop.name is not None, say=self.say)

    def _status(self, word: str, reason: str | None = None) -> None:
        if rank() == 0:
            beside: dict[str, Any] = {"reason": reason, "stage": self.stage.part.name}
            further = {name: value for name, value in beside.items() if value is not None}
            self.folder.write_status(word, step=self.progress.step, total=self.clock.total_steps, **further)
