"""Joining the processes of a run: torchrun, plain environment variables, or ``foundation pretrain --processes``.

Each process finds its place in ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``. CPU
tensors travel by gloo and GPU tensors by NCCL, so that a flag of the host never waits for the device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from foundation.errors import JoinError, PeerError, UserError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def ranks_from_environment(environment: Mapping[str, str] | None = None) -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine.

    Returns:
        ``(0, 1, 0)`` when no variable is set: a run of one process needs none.

    Raises:
        UserError: some variables are set and others are missing or make no sense.
    """
    found = os.environ if environment is None else environment
    if "WORLD_SIZE" not in found and "RANK" not in found:
        return 0, 1, 0
    missing = [name for name in VARIABLES if not found.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(name for name in VARIABLES if name not in missing)} set, but {', '.join(missing)} missing: "
            f"a run of several processes needs {', '.join(VARIABLES)} in each (torchrun sets them)"
        )
    try:
        rank, size, local = (int(found.get(name, found["RANK"])) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from error
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank} and WORLD_SIZE {size}: ranks count from 0 to WORLD_SIZE - 1")
    return rank, size, local


@contextmanager
def process_group(device: str, timeout_seconds: float = 7200.0) -> Iterator[None]:
    """Joins the other processes of the run for the length of a ``with`` block; does nothing for a single process.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, as the recipe says: whether NCCL is needed.
        timeout_seconds: a process that waits for another one for so long gives up.

    Raises:
        UserError: wrong variables.
        JoinError: the address cannot be used.
        PeerError: another process ended or fell silent.
    """
    rank, size, local = ranks_from_environment()
    if size == 1:
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout_seconds))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise JoinError(f"process {rank} of {size} could not join the others at {where}: {error}") from error
    try:
        yield
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        said = re.sub(r"^\[\S+:\d+\] ", "", str(error).splitlines()[0])  # gloo begins with a place in its source
        said = said.partition(". This is")[0][:200]  # and ends with guesses
        raise PeerError(
            f"process {rank} of {size} lost another process of the run ({said}). What it "
            "said stands in its own output. The same command goes on from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because a process is gone; gloo has no error type for it, NCCL has."""
    text = str(error)
    return isinstance(error, dist.DistBackendError) or any(
        sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset by peer")
    )
