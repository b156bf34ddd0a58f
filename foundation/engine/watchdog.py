"""The watchdog: a heartbeat that others can read, and an end to a process that makes no more steps.

A process that hangs, in a collective whose partner died, on storage that no longer answers, holds its machines until
somebody looks. The watchdog writes down where everything stands and ends the process with an exit code of its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from foundation import schema, stacks
from foundation.engine.run_folder import RunFolder
from foundation.engine.runs import Heartbeat
from foundation.errors import StallError
from foundation.files import TEMPORARY
from foundation.parallel.shared_memory import free_shared_memory

HEARTBEATS = "heartbeat"
"""Folder of the run folder with one file for each process."""
STALLS = "stalls"
"""Folder of the run folder with the stacks of processes that hung."""
LONGER = 4
"""The first step, and whatever :meth:`Watchdog.longer` surrounds, may take so many times ``stall_seconds``."""
_WRITE_EVERY = 1.0  # seconds between two writes of the heartbeat
_LAST_WORDS = 15.0  # seconds for writing stacks: the storage may be what hangs
_HELD = 30.0  # seconds after which the timer in C acts: this thread could not, because something holds the interpreter


@dataclass(frozen=True)
class _Now:
    """What the process is at; one object, so that the watching thread never sees half of a change."""

    doing: str
    allowed: float
    since: float
    time: float

    @classmethod
    def begin(cls, doing: str, allowed: float) -> _Now:
        return cls(doing, allowed, time.monotonic(), time.time())


class Watchdog:
    """While entered, ends the process when no :meth:`beat` comes for too long. One for each process of a run.

    A thread of its own does all writing, so that a beat costs nothing and a slow disk delays no step. When the time is
    up it writes the stacks of all threads of this process and asks the loader's workers for theirs, both into
    ``RUN/stalls/``, says so on stderr, marks the run as failed, kills the workers and leaves with exit code 5. The main
    thread takes no part, wherever it hangs. Where it hangs holding the interpreter (a faulty extension), a timer in C
    writes the stacks 30 seconds later; that can only end the process with exit code 1.

    Args:
        folder: the run folder.
        rank: number of this process.
        stall_seconds: longest time between two beats; 0 writes heartbeats and ends nothing.
        workers: gives the process numbers of the loader's workers.
    """

    def __init__(
        self, folder: Path, rank: int, stall_seconds: float, workers: Callable[[], Sequence[int]] = tuple
    ) -> None:
        self.folder, self.rank, self.stall_seconds, self.workers = folder, rank, stall_seconds, workers
        self.heartbeat = folder / HEARTBEATS / f"rank{rank}.json"
        self._prefix = folder.resolve() / STALLS / f"rank{rank}"
        self._beat: dict[str, Any] = {"step": None}
        self._now = _Now.begin("first step", stall_seconds * LONGER)
        self._armed_for: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._backstop: IO[str] | None = None
        self._said_disk = False

    def beat(self, step: int, **figures: float) -> None:
        """A step was made.

        Args:
            step: optimiser steps done.
            figures: plain numbers worth seeing from outside, such as ``loss`` and ``total`` (steps of the run).
        """
        self._beat = {"step": step, **figures}
        self._now = _Now.begin("training", self.stall_seconds)

    @contextlib.contextmanager
    def longer(self, doing: str) -> Iterator[None]:
        """Around work between two steps that takes longer than one: a probe, a checkpoint, an export.

        Args:
            doing: one or two words, shown by ``foundation runs``.
        """
        before = self._now
        self._now = _Now.begin(doing, self.stall_seconds * LONGER)
        try:
            yield
        finally:
            self._now = _Now.begin(before.doing, before.allowed)

    def __enter__(self) -> Watchdog:
        self._forget_the_dead()
        self._sweep()
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        self._before = os.environ.get(stacks.PREFIX_VARIABLE)
        os.environ[stacks.PREFIX_VARIABLE] = str(self._prefix)
        if self.stall_seconds:
            self._backstop = open(f"{self._prefix}-held.txt", "w")
        self._now = _Now.begin(self._now.doing, self._now.allowed)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=_LAST_WORDS)
        if self._before is None:
            os.environ.pop(stacks.PREFIX_VARIABLE, None)
        else:
            os.environ[stacks.PREFIX_VARIABLE] = self._before
        if self._backstop is not None:
            faulthandler.cancel_dump_traceback_later()
            self._backstop.close()
        self._sweep()
        with contextlib.suppress(OSError):
            self._prefix.parent.rmdir()  # only when nothing is left in it

    def _forget_the_dead(self) -> None:
        """Free the shared memory that workers of an earlier attempt held when they were killed."""
        try:
            host = schema.read_json(Heartbeat, self.heartbeat).get("host")
        except (FileNotFoundError, schema.FormError):
            return
        if host == socket.gethostname():
            for pid in stacks.worker_pids(str(self._prefix)):
                free_shared_memory(pid)

    def _sweep(self) -> None:
        """Remove this process's empty files: each worker opens one, for a day that mostly never comes."""
        for path in self._prefix.parent.glob(f"{self._prefix.name}-*.txt"):
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()

    def _watch(self) -> None:
        written = -_WRITE_EVERY
        pause = min(_WRITE_EVERY, self.stall_seconds / 4 or _WRITE_EVERY)
        while True:
            ended = self._end.wait(pause)
            state, now = self._now, time.monotonic()
            if ended or now - written >= _WRITE_EVERY:
                written = now
                self._write()
            if ended:
                return
            if self.stall_seconds:
                if now > state.since + state.allowed:
                    self._leave(state)
                self._arm(state.since + state.allowed)

    def _write(self) -> None:
        content: dict[str, Any] = {
            "time": self._now.time,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "rank": self.rank,
        }
        content |= {"doing": self._now.doing, **self._beat}
        # Nothing of a heartbeat must survive a power cut, and a sync every second would wear on shared storage.
        temporary = self.heartbeat.with_name(f".{self.heartbeat.name}{TEMPORARY}{os.getpid()}")
        try:
            self.heartbeat.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(content))
            temporary.replace(self.heartbeat)
            self._said_disk = False
        except (OSError, ValueError) as error:
            if not self._said_disk:
                print(f"foundation: cannot write {self.heartbeat}: {error}; training goes on", file=sys.stderr)
            self._said_disk = True
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _arm(self, deadline: float) -> None:
        """Set the timer in C, which needs no interpreter, for a while after this thread should have acted."""
        if self._backstop is None or deadline == self._armed_for:
            return
        self._armed_for = deadline
        seconds = max(1.0, deadline - time.monotonic()) + _HELD
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._backstop)

    def _leave(self, state: _Now) -> None:
        """Write down where everything stands, and end the process."""
        faulthandler.cancel_dump_traceback_later()
        place = f"{self._prefix}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        reason = (
            f"no step for {time.monotonic() - state.since:.0f} s (rank {self.rank} on {socket.gethostname()}, after "
            f"step {self._beat['step'] or 0}, during: {state.doing})"
        )
        for last_words in (lambda: self._describe(place, reason), lambda: self._announce(place, reason)):
            thread = threading.Thread(target=last_words, name="last words", daemon=True)
            thread.start()
            thread.join(_LAST_WORDS)
        os._exit(StallError.exit_code)

    def _announce(self, place: str, reason: str) -> None:
        text = (
            f"foundation: {reason}: the stacks of all threads and workers are in {place} and beside it; exit code "
            f"{StallError.exit_code}. The same command goes on from the last checkpoint; guard.stall_seconds is the "
            "time that a step may take\n"
        )
        os.write(2, text.encode())  # not through sys.stderr, whose lock the main thread may hold
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)  # they are deaf to everything else, and nobody is left to end them
        if self.rank == 0:
            RunFolder(self.folder).write_status("failed", step=self._beat["step"] or 0, reason=reason)

    def _describe(self, place: str, reason: str) -> None:
        try:
            with open(place, "w") as file:
                file.write(f"{reason}\n{time.ctime()}, process {os.getpid()}, workers {list(self._pids())}\n\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as error:
            os.write(2, f"foundation: cannot write {place}: {error}\n".encode())
            faulthandler.dump_traceback(file=2, all_threads=True)
        for path in stacks.ask_workers(str(self._prefix), self._pids())[1]:
            os.write(2, f"foundation: the worker of {path} does not answer\n".encode())

    def _pids(self) -> Sequence[int]:
        try:
            return tuple(self.workers())
        except Exception:
            traceback.print_exc()
            return ()
