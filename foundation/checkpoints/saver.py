"""The saver: takes the training state quickly and writes it while training goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Any, Literal

from torch import Tensor

from foundation.checkpoints import checkpoint, retention
from foundation.checkpoints.stores import Store, store_for
from foundation.errors import RequeueRequest, UserError
from foundation.parallel.collective import rank
from foundation.ranges import Range, check
from foundation.records import Records
from foundation.schedules import Clock, Duration

_LOOK_SECONDS = 5.0  # after a save that failed: so long until the next try, twice as long after each further failure
_LOOK_SECONDS_AT_MOST = 600.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """When checkpoints are written, and which of them stay on disk."""

    every: Annotated[Duration, Range(0, 1e9, above=True)] = Duration(1, "epochs")
    """Steps between two checkpoints; one is also written at the end and on a signal."""
    keep_last: Annotated[int, Range(2, 10**6)] = 2
    """Newest checkpoints that stay on disk; at least 2, because the newest one may turn out to be damaged."""
    keep_every: Annotated[Duration, Range(0, 1e9, above=True)] | None = None
    """A checkpoint at each multiple of this stays for good; null: none does."""
    keep_best: str | None = None
    """The checkpoint at which this figure of a probe was highest stays, such as ``probe/knn_top1``; null: none does."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written. Costs the memory of one copy of the training state."""
    when_disk_full: Literal["continue", "stop"] = "continue"
    """After a checkpoint that could not be written: say so, go on and save as soon as there is room, or end with exit
    code 75."""

    def __post_init__(self) -> None:
        check(self, "checkpoints")

    def policy(self, clock: Clock) -> retention.Policy:
        """What stays, in steps."""
        keep_every = None if self.keep_every is None else max(1, self.keep_every.steps(clock))
        return retention.Policy(self.keep_last, keep_every, self.keep_best)


class Saver:
    """Writes checkpoints in the background, one at a time, and keeps those that the policy wants.

    Each process has one. A state that process 0 holds whole is saved by process 0; one that is sharded is saved by all
    together, which then learn alike what became of it. The folder itself is the business of process 0, which holds the
    run's lock: it alone may call :meth:`recover`, :meth:`move` and :meth:`note`, and it alone removes anything. The
    constructor writes and removes nothing.

    Args:
        root: the run's ``checkpoints`` folder; need not exist.
        config: of the recipe.
        clock: length of the run.
        say: gets each line meant for a person, always in the calling thread.
        timeout_seconds: while a sharded state is saved, a process that waits for another one for so long gives up.

    Attributes:
        newest: the newest checkpoint known to be whole; None before there is one or :meth:`recover` has found one.
        seconds: duration of the last complete save, from taking the state to its last byte on disk, also that of an
            earlier process; None before the first.
    """

    def __init__(
        self, root: Path, config: Config, clock: Clock, say: Callable[[str], None], timeout_seconds: float = 7200.0
    ) -> None:
        self.root, self.config, self.say, self.timeout_seconds = root, config, say, timeout_seconds
        self.every = max(1, config.every.steps(clock))
        self.policy = config.policy(clock)
        self.newest: Path | None = None
        self.seconds: float | None = None
        self._figures = retention.figures_or_none(root, say)
        self._damaged: dict[str, str] = {}
        self._lock = threading.Lock()  # of _figures and the file that they are kept in
        self._messages: SimpleQueue[str] = SimpleQueue()
        self._store: Store | None = None
        self._warned = False  # that keep_best has nothing to go by
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None  # for failure(): what must be acted on while training
        self._unsaved: BaseException | None = None  # for wait(): why the last save is not on disk
        self._records = Records(self._messages.put)
        self._lost = False  # that the checkpoints are gone and nothing has been saved since
        self._needed = 0  # bytes that the last save lacked room for
        self._failures = 0  # saves that failed since the last good one
        self._next_try = 0.0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after ``step`` optimiser steps; the same on every process."""
        return step % self.every == 0

    def recover(self) -> Path | None:
        """Remove and name what a killed process left; return the newest valid checkpoint, naming those passed over."""
        removed: list[str] = []
        self._records.keep(
            "cannot remove what is left over in", self.root, lambda: removed.extend(checkpoint.clean(self.root))
        )
        for name in removed:
            self.say(f"removed {name}: left over from a process that was killed while it wrote or removed a checkpoint")
        self._tell()
        folder, skipped = checkpoint.newest(self.root)
        for path, reason in skipped:
            self._damaged[path.name] = reason
            self.say(f"checkpoint {path.name} is not used: {reason}")
        self.newest, self._lost = folder, folder is None
        if folder is not None:
            self.seconds = float(checkpoint.manifest_of(folder)["seconds"])
        return folder

    def has(self, step: int) -> bool:
        """Whether the checkpoint of a step is the newest that is known to be whole."""
        return self.newest == self.root / checkpoint.name_of(step)

    def prepare(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Allocate the staging buffers now, so that the first save is as quick as the later ones."""
        if self.config.asynchronous:
            self._store_for(tensors).prepare(tensors)

    def _store_for(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Store:
        self._store = store_for(tensors, self._store, self.timeout_seconds)
        return self._store

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        numbers: Mapping[str, Any],
        *,
        wait: bool = False,
    ) -> None:
        """Write a checkpoint; the tensors may change as soon as this returns.

        A save that is still under way is waited for first. Where the state is sharded, all processes call this; else
        process 0 does.

        Args:
            step: optimiser steps done.
            tensors: by group and key, on any device.
            numbers: JSON values.
            wait: return only when it is on disk, as before the process ends.

        Raises:
            RequeueRequest: with ``wait``, when it could not be written.
            UserError: with ``wait``, when it could not be written and nothing has been learnt yet.
        """
        self._join()
        self._unsaved, self._lost = None, False
        store = self._store_for(tensors)
        if not store.agreed(self.has(step)):
            begun, numbers, aside = time.perf_counter(), dict(numbers), self.config.asynchronous and not wait
            arguments = (store, step, store.take(tensors, copy=aside), numbers, begun)
            if aside:
                self._thread = threading.Thread(
                    target=self._write_quietly, args=arguments, name=f"checkpoint-{step}"
                )  # fmt: skip
                self._thread.start()
            else:
                self._write(*arguments)
        self._tell()
        if wait:
            self.wait()

    def writing(self) -> bool:
        """Whether a save is under way."""
        return self._thread is not None and self._thread.is_alive()

    def overdue(self) -> bool:
        """Whether the last save failed and another try is worth while: there is room again. Cheap; ask at each step."""
        if self._lost:
            return True
        if not self._failures or self.writing():
            return False
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + _LOOK_SECONDS
        return checkpoint.free_bytes(self.root) > self._needed

    def know(self, newest: Path | None) -> None:
        """Take over what process 0 has found by :meth:`recover`; for the others."""
        self.newest = newest

    def move(self, root: Path) -> None:
        """The checkpoints lie in another folder from now on; where they are not there, the next step saves."""
        self._join()
        self.root = root
        if self.newest is not None:
            newest = root / self.newest.name
            self.newest = newest if newest.is_dir() else None
            self._lost = self.newest is None

    def settle(self) -> None:
        """Until nothing is being written, whether the last save failed or not."""
        self._join()
        self._tell()

    def failure(self) -> BaseException | None:
        """What went wrong in the background and must end the run, once; None otherwise. Poll it after each step."""
        self._tell()
        failure, self._failure = self._failure, None
        return failure

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            RequeueRequest: the last save could not be written (whatever ``when_disk_full`` says: it is not saved).
            BaseException: anything else that went wrong in the background.
        """
        self._join()
        self._tell()
        unsaved, self._unsaved, self._failure = self._unsaved, None, None
        if unsaved is not None:
            raise unsaved

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Remember a probe's figures at a step, for ``keep_best``; they survive restarts."""
        found = retention.finite(figures)
        with self._lock:
            self._figures.setdefault(step, {}).update(found)
            self._write_retention()
            known = {name for at in self._figures.values() for name in at}
            earlier = any(at < step for at in self._figures)
        self._tell()
        best = self.policy.keep_best
        if best in found and not self.due(step):
            self._warn_of_best(
                f"{best} was measured at step {step:,}, where no checkpoint is written; let the probe's `every` be "
                f"a multiple of checkpoints.every ({self.every:,} steps)"
            )
        elif best is not None and earlier and best not in known:
            self._warn_of_best(f"no probe measures {best!r}; there are: {', '.join(sorted(known)) or 'none'}")

    def _warn_of_best(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.say(f"checkpoints.keep_best: {text}")

    def close(self) -> None:
        """Let a save under way finish, say what there is to say, and give the memory back."""
        self._join()
        self._tell()
        if self._store is not None:
            self._store.release()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whoever presses Ctrl-C three times does not wait for a save, which is whole or not there when it is cut off.
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.close()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tell(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self.say(self._messages.get_nowait())

    def _write_quietly(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:
            self._failure = self._unsaved = error

    def _write(self, store: Store, step: int, taken: Any, numbers: Mapping[str, Any], begun: float) -> None:
        try:
            folder = store.write(self.root, step, taken, numbers, begun)
        except checkpoint.WriteError as error:
            self._not_written(step, error)
            return
        if self._failures:
            self._messages.put(f"{folder.name} is saved: there is room again")
        self.newest, self.seconds, self._failures = folder, time.perf_counter() - begun, 0
        self.root = folder.parent  # process 0 knows when the run folder has another name
        self._damaged.pop(folder.name, None)
        if rank() == 0:
            with self._lock:
                self._prune()

    def _not_written(self, step: int, error: checkpoint.WriteError) -> None:
        self._needed = error.needed
        pause = min(_LOOK_SECONDS * 2 ** min(self._failures, 10), _LOOK_SECONDS_AT_MOST)
        self._failures, self._next_try = self._failures + 1, time.monotonic() + pause
        older = f"the newest one is {self.newest.name}" if self.newest else "there is no older one"
        self._unsaved = RequeueRequest(
            f"{error}; {older}. Make room (or make it writable) and start the same command again to go on"
        )
        if step == 0 and self.newest is None:
            self._unsaved = UserError(f"{error}. Nothing has been learnt yet: make room, or choose another --run")
        elif self.config.when_disk_full == "stop":
            self._failure = self._unsaved
        elif self._failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... in a row
            self._messages.put(f"{error}; {older}. Training goes on, and the state is saved when there is room")

    def _prune(self) -> None:
        self._records.keep("cannot remove old checkpoints in", self.root, self._remove_old)
        self._write_retention()

    def _remove_old(self) -> None:
        good = self._valid()
        kept = self.policy.reasons(good, self._figures)
        for step, folder in good.items():
            if not kept[step] and folder != self.newest:
                checkpoint.remove(folder)
        there = checkpoint.steps(self.root)
        self._figures = {s: f for s, f in self._figures.items() if kept.get(s) or s > max(good, default=0)}
        for folder in there if len(good) > 1 else ():
            if folder.name in self._damaged and checkpoint.step_of(folder) < max(good):
                self._messages.put(f"removed damaged checkpoint {folder.name}: {self._damaged.pop(folder.name)}")
                checkpoint.remove(folder)

    def _valid(self) -> dict[int, Path]:
        """Checkpoints that nothing speaks against, by step; remembers the others as damaged."""
        good = {}
        for folder in checkpoint.steps(self.root):
            if folder.name not in self._damaged:
                reason = checkpoint.problem(folder, hashes=False)
                if reason is None:
                    good[checkpoint.step_of(folder)] = folder
                else:
                    self._damaged[folder.name] = reason
        return good

    def _write_retention(self) -> None:
        path = self.root / retention.NAME
        if not self.root.is_dir():  # renamed a moment ago: the file would make the folder anew, perhaps a foreign one
            return
        self._records.keep("cannot write", path, lambda: retention.write(self.root, self.policy, self._figures))
