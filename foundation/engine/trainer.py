"""The trainer: the loop around the learner. Read :meth:`Trainer.run` and :meth:`Trainer._step`; the rest serves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foundation import config
from foundation.data.pipeline import TrainingPipeline
from foundation.data.shards import open_shards
from foundation.data.stream import build_loader
from foundation.engine import build, checkpoint, state
from foundation.engine.guard import DataGuard, check_finite
from foundation.engine.interrupt import StopFlag
from foundation.engine.metrics import MetricsWriter
from foundation.engine.run_folder import RunFolder
from foundation.errors import RequeueRequest, UserError
from foundation.parallel.collective import rank, world_size
from foundation.parallel.threads import default_workers, leave_one_processor
from foundation.plugins import resolve
from foundation.recipe import Recipe
from foundation.types import Batch


class Trainer:
    """One run of a recipe in its folder; resumes by itself when the folder holds a checkpoint.

    Args:
        recipe: the whole run.
        folder: entered (locked) by the caller.
        say: gets each line meant for a person.

    Raises:
        UserError: for anything about recipe, data or folder that cannot work, before the first step.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, say: Callable[[str], None] = print) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.place = build.placement(recipe)
        self.shards = open_shards(recipe.data.shards)
        self.clock = recipe.clock(self.shards.num_samples)
        self.views = recipe.views.build(device_is_accelerator=self.place.device.type != "cpu")
        self.learner = build.learner(recipe, self.clock).to(self.place.device).train()
        self.optimizer = recipe.optimizer.build(build.trainable(self.learner), self.clock, recipe.train.batch_size)
        self.micro_batch = self._micro_batch()
        self.loader_workers = default_workers() if recipe.data.workers is None else recipe.data.workers
        if self.place.device.type == "cpu":
            leave_one_processor()
        self.progress = state.Progress()
        self.last_checkpoint = self._resume()
        self.guard = DataGuard(recipe.data.max_bad_samples, self.progress.skipped)
        stop_after = recipe.train.stop_after
        self.last_step = min(self.clock.total_steps, stop_after.steps(self.clock) if stop_after else sys.maxsize)

    def _micro_batch(self) -> int:
        size, parts = self.recipe.train.batch_size, self.recipe.train.accumulate * world_size()
        if size % parts:
            raise UserError(f"train.batch_size {size} cannot be divided among {parts} (processes x accumulate)")
        return size // parts

    def _resume(self) -> Any:
        folder, skipped = checkpoint.newest(self.folder.checkpoints)
        for path, reason in skipped:
            self.say(f"checkpoint {path.name} is not used: {reason}")
        if folder is None:
            return None
        tensors, numbers = checkpoint.read(folder)
        self.progress = state.progress_of(numbers)
        if numbers["batch_size"] != self.recipe.train.batch_size:
            raise UserError(
                f"{folder} was trained with batch size {numbers['batch_size']}, the recipe says "
                f"{self.recipe.train.batch_size}: the order of the data would change. Use the old size or a new --run"
            )
        state.restore(self.learner, self.optimizer, tensors)
        self.say(f"resuming from {folder.name} (step {self.progress.step:,} of {self.clock.total_steps:,})")
        return folder

    def run(self) -> None:
        """Train to the end of the recipe.

        Raises:
            RequeueRequest: after a signal, when the state has been saved.
            NumericsError: for a loss or gradient that is not finite.
            DataBudgetError: for too many bad samples.
        """
        from tqdm import tqdm

        from foundation.zoo.export import export_branches

        metrics = MetricsWriter(self.folder.path, self.progress.step)
        self.folder.write_status("running", step=self.progress.step)
        bar = tqdm(
            total=self.last_step, initial=self.progress.step, unit="step", disable=not sys.stderr.isatty(),
            dynamic_ncols=True, desc=self.recipe.name,
        )  # fmt: skip
        meter = _Meter()
        every = max(1, self.recipe.checkpoints.every.steps(self.clock))
        try:
            with StopFlag() as stop:
                loader = self._loader()
                batches = iter(loader)
                while self.progress.step < self.last_step:
                    values = self._step(batches, meter)
                    step = self.progress.step
                    bar.update()
                    if step % self.recipe.train.log_every == 0 or step == self.last_step:
                        line = {key: float(value) for key, value in values.items()} | meter.summary()
                        metrics.write(step, line)
                        self._show(bar, step, line)
                    self._probe(metrics, bar)
                    if stop.agreed():
                        self._save()
                        raise RequeueRequest(
                            f"stopped by {stop.name or 'another process'} after step {step:,}; saved. "
                            "Start the same command again to go on"
                        )
                    if step % every == 0 or step == self.last_step:
                        self._save()
            export_branches(self.recipe, self.learner, self.folder.export, self.progress.step)
            self.folder.write_status("done", step=self.progress.step)
        except BaseException as error:
            stopped = isinstance(error, RequeueRequest)
            self.folder.write_status("stopped" if stopped else "failed", step=self.progress.step, reason=str(error))
            raise
        finally:
            bar.close()
            metrics.close()

    def _step(self, batches: Iterator[Batch], meter: _Meter) -> dict[str, Any]:
        """One optimiser step. Returns what there is to log, tensors still on the device."""
        step, accumulate = self.progress.step, self.recipe.train.accumulate
        self.optimizer.apply_schedule(step)
        loss: Tensor | float = 0.0
        parts: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        keys: list[str] = []
        for _ in range(accumulate):
            batch = self._receive(batches, meter)
            if not batch.keys:
                continue
            keys += batch.keys
            with torch.autocast(self.place.device.type, self.place.autocast, enabled=self.place.autocast is not None):
                result = self.learner(batch, step)
            (result.loss / accumulate).backward()
            loss = loss + result.loss.detach() / accumulate
            for name, value in result.parts.items():
                parts[name] = parts.get(name, 0.0) + value / accumulate
            figures.update(result.metrics)
        norm = self.optimizer.grad_norm()
        check_finite(
            step, float(loss), float(norm), {k: float(v) for k, v in parts.items()}, tuple(keys), self.last_checkpoint
        )
        self.optimizer.clip(norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        teachers: Any = self.learner.teachers
        for name, teacher in teachers.items():
            figures |= {f"schedule/{name}_{key}": value for key, value in teacher.update(self.learner, step).items()}
        self.progress.step += 1
        self.progress.position += self.recipe.train.batch_size
        losses = {f"loss/{name}": value for name, value in parts.items()}
        schedules = {f"schedule/{name}": value for name, value in self.optimizer.schedule_values().items()}
        return {"loss": loss, **losses, **figures, "gradient/norm": norm, **schedules} | {
            "epoch": self.progress.step / self.clock.steps_per_epoch,
            "data/skipped": self.guard.counts.total(),
        }

    def _receive(self, batches: Iterator[Batch], meter: _Meter) -> Batch:
        batch = meter.next(batches)
        for message in self.guard.see(batch):
            self.say(f"skipped: {message}")
        self.progress.skipped = dict(self.guard.counts)
        batch = batch.to(self.place.device)
        if batch.pending is not None:
            batch = replace(batch, views=self.views.finish(batch.pending), pending=None)
        return batch

    def _loader(self) -> Any:
        recipe, data = self.recipe, self.recipe.data
        decode = resolve("foundation.modalities.{name}.decode", self.views.modality)
        on_cpu = self.place.device.type == "cpu"
        pipeline = TrainingPipeline(
            decode=decode.Config().build(),
            views=self.views,
            masking=recipe.masking.build() if recipe.masking else None,
            coordinates=recipe.encoder.coordinates,
            finish_in_worker=on_cpu,
        )
        return build_loader(
            self.shards,
            pipeline,
            batch_size=self.micro_batch,
            global_batch=recipe.train.batch_size,
            seed=recipe.seed,
            window=data.shuffle_window,
            start=self.progress.position,
            samples=(self.last_step - self.progress.step) * recipe.train.batch_size,
            workers=self.loader_workers,
            rank=rank(),
            world_size=world_size(),
            accumulate=recipe.train.accumulate,
            pin_memory=not on_cpu,
            timeout=data.timeout_seconds if self.loader_workers else 0.0,
        )

    def _save(self) -> None:
        if rank() == 0:
            dumped = config.dump(self.recipe)
            numbers = state.numbers(self.progress, self.recipe.train.batch_size, world_size(), recipe=dumped)
            tensors = state.capture(self.learner, self.optimizer)
            self.last_checkpoint = checkpoint.write(self.folder.checkpoints, self.progress.step, tensors, numbers)
            checkpoint.prune(self.folder.checkpoints, self.recipe.checkpoints.keep_last)
            self.folder.write_status("running", step=self.progress.step)

    def _probe(self, metrics: MetricsWriter, bar: Any) -> None:
        for probe in self.recipe.probes:
            every = max(1, probe.every.steps(self.clock))
            if self.progress.step % every == 0 or self.progress.step == self.last_step:
                values = run_probe(probe, self.recipe, self.learner, self.place, self.folder)
                metrics.write(self.progress.step, values)
                bar.write(f"step {self.progress.step:,}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def _show(self, bar: Any, step: int, line: Mapping[str, Any]) -> None:
        wait = f"{100 * line['data/wait_fraction']:.0f} %"
        speed = f"{line['throughput/samples_per_second']:.0f}/s"
        bar.set_postfix_str(f"loss {line['loss']:.3f}, {speed}, data wait {wait}")
        if bar.disable:
            self.say(f"step {step:,}/{self.last_step:,}: loss {line['loss']:.4f}, samples {speed}, data wait {wait}")


def run_probe(probe: Any, recipe: Recipe, learner: Any, place: build.Placement, folder: RunFolder) -> dict[str, float]:
    """Measure the first teacher's encoder (the student's where no teacher has one) without disturbing the run."""
    encoder = next((t.encoder for t in learner.teachers.values() if hasattr(t, "encoder")), learner.student.encoder)
    kept = torch.get_rng_state()
    was_training = encoder.training
    try:
        return probe.build().measure(
            encoder.eval(), modality=recipe.views.modality, evaluation=recipe.views.evaluation(), device=place.device
        )
    finally:
        encoder.train(was_training)
        torch.set_rng_state(kept)


class _Meter:
    """Samples, and time spent waiting for them, between two lines of metrics."""

    def __init__(self) -> None:
        self._samples, self._waited, self._since = 0, 0.0, time.perf_counter()
        self._begin = self._since

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, its waiting time counted."""
        begin = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - begin
        self._samples += batch.size
        return batch

    def summary(self) -> dict[str, float]:
        """Figures since the last call."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        figures = {
            "throughput/samples_per_second": self._samples / seconds,
            "data/wait_fraction": min(1.0, self._waited / seconds),
            "time/seconds": now - self._begin,
        }
        self._samples, self._waited, self._since = 0, 0.0, now
        return figures
