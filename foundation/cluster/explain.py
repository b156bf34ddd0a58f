"""What the words of sbatch, srun, torch and the system mean, and what to do: one table, shown where a job fails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foundation.voice import plural


@dataclass(frozen=True)
class Cause:
    """One thing that goes wrong.

    Attributes:
        sign: pattern in what was said.
        what: the cause.
        advice: what to do.
    """

    sign: re.Pattern[str]
    what: str
    advice: str


PORT_TAKEN = r"address already in use|EADDRINUSE"
"""What a process says that could not open the port at which the others were to meet it."""


def _cause(sign: str, what: str, advice: str) -> Cause:
    return Cause(re.compile(sign, re.IGNORECASE), what, advice)


OF_SUBMISSION = (
    _cause(
        r"invalid partition|partition .*(not|un)available|user's group not permitted to use this partition",
        "the cluster has no such partition, or you may not use it",
        "`sinfo -s` lists those there are: --partition NAME",
    ),
    _cause(
        r"invalid account|account/partition combination|invalid accounting",
        "the account is wrong, or may not use that partition",
        "`sacctmgr show associations user=$USER` lists yours: --account NAME",
    ),
    _cause(
        r"invalid qos|qos.*(permission|limit)|job violates accounting/qos policy",
        "the quality of service is wrong, or its limits are reached",
        "`sacctmgr show qos` lists those there are: --qos NAME, or none; or wait until your other jobs are done",
    ),
    _cause(
        r"time limit is invalid|requested time limit",
        "the partition does not allow so long a job",
        "`sinfo -o '%P %l'` lists the limits: a shorter --time is enough, because a run that reaches it goes on",
    ),
    _cause(
        r"invalid feature",
        "no node has the features of --constraint",
        "`sinfo -o '%N %f'` lists what the nodes have",
    ),
    _cause(
        r"memory specification can ?not be satisfied",
        "no node has so much memory",
        "`sinfo -o '%P %m'` lists it in MB: a smaller --mem",
    ),
    _cause(
        r"node count specification invalid|more processors|configuration is not available|invalid generic resource"
        r"|invalid gres",
        "no part of the cluster has such nodes, so many of them, or so many cores or GPUs in each",
        "`sinfo -o '%P %D %c %m %G'` lists nodes, cores, MB, GPUs: change --nodes, --gpus-per-node, --cpus-per-task",
    ),
    _cause(
        r"unable to contact slurm controller|connection refused|connect failure|configuration source",
        "the controller of SLURM does not answer",
        "`scontrol ping` says more; nothing was submitted, so that the same command may be given again",
    ),
    _cause(
        r"unrecognized option|invalid option",
        "this version of sbatch does not know an option",
        "look at `sbatch` in the profile, at --sbatch, and at `sbatch --help`",
    ),
)
"""What sbatch refuses."""

OF_RUN = (
    _cause(
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU's memory was not enough",
        "a smaller micro-batch: {accumulate}",
    ),
    _cause(
        r"oom[-_ ]?kill|out of memory|OUT_OF_ME|Cannot allocate memory|DefaultCPUAllocator",
        "the memory of the node, or what the job may use of it, was not enough",
        "more of it (--mem), fewer loader workers (data.workers), or on processors a smaller micro-batch: {accumulate}",
    ),
    _cause(
        r"NCCL.*(timeout|timed out)|Watchdog caught collective operation|ran for \d+ milliseconds before timing out",
        "a process waited for the others for too long: one of them hangs, or the network between the nodes is down",
        "look at the process that is named as behind or silent, exclude its node (--exclude NODE), or set "
        "NCCL_SOCKET_IFNAME to the network interface that connects the nodes (--setup 'export NCCL_SOCKET_IFNAME=ib0')",
    ),
    _cause(
        PORT_TAKEN,
        "the port at which the processes meet is taken on the first node",
        "it differs from job to job: launch again, or choose one (--setup 'export MASTER_PORT=29777')",
    ),
    _cause(
        r"could not join the others|Name or service not known|Temporary failure in name resolution|Connection refused",
        "a process could not reach the first node",
        "does its name resolve on the others? (--setup 'export MASTER_ADDR=...' names another address)",
    ),
    _cause(
        r"CUDA error|uncorrectable ECC|device-side assert|Xid|unspecified launch failure|CUDA_ERROR",
        "a GPU failed, or a kernel went wrong on it",
        "if it happens on one node only, exclude it (--exclude NODE); else `--setup 'export CUDA_LAUNCH_BLOCKING=1'` "
        "shows where",
    ),
    _cause(
        r"No space left on device|Disk quota exceeded",
        "the disk, or what you may use of it, is full",
        "make room; the same run goes on from its newest checkpoint",
    ),
    _cause(
        r"Bus error|SIGBUS|/dev/shm",
        "the shared memory of the node (/dev/shm), through which loader workers hand over batches, was not enough",
        "fewer workers (data.workers), or more of it where the job runs in a container",
    ),
    _cause(
        r"No module named 'foundation'|No such file or directory.*\.pkl|command not found",
        "the node does not see the environment or the run folder",
        "both must lie on a file system that all nodes share; --setup 'source .../bin/activate' runs before the run",
    ),
)
"""What ends a run."""


def of_submission(said: str) -> str:
    """Sbatch's own words, the cause and what to do."""
    words = sbatch_words(said)
    cause = _first(OF_SUBMISSION, words)
    return f"sbatch refused the job: {words}" + (f". {_sentence(cause.what)}: {cause.advice}" if cause else "")


def sbatch_words(said: str) -> str:
    """What sbatch said, in one line, without the traceback around it."""
    lines = [
        re.sub(r"^.*?sbatch: (error|fatal): ", "", line).strip() for line in said.splitlines() if "sbatch:" in line
    ]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or " ".join(said.split())[:500]


def of_run(said: str, recipe: Mapping[str, Any] | None, world_size: int) -> str | None:
    """The cause of what a run or srun said, and what to do; None for what is in no line of the table.

    Args:
        said: error, or end of the output.
        recipe: plain, where it is known: for a micro-batch that fits it.
        world_size: processes of the run.
    """
    cause = _first(OF_RUN, said)
    if cause is None:
        return None
    return f"{cause.what}. What to do: {cause.advice.format(accumulate=smaller_micro_batch(recipe, world_size))}"


def smaller_micro_batch(recipe: Mapping[str, Any] | None, world_size: int) -> str:
    """The next ``train.accumulate`` that divides the batch, with what it gives; words where there is none."""
    train = (recipe or {}).get("train")
    size, now = (train.get("batch_size"), train.get("accumulate", 1)) if isinstance(train, dict) else (None, 1)
    if not isinstance(size, int) or not isinstance(now, int) or size % world_size:
        return "raise train.accumulate (it keeps the batch and what is learnt)"
    rows = size // world_size
    larger = next((count for count in range(now + 1, rows + 1) if rows % count == 0), None)
    if larger is None:
        here = plural(rows // now, "sample")
        return f"each process has {here} at a time already: more processes, smaller views or a smaller encoder"
    return f"train.accumulate={larger} ({rows // larger} instead of {rows // now} samples at a time in each process)"


def _first(causes: tuple[Cause, ...], said: str) -> Cause | None:
    return next((cause for cause in causes if cause.sign.search(said)), None)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
