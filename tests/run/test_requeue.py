"""Saved in time, queued again, gone on: submitit's local executor in the place of a cluster."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from foundation.submitit_job import Job

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.fault(34, "a grace time shorter than a save takes")
def test_a_short_grace_time_is_said_at_the_start(train, tiny_recipe, tmp_path, happened):
    said: list[str] = []
    train(tiny_recipe("train.grace_seconds=0.00001", "train.length=1 steps"), tmp_path / "run", said)
    warnings = [line for line in said if "train.grace_seconds" in line]
    assert len(warnings) == 1 and said.index(warnings[0]) < next(i for i, line in enumerate(said) if "step 1/" in line)
    happened(warnings[0])


@pytest.mark.fault(35, "a job that is queued again by its old pickle")
def test_no_state_is_pickled_into_a_job(happened):
    job = Job(["pretrain", "my.yaml", "--run", "runs/my"])
    assert pickle.loads(pickle.dumps(job)).__dict__ == {"words": ("pretrain", "my.yaml", "--run", "runs/my")}
    happened("the pickle holds the words of the command and nothing else: the state comes from the run folder")


@pytest.mark.slow
@pytest.mark.fault(33, "USR2 to both tasks of a submitit job (local executor)")
def test_a_job_is_queued_again_and_goes_on(tiny_recipe_file, tmp_path, monkeypatch, happened):
    submitit = pytest.importorskip("submitit", reason="needs the extra 'cluster'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = tmp_path / "run"
    words = ["pretrain", str(tiny_recipe_file), "--run", str(run), "train.length=400 steps"]
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(tasks_per_node=2, timeout_min=5, signal_delay_s=60)
    job = executor.submit(Job(words))
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 4):
        assert time.monotonic() < deadline and job.state not in ("FINISHED", "FAILED"), job.stderr()
        time.sleep(0.05)
    children = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGUSR2)
    assert job.results() == [0, 0]
    out = "".join(path.read_text() for path in sorted((tmp_path / "jobs").glob("*_log.out")))
    assert "resuming from step-" in out
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 401))
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    first = next(line for line in out.splitlines() if line.startswith("resuming from"))
    happened(f"both saved and left with exit code 75, submitit queued the job again; '{first}'; done")
