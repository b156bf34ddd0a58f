"""Joining, losing and starting the processes of a run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from foundation.errors import UserError
from foundation.parallel.launch import free_port, run_processes
from foundation.parallel.process_group import ranks_from_environment

LOSE = """
import os, sys
from foundation.cli import _guarded
from foundation.errors import FoundationError
from foundation.parallel import collective as c
from foundation.parallel.process_group import process_group
try:
    with process_group("cpu", 60):
        c.sums_over_ranks({"a": 1})
        if c.rank() == 1:
            os._exit(9)
        c.sums_over_ranks({"a": 1})
except FoundationError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_places():
    assert ranks_from_environment({}) == (0, 1, 0)
    full = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    assert ranks_from_environment(full) == (3, 4, 1)
    with pytest.raises(UserError, match="MASTER_ADDR, MASTER_PORT missing"):
        ranks_from_environment({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="ranks count from 0"):
        ranks_from_environment(full | {"RANK": "4"})
    with pytest.raises(UserError, match="whole numbers"):
        ranks_from_environment(full | {"WORLD_SIZE": "two"})


def test_a_lost_process_is_told_of(together):
    survivor, lost = together(LOSE, 2)
    assert lost.returncode == 9
    assert survivor.returncode == 75
    assert "process 0 of 2 lost another process" in survivor.stdout and "pair.cc" not in survivor.stdout


@pytest.mark.fault(44, "the port where processes meet is taken")
def test_a_taken_port_gives_the_next_one(happened):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        said: list[str] = []
        port = free_port(taken, said.append)
        assert port > taken
        assert said == [f"port {taken} is taken; the processes meet at port {port}"]
        happened(said[0])


def started(code: str, count: int = 2) -> tuple[int, list[str]]:
    said: list[str] = []
    return run_processes([sys.executable, "-c", code], count, said.append), said


def test_places_are_told_to_the_processes(tmp_path):
    code = (
        "import os, pathlib; e = os.environ; assert e['WORLD_SIZE'] == '3' and e['MASTER_ADDR'];"
        f"pathlib.Path({str(tmp_path)!r}, e['RANK'] + e['LOCAL_RANK']).touch()"
    )
    assert started(code, 3) == (0, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00", "11", "22"]


def test_the_first_failure_ends_all_and_gives_the_exit_code():
    code = "import os, time, sys; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(0.5); sys.exit(75)"
    assert started(code) == (3, ["process 1 of 2 failed first, with exit code 3"])


def test_a_killed_process_is_named():
    code = "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(0.2)"
    exit_code, (line,) = started(code)
    assert exit_code == 75
    assert line.startswith("process 1 of 2 was killed by SIGKILL")


@pytest.mark.fault(30, "TERM to the launcher while it starts the processes of a run")
def test_a_signal_that_comes_while_processes_are_started_reaches_all(monkeypatch, happened):
    start = subprocess.Popen

    def start_and_ask(*words, **options):
        if options["env"]["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGTERM)  # none is in the launcher's list yet
        return start(*words, **options)

    monkeypatch.setattr(subprocess, "Popen", start_and_ask)
    begun = time.monotonic()
    code, said = started("import time; time.sleep(120)")
    assert code == 75 and time.monotonic() - begun < 60, said
    happened("all of them get it, also those that were being started; exit code 75")
