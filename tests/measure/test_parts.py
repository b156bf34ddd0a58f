"""Parts in real processes: one that crashes, hangs, is killed or comes too late costs itself and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from foundation.measure.part import Part, Settings
from foundation.measure.parts import run_parts

GOOD = """
TITLE, SECONDS = "good", 60.0
def measure(part):
    part.row(case="one", value=1.0)
    part.case("bad", lambda: 1 / 0)
    part.case("late", lambda: {"value": 3.0}, seconds=1000.0)
    part.case("two", lambda: {"value": 2.0})
"""
NOT_STRICT = """
TITLE, SECONDS = "lacks something", 60.0
def measure(part):
    from foundation.errors import UserError
    def lacks():
        raise UserError("not installed")
    part.case("lacks", lacks)
    part.row(case="one", value=1.0)
"""
CRASH = """
TITLE, SECONDS = "crash", 60.0
def measure(part):
    part.row(case="before", value=1.0)
    raise RuntimeError("something broke")
"""
HANG = """
TITLE, SECONDS = "hang", 15.0
def measure(part):
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    part.row(case="child", value=child.pid)
    print("about to hang", flush=True)
    time.sleep(600)
"""
KILLED = """
TITLE, SECONDS = "killed", 60.0
def measure(part):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_bad_part_is_reported_and_the_next_one_goes_on(tmp_path):
    files = []
    for name, text in {"crash": CRASH, "hang": HANG, "killed": KILLED, "good": GOOD, "lacks": NOT_STRICT}.items():
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(text)
    ended = {}
    run_parts(
        files, tmp_path / "out", rehearse=True, seed=0, seconds=600.0, begun=lambda *told: None,
        ended=lambda name, outcome, machine: ended.update({name: (outcome, machine)}),
    )  # fmt: skip
    crash, hang, killed, good, lacks = (ended[file.stem][0] for file in files)
    assert crash.state == "failed" and "RuntimeError: something broke" in crash.tail
    assert [row["case"] for row in crash.rows] == ["before"]
    assert hang.state == "timed out" and "about to hang" in hang.tail
    child = int(hang.rows[0]["value"])
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(child), "what a part has started ends with it"
    assert killed.state == "failed" and "ended by signal 9" in killed.tail
    assert [row["case"] for row in good.rows] == ["one", "two"]
    assert good.state == "failed" and "ZeroDivisionError" in good.tail, "a rehearsal is strict"
    assert lacks.state == "done" and lacks.tail == "" and lacks.notes == ["lacks: UserError: not installed"]
    assert any("bad: ZeroDivisionError" in note for note in good.notes)
    assert any("late: left out" in note for note in good.notes)
    assert ended["good"][1]["versions"]["torch"]


def test_a_part_for_which_no_time_is_left_is_not_begun(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    states = {}
    run_parts(
        [tmp_path / "good.py"], tmp_path / "out", rehearse=True, seed=0, seconds=1.0,
        begun=lambda *told: pytest.fail("it was begun"),
        ended=lambda name, outcome, _: states.update({name: outcome.state}),
    )  # fmt: skip
    assert states == {"good": "not reached"}


def test_what_a_part_finds_is_on_the_disk_at_once(tmp_path):
    part = Part(Settings(tmp_path / "part.json", rehearse=False, seed=0, seconds=10.0, folder=tmp_path))
    part.row(case="a", value=1.23456789, count=3, path=Path("x"))
    part.note("a note")
    part.note("a note")
    found = json.loads((tmp_path / "part.json").read_text())
    assert found["rows"] == [{"case": "a", "value": 1.23457, "count": 3, "path": "x"}]
    assert found["notes"] == ["a note"] and found["whole"] is False
    part.write(whole=True)
    assert json.loads((tmp_path / "part.json").read_text())["whole"] is True
    assert os.listdir(tmp_path) == ["part.json"]


def test_a_case_that_fails_costs_itself_alone_unless_it_is_a_rehearsal(tmp_path):
    for rehearse in (False, True):
        part = Part(Settings(tmp_path / "part.json", rehearse=rehearse, seed=0, seconds=10.0, folder=tmp_path))
        assert part.case("bad", lambda: 1 / 0) is None
        assert part.case("good", lambda: {"value": 2}) == {"value": 2}
        assert part.notes == ["bad: ZeroDivisionError: division by zero"]
        assert part.rows == [{"case": "good", "value": 2}] and part.failed is rehearse
