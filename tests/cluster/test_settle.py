"""What is made of the ends of a job's processes, and what is done then."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foundation.cluster import endings, records
from foundation.cluster.endings import Ending
from foundation.cluster.settle import decide

FIRST, SECOND = "step-00000010", "step-00000020"


def left(folder: Path, rank: int, code: int, at: float, signal: str | None = None, error: str | None = None) -> None:
    records.write_rank_end(
        folder, "7", 1, {"rank": rank, "host": f"n{rank}", "time": at, "code": code, "signal": signal, "error": error}
    )


def of_start(folder: Path, code: int, tasks: int = 3) -> Ending:
    return endings.of_start(folder, "7", 1, folder / "run", tasks, code)


def test_the_earliest_failure_is_named_and_not_what_came_of_it(tmp_path):
    left(tmp_path, 0, 75, 10.0, error="lost another process of the run")
    left(tmp_path, 1, 1, 12.0, error="RuntimeError: later")
    left(tmp_path, 2, 1, 11.0, error="torch.OutOfMemoryError: CUDA out of memory")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("train: {batch_size: 24}\n")
    found = of_start(tmp_path, 1)
    assert found.reason.startswith("rank 2 on n2 failed first: torch.OutOfMemoryError")
    assert "train.accumulate=2 (4 instead of 8 samples" in found.reason
    assert (found.code, found.asked, found.dead) == (1, None, ())


def test_processes_without_a_word_are_named(tmp_path):
    left(tmp_path, 0, 75, 10.0, error="lost another process of the run")
    found = of_start(tmp_path, 137)
    assert found.reason.startswith("rank 1, 2 ended without a word (killed by signal 9)") and found.dead == (1, 2)
    assert found.code == 137


def test_a_port_that_is_taken_is_the_cause_of_those_that_were_ended_for_it(tmp_path):
    left(tmp_path, 0, 75, 10.0, error="process 0 of 3 could not join the others: EADDRINUSE, address already in use")
    found = of_start(tmp_path, 137)
    assert found.reason.startswith("rank 0 on n0: process 0 of 3 could not join") and found.dead == (1, 2)
    assert "the port at which the processes meet is taken" in found.reason


def test_TERM_counts_as_the_schedulers_only_where_nobody_failed_or_is_missing(tmp_path):
    for rank in range(3):
        left(tmp_path, rank, 75, 10.0 + rank, "SIGTERM", "stopped by SIGTERM")
    assert of_start(tmp_path, 0).asked == "SIGTERM"
    assert of_start(tmp_path, 0, tasks=4).asked is None, "one was killed: TERM is srun's"
    left(tmp_path, 1, 1, 9.0, error="RuntimeError: of my own")
    assert of_start(tmp_path, 1).asked is None


def test_USR2_is_the_schedulers_whoever_else_was_lost_while_saving(tmp_path):
    left(tmp_path, 0, 75, 10.0, "SIGUSR2", "stopped by SIGUSR2")
    found = of_start(tmp_path, 137)
    assert (found.asked, found.code) == ("SIGUSR2", 75)


def test_a_start_in_which_all_is_well_is_done(tmp_path):
    for rank in range(3):
        left(tmp_path, rank, 0, 10.0)
    assert of_start(tmp_path, 0) == Ending(0, None, "done", ())


def test_only_the_output_of_the_last_start_is_looked_at(tmp_path):
    log = records.log_of(tmp_path, "7", 0)
    log.write_text("Starting with JobEnvironment(a)\nNo space left on device\nStarting with JobEnvironment(b)\nfine\n")
    assert "space" not in endings.last_start(log) and "fine" in endings.last_start(log)


def beat(run, rank: int, step: int, at: float, written: float) -> None:
    path = run / "heartbeat" / f"rank{rank}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"rank": rank, "host": f"n{rank}", "step": step, "time": at}))
    os.utime(path, (written, written))


def test_a_process_that_is_behind_or_silent_is_named(tmp_path):
    beat(tmp_path, 0, 12, at=1000.0, written=1030.0)
    beat(tmp_path, 1, 12, at=1000.1, written=1030.2)
    beat(tmp_path, 2, 11, at=999.0, written=1030.4)
    assert endings.behind(tmp_path) == ["rank 2 on n2 is at step 11, others at 12"]
    beat(tmp_path, 1, 12, at=1000.1, written=730.0)
    assert endings.behind(tmp_path)[0] == "rank 1 on n1 has been silent for 300 s"


def test_a_heartbeat_that_was_written_a_moment_earlier_is_not_behind(tmp_path):
    beat(tmp_path, 0, 50, at=1000.9, written=1001.0)
    beat(tmp_path, 1, 43, at=1000.2, written=1000.3)
    assert endings.behind(tmp_path) == []
    beat(tmp_path, 1, 50, at=1000.9, written=1001.3)
    assert endings.behind(tmp_path) == []


def again(start: int, progress: str | None, asked: str | None = None) -> records.StartEnd:
    return {
        "start": start, "asked": asked, "time": 0.0, "code": 75, "decision": "again", "reason": "",
        "progress": progress,
    }  # fmt: skip


LOST = Ending(75, None, "lost another process", (1,))
ASKED = Ending(75, "SIGUSR2", "asked to stop by SIGUSR2; saved", ())


@pytest.mark.parametrize(
    ("ending", "state", "progress", "earlier", "expected"),
    [
        (Ending(0, None, "done", ()), "RUNNING", SECOND, [], "done"),
        (ASKED, "RUNNING", FIRST, [], "again"),
        (ASKED, "RUNNING", FIRST, [again(n, FIRST, "SIGUSR2") for n in range(50)], "again"),
        (ASKED, "COMPLETING", FIRST, [], "left"),  # scancel, or scontrol requeue
        (ASKED, "UNKNOWN", FIRST, [], "left"),
        (LOST, "RUNNING", FIRST, [], "again"),
        (LOST, "RUNNING", FIRST, [again(0, FIRST), again(1, FIRST)], "failed"),
        (LOST, "RUNNING", SECOND, [again(0, FIRST), again(1, FIRST)], "again"),  # it got further
        (LOST, "RUNNING", FIRST, [again(0, FIRST), again(1, FIRST, "SIGUSR2")], "again"),
        (Ending(2, None, "mistake", ()), "RUNNING", SECOND, [], "failed"),
        (Ending(4, None, "numerics", ()), "RUNNING", SECOND, [], "failed"),
        (Ending(1, None, "RuntimeError", ()), "RUNNING", "step-00000000", [], "failed"),  # in the first step
        (Ending(1, None, "RuntimeError", ()), "RUNNING", SECOND, [], "again"),
        (Ending(5, None, "stalled", (0, 1)), "RUNNING", SECOND, [], "again"),
        (Ending(137, None, "killed", (1,)), "RUNNING", "step-00000000", [], "again"),
    ],
)
def test_what_is_done_at_the_end_of_a_start(ending, state, progress, earlier, expected):
    found = decide(ending, state, len(earlier), progress, earlier, retries=2)
    assert found["decision"] == expected, found
    assert found["code"] == ending.code and found["progress"] == progress


def test_processes_that_could_not_join_are_tried_again_and_named_with_the_cause(tmp_path):
    left(tmp_path, 1, 75, 9.0, "SIGTERM", "asked to stop by SIGTERM outside of training")
    left(tmp_path, 0, 75, 10.0, error="process 0 of 2 could not join the others at n0:20007: Address already in use")
    found = of_start(tmp_path, 2, tasks=2)
    assert (found.code, found.asked) == (75, None)
    assert found.reason.startswith("rank 0 on n0: process 0 of 2 could not join") and "MASTER_PORT" in found.reason


def test_a_heartbeat_of_an_earlier_start_tells_nothing_of_this_one(tmp_path):
    beat(tmp_path, 0, 20, at=1000.0, written=1030.0)
    beat(tmp_path, 1, 18, at=999.0, written=1030.0)
    assert endings.behind(tmp_path) and endings.behind(tmp_path, since=1040.0) == []
    beat(tmp_path, 0, 20, at=1045.0, written=1046.0)
    assert endings.behind(tmp_path, since=1040.0) == []
