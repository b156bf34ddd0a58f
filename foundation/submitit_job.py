"""A run as a submitit job: it saves when the scheduler asks, is queued again, and goes on where it was.

submitit's own handler would call ``checkpoint`` inside the signal, in process 0 only, in the middle of whatever the
process is doing. Here the signal only sets a flag (:mod:`foundation.run.interrupt`); all processes save the same
step at its boundary and leave. On a SLURM cluster the last line of the batch script then decides about queueing the job
again (:mod:`foundation.cluster.settle`); on one machine submitit's handler is called, whose remaining work is that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from foundation.cluster import records
from foundation.cluster.queue_comment import QueueComment
from foundation.cluster.settle import start_of
from foundation.errors import FoundationError, JoinError, RequeueRequest, StopRequest
from foundation.parallel.launch import job_port
from foundation.parallel.threads import processors

_AGAIN = RequeueRequest.exit_code


class Job:
    """``foundation`` with some words, for ``submitit.Executor.submit``.

    What is pickled is the command line only: state lives in the run folder, so that a job that is queued again after a
    node failure resumes from its newest checkpoint, not from what was known when it was submitted.

    Args:
        words: of the command line, such as ``["pretrain", "my.yaml", "--run", "runs/my"]``.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def __call__(self) -> int:
        """Run in this process.

        Returns:
            0; on a SLURM cluster 75 as well, for a run that was asked to stop: srun would end the other processes
            of the job, which still write, if one left with another exit code than 0.

        Raises:
            SystemExit: with the exit code of the command, where it is neither of these.
        """
        import submitit

        from foundation.search_path import leave_working_directory

        leave_working_directory()
        environment = submitit.JobEnvironment()
        _tell_ranks(environment)
        requeue: Any = signal.getsignal(environment._usr_sig())
        on_slurm = environment.cluster == "slurm"
        ends = _Ends(environment, on_slurm)
        if environment.global_rank == 0:
            ends.begin()
        with ExitStack() as stack:
            run = _option(self.words, "--run")
            if on_slurm and environment.global_rank == 0 and run is not None:
                stack.enter_context(QueueComment(environment.job_id, Path(run)))
            code = ends.run(self.words)
        if code == 0 or (on_slurm and ends.signal is not None):
            return code
        stopped = ends.signal in ("SIGTERM", "SIGINT")  # `foundation jobs stop`
        if not on_slurm and code == _AGAIN and not stopped and environment.global_rank == 0 and callable(requeue):
            requeue(environment._usr_sig(), None)
        sys.exit(code)

    def checkpoint(self) -> Any:
        """What submitit queues again: the same command."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Ends:
    """Runs the command and keeps how this process ended, also where it ends before or after training.

    Attributes:
        signal: that this process, or another one of the run, was asked to stop by; None where none was.
    """

    def __init__(self, environment: Any, on_slurm: bool) -> None:
        self.signal: str | None = None
        self._folder, self._job = Path(os.environ["SUBMITIT_FOLDER"]), str(environment.job_id)
        self._rank = int(environment.global_rank)
        self._on_slurm, self._start = on_slurm, start_of(os.environ) if on_slurm else 0
        if on_slurm:  # outside of training, whose own handlers save first, there is nothing to save
            signal.signal(signal.SIGUSR2, self._leave)
            signal.signal(signal.SIGTERM, self._leave)

    def begin(self) -> None:
        """Count this start. A local job keeps its number when it is started again, and nobody else counts."""
        try:
            records.write_starts(self._folder, self._job, self._start + 1 if self._on_slurm else None)
        except OSError as failure:
            _unwritten(f"how often this job was started cannot be written: {failure}")

    def run(self, words: Sequence[str]) -> int:
        """The exit code of the command."""
        from foundation.cli import main

        error: list[FoundationError] = []
        try:
            code = main(words, error.append)
        except BaseException as unforeseen:
            self._keep(1, f"{type(unforeseen).__name__}: {unforeseen}")
            raise
        if error and isinstance(error[0], StopRequest):
            self.signal = error[0].signal or "another process"
        lost = bool(error) and isinstance(error[0], JoinError)  # at another start, with another port, it may reach them
        self._keep(_AGAIN if lost else code, str(error[0]) if error else None)
        return code

    def _leave(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._keep(_AGAIN, f"asked to stop by {self.signal} outside of training")
        os._exit(0)

    def _keep(self, code: int, error: str | None) -> None:
        end: records.RankEnd = {
            "rank": self._rank,
            "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "time": time.time(),
            "code": code,
            "signal": self.signal,
            "error": error,
        }
        try:
            records.write_rank_end(self._folder, self._job, self._start, end)
        except OSError as failure:
            _unwritten(f"how this process ended cannot be written: {failure}")


def _unwritten(text: str) -> None:
    print(f"foundation: {text}", file=sys.stderr, flush=True)


def _option(words: Sequence[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def _tell_ranks(environment: Any) -> None:
    """The variables that :mod:`foundation.parallel.process_group` reads, from those of submitit."""
    on_this_node = max(1, environment.num_tasks // max(1, environment.num_nodes))
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    if cores or on_this_node > 1:
        os.environ.setdefault("OMP_NUM_THREADS", cores or str(max(1, processors() // on_this_node)))
    if environment.num_tasks < 2:
        return
    os.environ["RANK"] = str(environment.global_rank)
    os.environ["WORLD_SIZE"] = str(environment.num_tasks)
    os.environ["LOCAL_RANK"] = str(environment.local_rank)
    os.environ["LOCAL_WORLD_SIZE"] = str(on_this_node)
    os.environ.setdefault("MASTER_ADDR", _first_host(environment.hostnames[0]))
    if environment.cluster == "slurm":  # another one at each start: what is left of the last one may still hold it
        number = int(os.environ["SLURM_JOB_ID"]) + start_of(os.environ)
        os.environ.setdefault("MASTER_PORT", str(job_port(str(number))))
    else:
        os.environ.setdefault("MASTER_PORT", str(job_port(environment.job_id)))


def _first_host(name: str) -> str:
    """The first host of the job, by its name where it resolves, else by the address from which srun has started it."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or name
    return name
