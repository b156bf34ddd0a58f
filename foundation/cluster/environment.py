"""The environment of a job: what must not reach it from another job, and what is kept to know it by later."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
_PREFIXES = ("SLURM_", "SLURMD_", "SUBMITIT_", "PMI_", "PMIX_", "TORCHELASTIC_")
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_CAPTURED = (
    "CONDA_DEFAULT_ENV",
    "VIRTUAL_ENV",
    "LOADEDMODULES",
    "CUDA_HOME",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
)
_CAPTURED_PREFIXES = ("NCCL_", "TORCH_", "FOUNDATION_")


def stale(environment: Mapping[str, str]) -> list[str]:
    """Variables that belong to the job, or the process of a run, in which a command is given: the job that it submits
    would take them for its own (``SLURM_CPUS_PER_TASK``, ``RANK``)."""
    return sorted(name for name in environment if name not in _KEPT and (name.startswith(_PREFIXES) or name in _RANKS))


@contextmanager
def without_stale_variables() -> Iterator[list[str]]:
    """For the length of a ``with`` block this process has none of them; gives their names."""
    names = stale(os.environ)
    before = {name: os.environ.pop(name) for name in names}
    try:
        yield names
    finally:
        os.environ.update(before)


def captured() -> dict[str, str]:
    """Python, the machine, the version of each installed package, and the variables that change what a run does."""
    found = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": platform.node(),
    }
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[f"package {name}"] = distribution.version
    for name, value in os.environ.items():
        if name in _CAPTURED or name.startswith(_CAPTURED_PREFIXES):
            found[f"variable {name}"] = value
    return dict(sorted(found.items()))
