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
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from foundation import lifeline, schema, stacks
from foundation.errors import RequeueRequest, StallError
from foundation.files import TEMPORARY, matching
from foundation.parallel.shared_memory import free_shared_memory, lives
from foundation.records import replace_or_overwrite
from foundation.run import ownership, sentry
from foundation.run.run_folder import RunFolder
from foundation.run.runs import HEARTBEATS, Heartbeat
from foundation.voice import to_stderr

STALLS = "stalls"
"""Folder of the run folder with the stacks of processes that hung."""
LONGER = 4
"""The first step, and whatever :meth:`Watchdog.longer` surrounds, may take so many times ``stall_seconds``."""
STOP_SECONDS = 15.0
"""After a signal: so long without a step, and the process waits in vain; :data:`LONGER` times as long for a save."""
_USUAL = 3  # what took long before may take so many times as long after a signal
_WRITE_EVERY = 1.0  # seconds between two writes of the heartbeat
_LAST_WORDS = 15.0  # seconds for writing stacks: the storage may be what hangs
_HELD = 30.0  # seconds after which the sentry acts: this thread could not, because something holds the interpreter
_DUMP_SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else 0  # nobody else's; answered in C


@dataclass(frozen=True)
class _Now:
    """What the process is at; one object, so that the watching thread never sees half of a change."""

    doing: str
    factor: int
    since: float
    time: float
    stopped: float

    @classmethod
    def begin(cls, doing: str, factor: int, stopped: float = 0.0) -> _Now:
        return cls(doing, factor, time.monotonic(), time.time(), stopped)


class Watchdog:
    """While entered, ends the process when no :meth:`beat` comes for too long. One for each process of a run.

    Too long is ``stall_seconds``, or some seconds once the process was asked to stop: what it waits for then (a batch,
    another process, a disk) keeps it from saving. Time in which the process itself was stopped (SIGSTOP) does not
    count. A process whose launcher has ended is asked to stop.

    A thread of its own does all writing, so that a beat costs nothing and a slow disk delays no step. When the time is
    up it writes the stacks of all threads of this process and asks the loader's workers for theirs, both into
    ``RUN/stalls/``, says so on stderr, marks the run as failed, kills the workers and leaves with exit code 5. The main
    thread takes no part, wherever it hangs. Where it hangs holding the interpreter (a faulty extension), a program
    beside it (:mod:`foundation.run.sentry`) has the stacks written 30 seconds later and kills the process.

    Args:
        folder: the run folder.
        rank: number of this process.
        stall_seconds: longest time between two beats; 0 writes heartbeats and ends nothing that was not asked to stop.
        workers: gives the process numbers of the loader's workers.
        asked: gives the ``time.monotonic()`` at which the process was asked to stop, None before.
        step: that a run goes on from; None for a new one.
    """

    def __init__(
        self,
        folder: RunFolder,
        rank: int,
        stall_seconds: float,
        workers: Callable[[], Sequence[int]] = tuple,
        asked: Callable[[], float | None] = lambda: None,
        step: int | None = None,
    ) -> None:
        self.folder, self.rank, self.stall_seconds, self.workers = folder, rank, stall_seconds, workers
        self._asked, self._launcher = asked, lifeline.launcher()
        self._beat: dict[str, Any] = {"step": step}
        self._stopped = 0.0  # seconds in which this process was stopped, all together
        self._took: dict[str, float] = {}  # longest time that each kind of work took
        self._now = _Now.begin("first step", LONGER)
        self._sentry: subprocess.Popen[bytes] | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._backstop: IO[str] | None = None

    @property
    def heartbeat(self) -> Path:
        """File of the heartbeat."""
        return self.folder.path / HEARTBEATS / f"rank{self.rank}.json"

    @property
    def _prefix(self) -> Path:
        return self.folder.path.absolute() / STALLS / f"rank{self.rank}"

    def beat(self, step: int, **figures: float) -> None:
        """A step was made.

        Args:
            step: optimiser steps done.
            figures: plain numbers worth seeing from outside, such as ``loss`` and ``total`` (steps of the run).
        """
        self._beat = {"step": step, **figures}
        self._next("training", 1)

    def expect(self, doing: str, seconds: float) -> None:
        """Such work took so long in an earlier process, or beside training: after a signal it may do so again."""
        self._took[doing] = max(seconds, self._took.get(doing, 0.0))

    def _next(self, doing: str, factor: int) -> None:
        before = self._now
        took = time.monotonic() - before.since - (self._stopped - before.stopped)
        self.expect(before.doing, took)
        self._now = _Now.begin(doing, factor, self._stopped)

    @contextlib.contextmanager
    def longer(self, doing: str) -> Iterator[None]:
        """Around work between two steps that takes longer than one: a probe, a checkpoint, an export.

        Args:
            doing: one or two words, shown by ``foundation runs``.
        """
        before = self._now
        self._next(doing, LONGER)
        try:
            yield
        finally:
            self._next(before.doing, before.factor)

    def __enter__(self) -> Watchdog:
        self.sweep(theirs=self._on_this_host())
        prefix, records = self._prefix, self.folder.records
        records.keep("cannot write stacks to", prefix.parent, lambda: prefix.parent.mkdir(parents=True, exist_ok=True))
        self._write()  # before there are workers: were this process killed at once, the next one must know its host
        self._before = os.environ.get(stacks.PREFIX_VARIABLE)
        os.environ[stacks.PREFIX_VARIABLE] = str(prefix)
        if self.stall_seconds:
            path = f"{prefix}-held.txt"
            records.keep("cannot write stacks to", prefix.parent, lambda: self._open_backstop(path))
            records.keep("cannot start the sentry", Path(sys.executable), lambda: self._start_sentry(path))
        self._now = _Now.begin(self._now.doing, self._now.factor)
        self._thread.start()
        return self

    def _open_backstop(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # another process may just have swept it away, empty
        self._backstop = open(path, "w")  # noqa: SIM115 - open as long as the watchdog watches
        if _DUMP_SIGNAL:
            faulthandler.register(_DUMP_SIGNAL, file=self._backstop, all_threads=True)

    def _start_sentry(self, path: str) -> None:
        number = int(_DUMP_SIGNAL) if self._backstop is not None else 0
        self._sentry = subprocess.Popen(
            [sys.executable, "-I", "-S", sentry.__file__, str(os.getpid()), str(number), path],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._sentry.stdin is not None
        os.set_blocking(self._sentry.stdin.fileno(), False)

    def _dismiss(self) -> None:
        assert self._sentry is not None and self._sentry.stdin is not None
        with contextlib.suppress(OSError):
            os.write(self._sentry.stdin.fileno(), sentry.END + b"\n")
            self._sentry.stdin.close()
        try:
            self._sentry.wait(timeout=2)
        except subprocess.TimeoutExpired:  # it was stopped: somebody else's doing
            self._sentry.kill()
            self._sentry.wait()

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
            if _DUMP_SIGNAL:
                faulthandler.unregister(_DUMP_SIGNAL)
            self._backstop.close()
        if self._sentry is not None:
            self._dismiss()
        self.sweep()

    def _on_this_host(self) -> bool:
        """Whether the attempt before this one, by its heartbeat, ran where this one runs."""
        try:
            return schema.read_json(Heartbeat, self.heartbeat).get("host") == socket.gethostname()
        except (OSError, schema.FormError):
            return False

    def sweep(self, theirs: bool = True) -> None:
        """Remove this process's empty files (each worker opens one, for a day that mostly never comes), and with a
        worker's what it left in shared memory.

        Those of workers that are still dying stay, and with them the note of what the next attempt has to free.

        Args:
            theirs: whether the workers that had the files ran on this host, so that their numbers mean something here.
        """
        dying = set[str]()
        for pid in stacks.worker_pids(str(self._prefix)):
            # One look for both: a worker that dies between two of them would be neither freed nor noted.
            if not (free_shared_memory(pid) if theirs else not lives(pid)):
                dying.add(stacks.worker_file(self._prefix.name, pid))
        for path in matching(self._prefix.parent, f"{self._prefix.name}-*.txt"):
            with contextlib.suppress(OSError):
                if path.name not in dying and path.stat().st_size == 0:
                    path.unlink()
        with contextlib.suppress(OSError):
            self._prefix.parent.rmdir()  # only when nothing is left in it

    def _watch(self) -> None:
        written = -_WRITE_EVERY
        pause = min(_WRITE_EVERY, self.stall_seconds / 4 or _WRITE_EVERY)
        while True:
            begun = time.monotonic()
            ended = self._end.wait(pause)
            now = time.monotonic()
            if now - begun > 2 * pause:  # the whole process stood still, this thread with it: nobody has hung
                self._stopped += now - begun - pause
            if ended or now - written >= _WRITE_EVERY:
                written = now
                if self.folder.superseded():
                    self._leave_superseded()
                self._write()
            if ended:
                return
            self._end_with_launcher()
            state = self._now
            self._end_waiting(state, now)
            if self.stall_seconds:
                deadline = self._after(state.since, state) + self.stall_seconds * state.factor
                if now > deadline:
                    self._leave_stalled(state, now)
                self._tell_sentry(deadline - now)

    def _after(self, moment: float, state: _Now) -> float:
        """A moment, moved on by the time in which this process was stopped since ``state`` began."""
        return moment + self._stopped - state.stopped

    def _end_with_launcher(self) -> None:
        if self._launcher is not None and os.getppid() != self._launcher:
            self._launcher = None
            to_stderr(f"foundation: rank {self.rank}: the program that started the run has ended: stopping")
            os.kill(os.getpid(), signal.SIGTERM)

    def _end_waiting(self, state: _Now, now: float) -> None:
        asked = self._asked()
        if asked is None:
            return
        patience = max(STOP_SECONDS * state.factor, _USUAL * self._took.get(state.doing, 0.0))
        if state.doing not in self._took and state.factor > 1 and self._beat["step"] is None:
            patience = STOP_SECONDS  # the first step: nothing has been learnt that could be lost
        if now > self._after(max(asked, state.since), state) + patience:
            self._leave(
                f"asked to stop {now - asked:.0f} s ago, and still waiting ({self._where(state)}): the last checkpoint "
                "stands",
                RequeueRequest.exit_code,
                "stopped",
            )

    def _write(self) -> None:
        if self.folder.follow() == "lost":
            return
        content: dict[str, Any] = {
            "time": self._now.time,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "rank": self.rank,
        }
        content |= {"doing": self._now.doing, **self._beat}
        text, path = json.dumps(content).encode(), self.heartbeat
        self.folder.records.keep("cannot write", path, lambda: replace_or_overwrite(path, text, _replace_unsynced))

    def _tell_sentry(self, seconds: float) -> None:
        """How long this thread may be silent from now on."""
        if self._sentry is not None and self._sentry.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it was killed, or is behind
                os.write(self._sentry.stdin.fileno(), f"{max(0.0, seconds) + _HELD:.1f}\n".encode())

    def _where(self, state: _Now) -> str:
        return (
            f"rank {self.rank} on {socket.gethostname()}, after step {self._beat['step'] or 0}, during: {state.doing}"
        )

    def _leave_stalled(self, state: _Now, now: float) -> None:
        reason = f"no step for {now - self._after(state.since, state):.0f} s ({self._where(state)})"
        self._leave(reason, StallError.exit_code, "failed", "; guard.stall_seconds is the time that a step may take")

    def _leave_superseded(self) -> None:
        """At once: whatever this process still writes lies in the folder of another start."""
        with contextlib.suppress(OSError):
            text = ownership.SUPERSEDED.format(path=self.folder.path)
            os.write(2, f"foundation: rank {self.rank}: {text}\n".encode())
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(RequeueRequest.exit_code)

    def _leave(self, reason: str, code: int, state: str, advice: str = "") -> None:
        """Write down where everything stands, and end the process."""
        self._tell_sentry(3 * _LAST_WORDS)
        report = f"{self._prefix}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        text = (
            f"foundation: {reason}: the stacks of all threads and workers are in {report} and beside it; exit code "
            f"{code}. The same command goes on from the last checkpoint{advice}\n"
        )
        for last_words in (lambda: self._describe(report, reason), lambda: self._announce(text, reason, state)):
            thread = threading.Thread(target=last_words, name="last words", daemon=True)
            thread.start()
            thread.join(_LAST_WORDS)
        os._exit(code)

    def _announce(self, text: str, reason: str, state: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # not through sys.stderr, whose lock the main thread may hold
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)  # they are deaf to everything else, and nobody is left to end them
        if self.rank == 0:
            self.folder.write_status(state, step=self._beat["step"] or 0, reason=reason)

    def _describe(self, report: str, reason: str) -> None:
        try:
            with open(report, "w") as file:
                file.write(f"{reason}\n{time.ctime()}, process {os.getpid()}, workers {list(self._pids())}\n\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)
        except OSError as error:
            os.write(2, f"foundation: cannot write {report}: {error}\n".encode())
            faulthandler.dump_traceback(file=2, all_threads=True)
        for path in stacks.ask_workers(str(self._prefix), self._pids())[1]:
            os.write(2, f"foundation: the worker of {path} does not answer\n".encode())

    def _pids(self) -> Sequence[int]:
        try:
            return tuple(self.workers())
        except Exception:
            traceback.print_exc()
            return ()


def _replace_unsynced(path: Path, content: bytes) -> None:
    """Nothing of a heartbeat must survive a power cut, and a sync every second would wear on shared storage."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
