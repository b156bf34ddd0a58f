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


def leave_one_processor() -> None:
    """Give torch all processors but one, which the loader's workers need.

    Threads of one operator wait for each other: where one of them shares its processor with a worker, all of them lose
    its time. On two processors one thread was as fast as two alone, and four times as fast beside another program. The
    number does not depend on how many workers there are, because sums, and so losses, depend on the number of threads.
    ``OMP_NUM_THREADS``, where it is set, is the user's word and stays.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, processors() - 1))
