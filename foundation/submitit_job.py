"""A run as a submitit job: it saves when the scheduler asks, is queued again, and goes on where it was.

submitit's own handler would call ``checkpoint`` inside the signal, in process 0 only, in the middle of whatever the
process is doing. Here the signal only sets a flag (:mod:`foundation.run.interrupt`); all processes save the same
step at its boundary, and only then is submitit's handler called, whose remaining work is to queue the job again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from foundation.errors import RequeueRequest
from foundation.parallel.launch import job_port


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
            0.

        Raises:
            SystemExit: with the exit code of the command, where it is neither 0 nor 75.
        """
        import submitit

        from foundation.cli import main
        from foundation.search_path import leave_working_directory

        leave_working_directory()
        environment = submitit.JobEnvironment()
        _tell_ranks(environment)
        requeue: Any = signal.getsignal(environment._usr_sig())
        code = main(self.words)
        if code == 0:
            return 0
        if code == RequeueRequest.exit_code and environment.global_rank == 0 and callable(requeue):
            requeue(environment._usr_sig(), None)
        sys.exit(code)

    def checkpoint(self) -> Any:
        """What submitit queues again: the same command."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _tell_ranks(environment: Any) -> None:
    """The variables that :mod:`foundation.parallel.process_group` reads, from those of submitit."""
    if environment.num_tasks < 2:
        return
    os.environ["RANK"] = str(environment.global_rank)
    os.environ["WORLD_SIZE"] = str(environment.num_tasks)
    os.environ["LOCAL_RANK"] = str(environment.local_rank)
    os.environ.setdefault("MASTER_ADDR", environment.hostnames[0])
    os.environ.setdefault("MASTER_PORT", str(job_port(environment.job_id)))
