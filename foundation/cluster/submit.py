"""Submission by submitit: the executor of a job, the text that sbatch is given, and the queue's number of the job."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foundation.cluster.environment import without_stale_variables
from foundation.cluster.explain import of_submission
from foundation.cluster.options import Options, minutes, require_plain
from foundation.cluster.slurm import NoSlurmError
from foundation.errors import UserError
from foundation.printable import printable

JobCall = Callable[[], int]
"""What runs in each process of a job; it is pickled, so that it holds no more than the words of a command."""

_YEARS = 10 * 365 * 24 * 60  # minutes: a local job without a limit; submitit would end it after two
_SETTLE = "foundation.cluster.settle"
_MOST_STARTS = 1_000_000


def executor(folder: Path, options: Options, name: str, code: Path | None) -> Any:
    """Submitit's executor for a job.

    Args:
        folder: of the launch.
        options: what the job asks for.
        name: of the job in the queue.
        code: folder in front of Python's path; None: the installed package.

    Raises:
        UserError: submitit is not installed, or a path or name cannot stand in a batch script.
    """
    submitit = require_submitit()
    require_path(folder)
    if options.on == "local":
        local = submitit.LocalExecutor(folder, max_num_timeout=_MOST_STARTS)
        local.update_parameters(
            tasks_per_node=options.tasks,
            gpus_per_node=options.gpus_per_node,
            timeout_min=_YEARS if options.time is None else minutes(options.time),
            signal_delay_s=options.signal_seconds,
            stderr_to_stdout=True,
        )
        return local

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc, name-defined]
        @classmethod
        def affinity(cls) -> int:  # submitit's own looks for srun
            return 2

    for text, what in ((name, "name of the job"), (os.getcwd(), "working directory"), (sys.executable, "Python")):
        require_plain(text, what, "choose another one")
    slurm = Executor(folder, max_num_timeout=_MOST_STARTS)
    given = {
        "partition": options.partition, "account": options.account, "qos": options.qos, "mem": options.mem,
        "constraint": options.constraint, "exclude": options.exclude, "cpus_per_task": options.cpus_per_task,
        "gpus_per_node": options.gpus_per_node or None,
    }  # fmt: skip
    slurm.update_parameters(
        job_name=name,
        nodes=options.nodes,
        ntasks_per_node=options.tasks,
        time=None if options.time is None else minutes(options.time),
        signal_delay_s=options.signal_seconds,
        stderr_to_stdout=True,
        array_parallelism=options.array_parallelism,
        wckey=None,
        setup=[*options.setup, *_path_lines(code), "trap : TERM  # what is done at the end is done by the last line"],
        teardown=[f"{shlex.quote(sys.executable)} -m {_SETTLE} $? {shlex.quote(str(folder))}"],
        srun_args=_srun_arguments(options),
        additional_parameters={"requeue": True, "chdir": os.getcwd()} | options.sbatch,
        **{key: value for key, value in given.items() if value is not None},
    )
    return slurm


def require_path(folder: Path) -> None:
    r"""Refuse a run folder whose path a batch script, SLURM or submitit would read as something else.

    Raises:
        UserError: it has a control character; or ``%`` or ``\\``, by which ``--output`` names number and rank.
    """
    require_plain(str(folder), "run folder", "choose another --run")
    for sign in "%\\":
        if sign in str(folder):
            raise UserError(
                f"run folder: {printable(folder)} has a {sign}, which SLURM reads as part of a pattern: choose "
                "another --run"
            )


def _srun_arguments(options: Options) -> list[str]:
    """Srun ends all when one has failed, and does not know by itself how many cores a process may use (since 22.05)."""
    cores = [] if options.cpus_per_task is None else [f"--cpus-per-task={options.cpus_per_task}"]
    return ["--kill-on-bad-exit=1", *cores]


def _path_lines(code: Path | None) -> list[str]:
    """The working directory is on nobody's path, and the copied code stands first."""
    lines = ["export PYTHONSAFEPATH=1"]
    if code is not None:
        lines.append(f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    return lines


def text(executor: Any, jobs: int) -> str:
    """What sbatch would be given for so many jobs, as submitit writes it."""
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def submit(executor: Any, calls: Sequence[JobCall]) -> list[str]:
    """Hand the jobs over, several as one array.

    Returns:
        The number of each: ``12``, or ``12_0``, ``12_1`` ...

    Raises:
        UserError: it was refused, with sbatch's words and what to do.
    """
    submitit = require_submitit()
    with without_stale_variables():
        try:
            return [str(job.job_id) for job in executor.submit_array(list(calls))]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(of_submission(str(error))) from None


def submit_detached(executor: Any, calls: Sequence[JobCall], code: Path | None) -> list[str]:
    """The same for jobs on this machine, which go on when the terminal is closed and know nothing of its Ctrl-C.

    Args:
        executor: of submitit, local.
        calls: the jobs.
        code: folder in front of Python's path; None: the installed package.

    Raises:
        UserError: they could not be started.
    """
    executor.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.setsid()
            with open(os.devnull) as nothing, open(executor.folder / "controller.log", "a") as log:
                for stream, descriptor in ((nothing, 0), (log, 1), (log, 2)):
                    os.dup2(stream.fileno(), descriptor)
            os.environ["PYTHONSAFEPATH"] = "1"
            if code is not None:
                named = os.environ.get("PYTHONPATH")
                os.environ["PYTHONPATH"] = os.pathsep.join([str(code), *([named] if named else [])])
            os.write(writer, " ".join(submit(executor, calls)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as answer:
        jobs = answer.read().split()
    os.waitpid(child, 0)
    if len(jobs) != len(calls):
        raise UserError(f"the run could not be started in the background: see {executor.folder / 'controller.log'}")
    return jobs


def require_slurm() -> None:
    """Whether this machine can submit jobs to a cluster.

    Raises:
        NoSlurmError: it cannot.
    """
    for name in ("sbatch", "srun"):  # submitit asks for srun
        if shutil.which(name) is None:
            raise NoSlurmError(
                f"no {name} on PATH: this machine has no SLURM. Log in to one that has, or use --on local"
            )


def require_submitit() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "launching needs submitit: pip install 'foundation-pretrain[cluster]' (the extra 'cluster')"
        ) from None
    return submitit
