"""What killed loader workers leave in shared memory, and what must stay."""

from __future__ import annotations

import multiprocessing
import os

from foundation.parallel.shared_memory import free_shared_memory


def test_only_what_a_dead_process_left_is_removed(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    dead, living = process.pid, os.getpid()
    for name in (f"torch_{dead}_1_0", f"torch_{dead}1_1_0", f"torch_{living}_1_0", f"sem.{dead}"):
        (tmp_path / name).write_bytes(b"0" * 8)
    assert not free_shared_memory(living, tmp_path)
    assert free_shared_memory(dead, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"torch_{dead}1_1_0", f"torch_{living}_1_0", f"sem.{dead}"}
    assert free_shared_memory(dead, tmp_path / "none")
