"""What SLURM prints, in its text form: lines of version 22.05 as they were printed, and those of newer ones."""

from __future__ import annotations

import os

import pytest

from foundation.cluster import slurm

RUNNING = (
    "JobId=8809501 JobName=r2 UserId=me(1000) GroupId=me(1000) MCS_label=N/A Priority=4294901759 Nice=0 Account=(null) "
    "QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=1-00:00:32 TimeLimit=UNLIMITED Partition=low NodeList=n[1-2] BatchHost=n1 NumNodes=2 NumCPUs=2 "
    "Command=/x/a name=b.sh WorkDir=/x Comment=step=120/4000 loss=3.412 StdErr=/x/8809501_0_log.out Power="
)
WAITING = (
    "JobId=20 ArrayJobId=20 ArrayTaskId=2,5-7%2 JobName=s JobState=PENDING Reason=JobArrayTaskLimit Restarts=0 "
    "ExitCode=0:0 RunTime=00:00:00 NodeList=(null) Comment=(null)"
)
ELEMENT = (
    "JobId=21 ArrayJobId=20 ArrayTaskId=0 JobState=CANCELLED Reason=None Restarts=0 ExitCode=0:15 RunTime=00:01:05"
)


def test_a_running_job_is_read():
    (found,) = slurm.parsed(RUNNING)
    assert found == slurm.QueueEntry(
        id="8809501", state="RUNNING", reason="", nodes="n[1-2]", restarts=2, seconds=86432.0, exit_code="0:0",
        comment="step=120/4000 loss=3.412", script="/x/a name=b.sh",
    )  # fmt: skip
    assert found.alive


def test_elements_of_an_array_are_one_entry_each():
    assert [(item.id, item.state) for item in slurm.parsed(WAITING)] == [
        ("20_2", "PENDING"), ("20_5", "PENDING"), ("20_6", "PENDING"), ("20_7", "PENDING"),
    ]  # fmt: skip
    (found,) = slurm.parsed(ELEMENT)
    assert (found.id, found.alive, found.seconds) == ("20_0", False, 65.0)


def test_a_line_that_is_no_job_gives_nothing():
    assert list(slurm.parsed("No jobs in the system")) == [] == list(slurm.parsed(""))


@pytest.mark.parametrize(
    ("text", "expected"), [("0-3,7%2", [0, 1, 2, 3, 7]), ("0-8:4", [0, 4, 8]), ("", []), ("N/A", [])]
)
def test_numbers_of_arrays_are_counted_out(text, expected):
    assert slurm.numbers(text) == expected


def test_a_machine_without_slurm_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.NoSlurmError, match=r"no scontrol on PATH.*--on local"):
        slurm.entry("12")


def test_a_command_without_an_answer_is_not_waited_for(monkeypatch, tmp_path):
    path = tmp_path / "scontrol"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(slurm.SlurmError, match=r"no answer within 0\.2 s"):
        slurm.command("scontrol", "ping", seconds=0.2)
