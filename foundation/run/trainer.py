"""The trainer: the loop around the learner. Read :meth:`Trainer._train` and :meth:`Trainer._step`; the rest serves."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.checkpoints.saver import Saver
from foundation.data.loader import WaitEndedError
from foundation.data.stream import build_loader, build_stream, open_sources
from foundation.engine import state
from foundation.engine.accumulate import accumulate
from foundation.engine.agreement import check_agreement
from foundation.engine.collapse import CollapseWatch
from foundation.engine.feed import Feed
from foundation.errors import DataBudgetError, NumericsError, RequeueRequest, UserError
from foundation.parallel.collective import (
    gather_json,
    gather_to_first,
    on_first_rank,
    rank,
    sums_over_ranks,
    world_size,
)
from foundation.parallel.process_group import is_lost_connection
from foundation.parallel.replicate import replicate
from foundation.parallel.threads import default_workers, leave_one_processor
from foundation.run import build
from foundation.run.advice import advice
from foundation.run.data_guard import DataGuard
from foundation.run.guard import NumericsGuard
from foundation.run.interrupt import StopFlag
from foundation.run.journal import Journal
from foundation.run.last_writes import last_writes, try_for_a_while
from foundation.run.origin import record_start
from foundation.run.probing import run_probe
from foundation.run.recipe import Recipe
from foundation.run.resume import compare
from foundation.run.run_folder import RunFolder
from foundation.run.watchdog import Watchdog
from foundation.run.words import banner, doubts_about_saves, end_by, stopped_early


class Trainer:
    """One run of a recipe in its folder; resumes by itself when the folder holds a checkpoint.

    With several processes each holds a trainer; process 0 writes for all.

    Args:
        recipe: the whole run.
        folder: entered (locked) by the caller in process 0.
        say: gets each line meant for a person.
        accept_changes: resume although data or batch size differ from those of the checkpoint.

    Raises:
        UserError: for anything about recipe, data or folder that cannot work, before the first step.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, say: Callable[[str], None] = print, accept_changes: bool = False
    ) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.place = build.placement(recipe)
        sources = open_sources(recipe.data)
        for warning in (line for shards in sources.values() for line in shards.warnings):
            say(f"warning: {warning}")
        self.num_samples = sum(int(shards.num_samples) for shards in sources.values())
        self.clock = recipe.clock(self.num_samples)
        self.advice = on_first_rank(lambda: advice(recipe, self.clock, sources))
        self.views = recipe.views.build(device_is_accelerator=self.place.device.type != "cpu")
        self.learner = build.learner(recipe, self.clock, samples=self.num_samples).to(self.place.device).train()
        self.stream = build_stream(
            recipe.data, sources, seed=recipe.seed, global_batch=recipe.train.batch_size, clock=self.clock,
            tokens=build.tokens_per_sample(recipe, self.learner),
        )  # fmt: skip
        self.optimizer = recipe.optimizer.build(build.trainable(self.learner), self.clock, recipe.train.batch_size)
        self.micro_batch = self._micro_batch()
        self.loader_workers = default_workers() if recipe.data.workers is None else recipe.data.workers
        if self.place.device.type == "cpu":
            leave_one_processor()
        self.saver = Saver(folder.checkpoints, recipe.checkpoints, self.clock, say)
        self.numerics = NumericsGuard(recipe.guard, folder, say, rank())
        objectives: Any = self.learner.objectives
        plateaus = {name: part.plateau for name, part in objectives.items() if part.plateau is not None}
        self.collapse = CollapseWatch(recipe.guard.collapse, plateaus, self.clock, say)
        self.progress = state.Progress()
        self._save_failure: BaseException | None = None
        self.last_checkpoint = self._resume(accept_changes)
        self.data_guard = DataGuard(
            recipe.data.max_bad_samples, self.stream.num_samples, folder, say,
            self.progress.skipped if rank() == 0 else None,
        )  # fmt: skip
        self.replica = replicate(self.learner, self.place.device, self.learner.may_leave_parameters_out)
        stop_after = recipe.train.stop_after
        self.last_step = min(self.clock.total_steps, stop_after.steps(self.clock) if stop_after else sys.maxsize)

    def _micro_batch(self) -> int:
        size, parts = self.recipe.train.batch_size, self.recipe.train.accumulate * world_size()
        if size % parts:
            raise UserError(f"train.batch_size {size} cannot be divided among {parts} (processes x accumulate)")
        return size // parts

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
                self._status(*end_by(error, self.saver.newest))
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
            stack.enter_context(self.saver)
            self.watchdog = stack.enter_context(dog)
            self._prepare()
            self._train()
            self._finish()

    @property
    def stopped_early(self) -> str | None:
        """What to say where ``train.stop_after`` has ended the run before its length."""
        return stopped_early(self.progress.step, self.clock.total_steps, self.folder.path)

    def _prepare(self) -> None:
        """Write the first checkpoint before the first step: a run that cannot save must not find out a day later."""
        self._status("running")
        record_start(self.folder, self.progress.step, self.place.plain())
        new = self.last_checkpoint is None
        if rank() == 0:
            samples, workers = self.stream.num_samples, self.loader_workers
            run = (self.recipe, self.learner, self.clock, self.place)
            head = banner(*run, samples, self.last_step, workers, self.progress.step)
            for line in (*head, f"  folder      {self.folder.path}", *(f"warning: {line}" for line in self.advice)):
                self.say(line)
        if new:
            self._save(wait=True)
        if rank() == 0:
            needed, grace = None if new else self.checkpoint_bytes, self.recipe.train.grace_seconds
            for line in doubts_about_saves(self.folder.checkpoints, needed, self.saver.seconds, grace):
                self.say(line)

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint takes on the disk, about."""
        groups = state.capture(self.learner, self.optimizer, []).values()
        return sum(t.numel() * t.element_size() for group in groups for t in group.values())

    def _train(self) -> None:
        while self.progress.step < self.last_step:
            try:
                values, agreed = self._step()
            except WaitEndedError as error:
                self.optimizer.zero_grad()  # the state is that of the last step, whole
                self._save(wait=True)
                raise RequeueRequest(
                    f"stopped by {self.stop.name} after step {self.progress.step:,}; saved. {error}. "
                    "Start the same command again to go on"
                ) from error
            step = self.progress.step
            self.watchdog.beat(step, loss=agreed["loss"], total=self.last_step)
            if values is not None:
                self.journal.advance()
                if self._logged(step):
                    self.journal.line(step, values | self._figures())
                self._probe()
            if agreed["stop"]:
                self._save(wait=True)
                raise RequeueRequest(
                    f"stopped by {self.stop.name or 'another process'} after step {step:,}; saved. "
                    "Start the same command again to go on"
                )
            if agreed["save_failed"]:
                raise self._save_failure or RequeueRequest("process 0 could not write a checkpoint")
            if agreed["collapsed"]:
                raise self.collapse.failure or NumericsError(f"step {step}: collapsed, as another process says")
            due = self.saver.due(step) or agreed["save_overdue"] or step == self.last_step
            if values is not None and due:
                self._save()

    def _step(self) -> tuple[dict[str, Any] | None, dict[str, float]]:
        """One optimiser step.

        Returns:
            What there is to log, tensors still on the device (None when the run has gone back to a checkpoint), and
            what all processes agreed on.
        """
        step = self.progress.step
        self.optimizer.apply_schedule(step)
        result = accumulate(
            self.feed, self.replica, self.place, step, self.recipe.train.accumulate,
            masked=bool(self.recipe.mask_rules), watched=self._logged(step + 1), see=self.data_guard.see,
        )  # fmt: skip
        norm = self.optimizer.grad_norm()
        self.feed.prefetch()
        loss, length = float(result.loss), float(norm)
        agreed = sums_over_ranks(
            {
                "loss": loss / world_size(),
                "suspicious": self.numerics.suspicious(loss, length),
                "skipped": result.skipped,
                "stop": self.stop.name is not None,
                "save_failed": self._save_has_failed(),
                "save_overdue": self._save_is_overdue(),
                "collapsed": self.collapse.failure is not None,
            }
        )
        if agreed["skipped"]:
            self._spend()
        parts = {name: float(value) for name, value in result.parts.items()}
        verdict = self.numerics.judge(
            step, agreed["loss"], length, parts, result.keys, agreed["suspicious"] > 0,
            self.saver.newest or self.last_checkpoint,
        )  # fmt: skip
        if verdict == "go":
            self.optimizer.clip(norm)
            self.optimizer.step()
            result.figures |= {f"schedule/{name}": value for name, value in self.learner.update(step).items()}
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.position += self.recipe.train.batch_size
        if verdict == "rewind" and self._rewind():
            return None, agreed
        self.collapse.look(step, result.figures)
        losses = {f"loss/{name}": value for name, value in result.parts.items()}
        schedules = {f"schedule/{name}": value for name, value in self.optimizer.schedule_values().items()}
        return {"loss": result.loss, **losses, **result.figures, "gradient/norm": norm, **schedules}, agreed

    def _logged(self, step: int) -> bool:
        return step % self.recipe.train.log_every == 0 or step == self.last_step

    def _figures(self) -> dict[str, float]:
        """What is logged beside the step's own figures."""
        counts = self._skipped()
        return {
            **self.feed.summary(),
            **self.numerics.metrics(),
            **self.collapse.metrics(),
            **self.stream.metrics(self.progress.position),
            "epoch": self.progress.step / self.clock.steps_per_epoch,
            "data/bad_samples": float(self.data_guard.distinct),
            "data/skipped": float(counts.total()),
            **{f"data/skipped/{reason}": float(count) for reason, count in sorted(counts.items())},
        }

    def _spend(self) -> None:
        try:
            self.data_guard.spend()
        except DataBudgetError:
            self.optimizer.zero_grad()  # the state is that of the last step, whole: nothing learnt so far is lost
            self._save(wait=True)
            raise

    def _feed(self) -> Feed:
        recipe, data = self.recipe, self.recipe.data
        on_cpu = self.place.device.type == "cpu"
        loader = build_loader(
            self.stream,
            build.pipeline(recipe, self.views, on_cpu),
            batch_size=self.micro_batch,
            global_batch=recipe.train.batch_size,
            start=self.progress.position,
            samples=(self.last_step - self.progress.step) * recipe.train.batch_size,
            rank=rank(),
            world_size=world_size(),
            accumulate=recipe.train.accumulate,
            workers=self.loader_workers,
            pin_memory=not on_cpu,
            timeout=data.timeout_seconds if self.loader_workers else 0.0,
            interrupted=self._may_leave_wait,
        )
        return Feed(loader, self.place.device, self.views.finish)

    def _may_leave_wait(self) -> bool:
        """Whether a wait for a batch may end unfulfilled: only a process on its own can save without the others."""
        return self.stop.name is not None and world_size() == 1

    def _resume(self, accept_changes: bool) -> Path | None:
        """Take over the newest valid checkpoint, if there is one."""
        name = on_first_rank(self._recover)
        if name is None:
            state.seed_random(self.recipe.seed, 0, rank())
            return None
        folder = self.folder.checkpoints / name
        numbers = self._load(folder)
        self.progress = state.progress_of(numbers)
        self.numerics.restore(numbers.get("guard", {}))
        self.collapse.restore(numbers.get("collapse", {}))
        for line in compare(folder, numbers, self.recipe, self.stream, self.place, accept_changes):
            self.say(line)
        self.say(f"resuming from {name} (step {self.progress.step:,} of {self.clock.total_steps:,})")
        return folder

    def _recover(self) -> str | None:
        folder = self.saver.recover()
        return folder.name if folder else None

    def _load(self, folder: Path) -> dict[str, Any]:
        """Restore all tensors from a checkpoint that process 0 has verified; return its numbers."""
        tensors, numbers = checkpoint.read(folder, verify=False)
        state.restore(
            self.learner, self.optimizer, tensors, numbers, rank=rank(), world_size=world_size(), seed=self.recipe.seed
        )
        return numbers

    def _rewind(self) -> bool:
        """Go back to the last checkpoint and go on behind the batch that was refused; False where none is left."""
        position = self.progress.position
        with self.watchdog.longer("going back"):
            on_first_rank(self.saver.settle)  # where the last save failed, an older checkpoint serves
            self._follow()
            name = on_first_rank(self._recover)
            if name is None:
                self.say(f"no whole checkpoint is left in {self.folder.checkpoints}: the batch is left out")
                return False
            self.progress = state.progress_of(self._load(self.folder.checkpoints / name))
        self.progress.position = position
        self.feed.close()
        self.feed = self._feed()
        self.journal.go_back(self.progress.step)
        return True

    def _save(self, wait: bool = False) -> None:
        """Hand the state to the saver; all processes call this at the same step.

        Args:
            wait: return when it is on disk.

        Raises:
            RequeueRequest: with ``wait``, in all processes, when it could not be written.
            DisagreementError: in all processes, when they do not hold the same state; nothing is written then.
        """
        self._follow()
        with self.watchdog.longer("checkpoint"):
            check_agreement(state.capture(self.learner, self.optimizer, []), self.progress.step)
        random = gather_to_first(state.random_state())
        self.progress.skipped = dict(self._skipped())

        def save() -> None:
            numbers = state.numbers(
                self.progress, self.recipe.train.batch_size, world_size(), recipe=config.dump(self.recipe.lasting),
                data=self.stream.fingerprint,
            )  # fmt: skip
            numbers |= {"guard": self.numerics.state(), "collapse": self.collapse.state()}
            numbers |= {"computed": self.place.plain()}
            tensors = state.capture(self.learner, self.optimizer, random)
            self.saver.save(self.progress.step, tensors, numbers, wait=wait)

        if wait:
            self.watchdog.expect("checkpoint", on_first_rank(lambda: self.saver.seconds) or 0.0)
        with self.watchdog.longer("checkpoint"):
            if wait:
                on_first_rank(save)
            elif rank() == 0:
                save()
        self.last_checkpoint = self.saver.newest or self.last_checkpoint or self.folder.checkpoints
        self._status("running")

    def _save_has_failed(self) -> bool:
        """Whether a checkpoint could not be written and the recipe says to stop then."""
        if rank() == 0:
            self._save_failure = self.saver.failure()
        return self._save_failure is not None

    def _save_is_overdue(self) -> bool:
        """Whether there is room again for a state that could not be saved, or the run folder was lost with its own."""
        if rank() != 0:
            return False
        if self._moves != self.folder.moves:
            self._follow()
        return self.saver.overdue()

    def _follow(self) -> None:
        """Let everything that holds a path of the run folder know where it lies now."""
        self.folder.follow()
        if self._moves == self.folder.moves:
            return
        self._moves = self.folder.moves
        if rank() == 0:
            self.saver.move(self.folder.checkpoints)
            self.journal.go_back(self.progress.step)
            self.folder.write_recipe(config.dump(self.recipe.lasting))
        self.last_checkpoint = self.folder.checkpoints / self.last_checkpoint.name if self.last_checkpoint else None

    def _finish(self) -> None:
        """Wait until the last state is on disk, and export it. Where there is no room, try again for a while.

        Raises:
            RequeueRequest: in all processes, when there is no room all the while.
        """

        def write() -> str | None:
            step = self.progress.step
            return last_writes(self.saver, self.recipe, self.learner, self.folder, step, self.place)

        def save_anew() -> None:
            if on_first_rank(lambda: not self.saver.has(self.progress.step)):
                self._save()

        with self.watchdog.longer("last checkpoint and export"):
            try_for_a_while(write, save_anew, stopped=lambda: self.stop.name is not None, say=self.say)

    def _skipped(self) -> Counter[str]:
        """Bad samples of all processes by reason."""
        return sum((Counter(part) for part in gather_json(dict(self.data_guard.counts))), Counter())

    def _probe(self) -> None:
        for probe in self.recipe.probes:
            every = max(1, probe.every.steps(self.clock))
            if self.progress.step % every == 0 or self.progress.step == self.last_step:
                with self.watchdog.longer("probe"):  # the other processes wait for process 0 here, and not in a step
                    values = on_first_rank(partial(run_probe, probe, self.recipe, self.learner, self.place))
                if rank() == 0:
                    self.journal.note(self.progress.step, values)
                    self.saver.note(self.progress.step, values)

    def _status(self, word: str, reason: str | None = None) -> None:
        if rank() == 0:
            because = {} if reason is None else {"reason": reason}
            self.folder.write_status(word, step=self.progress.step, total=self.clock.total_steps, **because)
