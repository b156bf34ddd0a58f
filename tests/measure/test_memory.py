"""Memory of a process, by real ones."""

from __future__ import annotations

import subprocess
import sys

import torch

from foundation.measure.memory import allocated, peak_of_process


def test_a_program_counts_its_own_memory_and_not_that_of_who_started_it():
    held = bytearray(300 << 20)
    assert peak_of_process() > len(held)
    program = """
from foundation.measure.memory import peak_of_process
before = peak_of_process()
held = bytearray(100 << 20)
print(before, peak_of_process() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, grown = map(int, done.stdout.split())
    assert before < len(held) and (90 << 20) < grown < (110 << 20)


def test_tensors_that_live_at_once_are_added_up():
    def work() -> None:
        one = torch.ones(1 << 20)
        del one
        two, three = torch.ones(1 << 20), torch.ones(1 << 19)
        del two, three

    assert allocated(work) == (4 << 20) + (2 << 20)
