"""Arithmetic without denormal numbers, which processors compute up to a hundred times slower than others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def flushes() -> bool:
    """Whether this thread takes numbers below the smallest normal one (1.2e-38 in float32) for 0."""
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    return bool(smallest / 2 == 0)


@contextmanager
def flushed() -> Iterator[None]:
    """Take denormal numbers for 0 inside, and go back to what was before.

    Probabilities of a confident head fall below 1e-38; added to weights of ordinary size they change no bit of them.
    """
    before = flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
