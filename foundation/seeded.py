"""Random numbers for building a part, without leaving a trace in those of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's generator on the CPU draw from a seed, and put it back; those of GPUs are not touched.

    ``torch.manual_seed`` would seed the generators of all GPUs as well, which ``fork_rng(devices=[])`` does not put
    back.
    """
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(before)
