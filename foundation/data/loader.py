"""The machine under the stream: who makes the batches, and what happens when a worker fails."""

from __future__ import annotations

import atexit
import copy
import ctypes
import errno
import functools
import multiprocessing
import multiprocessing.queues
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import Any, TypedDict

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from foundation import lifeline, stacks
from foundation.allocator import give_freed_memory_back
from foundation.data.pipeline import Plan
from foundation.data.plans import PlannedBatches, Plans
from foundation.errors import FoundationError, UserError
from foundation.parallel.shared_memory import free_shared_memory

_POLL_SECONDS = 2  # how often a wait for a batch looks whether the workers are alive
_ASKED_SECONDS = 5.0  # after a signal, a batch that does not come within so long is not waited for
_SHARED_MEMORY = "/dev/shm"
_IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # USR1 only where nobody wants stacks


class LoaderError(FoundationError):
    """A loader worker died or gave nothing for too long."""


class WaitEndedError(FoundationError):
    """The run was asked to stop while it waited for a batch."""


class Loader:
    """Iterates over ready batches; each iteration begins at the same place.

    Use :meth:`close` (or ``with``) to end the workers.

    Args:
        dataset: makes a batch of a plan.
        plans: what to make.
        dataloader: hands the plans to workers.
        timeout: seconds to wait for a batch; 0 for no end.
        interrupted: whether the run was asked to stop; a wait then ends within seconds by :class:`WaitEndedError`.
    """

    def __init__(
        self,
        dataset: PlannedBatches,
        plans: Plans,
        dataloader: DataLoader[Any],
        timeout: float = 0.0,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._interrupted = interrupted
        self._dataset, self._plans, self.dataloader, self._timeout = dataset, plans, dataloader, timeout
        self._iterator: Any = None
        _LOADERS.add(self)

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[Any]:
        try:
            self._iterator = iterator = _quiet_iterator(self.dataloader)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise LoaderError(f"no worker could be started ({error}); {_shared_memory_advice()}") from error
        for plan in self._plans:
            yield self._next(iterator, plan)

    def _next(self, iterator: Iterator[Any], plan: Plan) -> Any:
        waited = asked = 0.0
        while True:
            begin = time.monotonic()
            try:
                batch = next(iterator)
            except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
                # A process that was stopped meanwhile (SIGSTOP) has not waited: no look takes much longer than asked.
                looked = min(time.monotonic() - begin, 2.0 * _POLL_SECONDS)
                waited += looked
                if "timed out" in str(error):
                    asked += looked if self._interrupted() else 0.0
                    if asked >= _ASKED_SECONDS:
                        self.close(at_once=True)
                        raise WaitEndedError(self._words(f"no batch for {waited:.0f} seconds", plan)) from error
                    if not self._timeout or waited < self._timeout:
                        continue
                    problem = f"no batch for {waited:.0f} seconds"
                    advice = "for slow storage, raise data.timeout_seconds"
                    answers, _ = stacks.ask_workers(os.environ.get(stacks.PREFIX_VARIABLE, ""), self.worker_pids())
                    advice += f"; where the workers stood: {', '.join(answers[:3])}" if answers else ""
                elif "Bus error" in str(error):
                    problem, advice = "a worker found no room in shared memory", _shared_memory_advice()
                elif "exited unexpectedly" in str(error) or not isinstance(error, RuntimeError):
                    # A worker that dies while its batch is being fetched breaks the connection instead.
                    told = isinstance(error, RuntimeError)
                    problem = str(error) if told else "a worker ended while its batch was being fetched"
                    advice = "a worker that is killed mostly means that memory ran out: lower data.workers"
                else:
                    raise
                self.close(at_once=True)
                raise LoaderError(
                    f"{self._words(problem, plan)}; {advice}. The same command goes on from the last checkpoint"
                ) from error
            if isinstance(batch, FoundationError):
                self.close(at_once=True)
                raise batch
            return batch

    def _words(self, problem: str, plan: Plan) -> str:
        shards = ", ".join(self._dataset.shards_of(plan)[:3])
        return f"{problem}. The batch at sample {plan.start + plan.offset:,} of the stream reads {shards}"

    def worker_pids(self) -> tuple[int, ...]:
        """Process numbers of the workers that are running."""
        workers = getattr(self._iterator, "_workers", ())
        return tuple(worker.pid for worker in workers if worker.pid is not None)

    def close(self, at_once: bool = False) -> None:
        """End the workers.

        Args:
            at_once: kill them; else they get some seconds to end by themselves. They ignore polite signals.
        """
        iterator, self._iterator = self._iterator, None
        if not hasattr(iterator, "_shutdown_workers"):
            return
        self.dataloader._iterator = None
        if not at_once:
            iterator._shutdown_workers()
        # Where torch's handler is in place, it takes a worker's death for an accident until told to forget the worker.
        if iterator._worker_pids_set:
            signal_handling._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        for worker in iterator._workers:
            if worker.is_alive():
                worker.kill()
        for worker in iterator._workers:
            worker.join(timeout=5)
            free_shared_memory(worker.pid)
        iterator._shutdown_workers()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_LOADERS: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A stuck worker that ignores SIGTERM would keep its parent from ending."""
    for loader in list(_LOADERS):
        loader.close(at_once=True)


def _quiet_iterator(dataloader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers, without torch's handler that raises wherever the program is when one of them dies.

    A death is noticed at the next batch instead, where it can be told what was being read.
    """
    if not dataloader.num_workers or threading.current_thread() is not threading.main_thread():
        return iter(dataloader)
    # Only here: the system ties the signal to the thread that starts a process, and this one lives to the end.
    dataloader.worker_init_fn = functools.partial(_start_worker, os.getpid())
    previous = signal.getsignal(signal.SIGCHLD)
    iterator = iter(dataloader)
    signal.signal(signal.SIGCHLD, previous)
    return iterator


def _start_worker(parent: int, _: int) -> None:
    """One thread each, and deaf to signals: the trainer saves and ends the run, workers must not die under it.

    Args:
        parent: process that the worker is to end with; 0: torch looks whether it lives, every few seconds.
    """
    if parent:
        lifeline.signal_at_parents_death(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    torch.set_num_threads(1)
    give_freed_memory_back()
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    stacks.answer_signal()


def _unchanged(batch: Any) -> Any:
    return batch


class _Flag:
    """An event whose state is one byte: nobody waits for a worker that was killed while it held the event's lock."""

    def __init__(self, context: BaseContext) -> None:
        self._value = context.RawValue(ctypes.c_bool, False)

    def is_set(self) -> bool:
        return bool(self._value.value)

    def set(self) -> None:
        self._value.value = True


def _context(workers: int, wanted: str | None) -> BaseContext | None:
    if not workers:
        return None
    # A forked child must not inherit an initialised accelerator; without one, fork starts at once and shares memory.
    can_fork = "fork" in multiprocessing.get_all_start_methods() and multiprocessing.get_start_method(True) != "spawn"
    context = copy.copy(
        multiprocessing.get_context(wanted or ("fork" if can_fork and not torch.cuda.is_initialized() else "spawn"))
    )
    context.Event = lambda: _Flag(context)  # type: ignore[method-assign, assignment, return-value]
    context.Queue = lambda maxsize=0: _TellingQueue(maxsize, ctx=context)  # type: ignore[method-assign, assignment]
    return context


class _TellingQueue(multiprocessing.queues.Queue):  # type: ignore[type-arg]
    """A queue that hands over what went wrong where a batch cannot be handed over: nobody waits for it in vain."""

    def _on_queue_feeder_error(self, error: Exception, item: Any) -> None:
        if isinstance(item, tuple) and len(item) == 2 and not isinstance(item[1], FoundationError):
            full = "shared memory" in str(error) or "</torch_" in str(error)
            advice = f"; {_shared_memory_advice()}" if full else ""
            text = f"a batch could not be handed over by its worker ({str(error).splitlines()[0]}){advice}"
            self.put((item[0], LoaderError(f"{text}. The same command goes on from the last checkpoint")))
        else:
            super()._on_queue_feeder_error(error, item)  # type: ignore[misc]


def _shared_memory_advice() -> str:
    try:
        room = shutil.disk_usage(_SHARED_MEMORY)
        facts = f"{_SHARED_MEMORY} has {room.free:,} of {room.total:,} bytes free"
    except OSError:
        facts = "shared memory"
    return (
        f"{facts}: batches of workers pass through it. Give it more room (docker run --shm-size=8g, --ipc=host), free "
        "what others hold there, or set data.workers=0 or fewer"
    )


class Settings(TypedDict, total=False):
    """How batches are made, whatever is in them.

    Attributes:
        workers: processes; 0 (the default) makes batches in this one.
        pin_memory: hand over page-locked memory, for a GPU.
        prefetch: batches that each worker keeps ready; default 2.
        timeout: seconds without a batch after which the run ends with an error; 0 (the default) for never.
        interrupted: whether the run was asked to stop: a wait for a batch then ends within seconds.
        context: how workers start (``fork``, ``spawn``, ``forkserver``); None: fork unless a GPU is in use.
    """

    workers: int
    pin_memory: bool
    prefetch: int
    timeout: float
    interrupted: Callable[[], bool]
    context: str | None


def make_loader(dataset: PlannedBatches, plans: Plans, settings: Settings) -> Loader:
    """Put the parts together.

    Raises:
        UserError: a number of workers below 0.
    """
    workers = settings.get("workers", 0)
    if workers < 0:
        raise UserError(f"workers must be 0 or more, got {workers}")
    dataloader = DataLoader(
        dataset,
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=settings.get("pin_memory", False),
        timeout=_POLL_SECONDS if workers else 0,
        worker_init_fn=functools.partial(_start_worker, 0),
        multiprocessing_context=_context(workers, settings.get("context")),
        generator=torch.Generator(),  # a loader without its own draws from the global generator, and so moves the run
        prefetch_factor=settings.get("prefetch", 2) if workers else None,
        persistent_workers=workers > 0,
    )
    interrupted = settings.get("interrupted", lambda: False)
    return Loader(dataset, plans, dataloader, settings.get("timeout", 0.0), interrupted)
