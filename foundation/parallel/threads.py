"""Processors and who may use them."""

from __future__ import annotations

import os

import torch


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Loader processes when nobody says how many: the processors less one, at most 16."""
    return max(0, min(processors() - 1, 16))


def share_processors(workers: int) -> None:
    """Give torch the processors that the loader's workers leave.

    Threads of one operator wait for each other: where one of them shares its processor with a worker, all of them lose
    its time. On two processors with one worker, one thread was as fast as two alone and four times as fast beside
    another program. ``OMP_NUM_THREADS``, where it is set, is the user's word and stays.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, processors() - workers))
