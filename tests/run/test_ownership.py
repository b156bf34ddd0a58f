"""Two starts of one job in one run folder: the later one has it, and the earlier one writes nothing any more."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from foundation.errors import PeerError, UserError
from foundation.run import ownership
from foundation.run.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from foundation.run import ownership
held = ownership.lock(Path(sys.argv[1]), print)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process of the first start of job 7, which holds the folder."""
    (tmp_path / "run").mkdir()
    environment = os.environ | {"SLURM_JOB_ID": "7", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ownership, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(ownership, "_NOTICE_SECONDS", 0.0)


def start(monkeypatch, job: str, number: int) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))


def test_another_job_is_refused_with_the_holders_name(holder, tmp_path, monkeypatch):
    start(monkeypatch, "8", 0)
    with pytest.raises(UserError, match=rf"another process is training in .*job 7, process {holder.pid} on "):
        RunFolder(tmp_path / "run").__enter__()


def test_a_later_start_takes_the_folder_over_and_the_earlier_one_may_not_write(holder, tmp_path, monkeypatch, quick):
    start(monkeypatch, "7", 1)
    said: list[str] = []
    with RunFolder(tmp_path / "run", said.append) as later:
        assert "the lock is taken over" in said[0] and f"process {holder.pid}" in said[0]
        assert later.append("a.jsonl", {"later": 1})
        start(monkeypatch, "7", 0)  # as the earlier one sees it
        earlier = RunFolder(tmp_path / "run", said.append)
        assert earlier.superseded()
        with pytest.raises(PeerError, match="writes nothing any more"):
            earlier.append("a.jsonl", {"earlier": 1})
        earlier.write_status("running")
        start(monkeypatch, "7", 1)
        assert not later.superseded()
    assert (tmp_path / "run" / "a.jsonl").read_text() == '{"later": 1}\n'
    assert not (tmp_path / "run" / "status.json").exists()


def test_a_lock_that_was_taken_over_keeps_others_out(holder, tmp_path, monkeypatch, quick):
    start(monkeypatch, "7", 1)
    with RunFolder(tmp_path / "run", lambda _: None):
        holder.kill()
        holder.wait()  # its lock, which is no longer the folder's, is free by now
        start(monkeypatch, "9", 0)
        with pytest.raises(UserError, match="another process is training"):
            RunFolder(tmp_path / "run").__enter__()


def test_a_start_before_the_owners_is_refused(tmp_path, monkeypatch, quick):
    start(monkeypatch, "7", 2)
    with RunFolder(tmp_path / "run"):
        start(monkeypatch, "7", 1)
        with pytest.raises(UserError, match="another process is training"):
            RunFolder(tmp_path / "run").__enter__()


def test_a_run_outside_of_slurm_has_no_owner(tmp_path, monkeypatch):
    start(monkeypatch, "7", 0)
    with RunFolder(tmp_path / "run"):
        assert (tmp_path / "run" / ".owner").is_file()
    monkeypatch.delenv("SLURM_JOB_ID")
    with RunFolder(tmp_path / "run") as folder:
        assert not (tmp_path / "run" / ".owner").exists() and not folder.superseded()
