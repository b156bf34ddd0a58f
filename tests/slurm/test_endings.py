"""Jobs on a real SLURM cluster that are signalled, preempted, cancelled, or lose a process or a node."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.slurm.conftest import STEPS, foundation, learnt

pytestmark = pytest.mark.slurm


@pytest.mark.fault(33, "the time limit of a SLURM job, two nodes")
def test_at_its_time_limit_a_job_saves_is_queued_again_and_goes_on_exactly(lab, launch, undisturbed, happened):
    job = launch(lab, "--nodes", "2", "--time", "1", "--signal-seconds", "10", pause=1.5)
    job.ended()
    assert learnt(job.root) == undisturbed
    first, *_, last = job.ends()
    assert (first["decision"], first["asked"], last["decision"]) == ("again", "SIGUSR2", "done")
    assert job.show()[0]["restarts"] >= 1
    happened(f"USR2 at step {first['progress']}; saved, queued again, gone on: figures equal to the last bit")


@pytest.mark.fault(33, "a SLURM job preempted by a higher partition, with the user's signal")
def test_a_preempted_job_saves_and_comes_back(lab, launch, undisturbed, happened):
    _preempted(lab, launch, undisturbed, "SIGUSR2")
    happened("USR2; saved, queued again by the batch script, gone on: figures equal to the last bit")


@pytest.mark.fault(33, "a SLURM job preempted by a higher partition, with TERM alone")
def test_a_preempted_job_that_gets_only_TERM_saves_and_comes_back(rough_lab, launch, undisturbed, happened):
    _preempted(rough_lab, launch, undisturbed, "SIGTERM")
    happened("TERM; saved, queued again by the batch script, gone on: figures equal to the last bit")


def _preempted(lab, launch, undisturbed, name):
    job = launch(lab, "--nodes", "2", "--sbatch", "exclusive=user", pause=0.5)
    job.started()
    high = lab.run(
        "sbatch", "--parsable", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    )
    job.ended()
    assert learnt(job.root) == undisturbed
    first = next(end for end in job.ends() if end["asked"])  # starts before it may have met a port that was taken
    assert (first["decision"], first["asked"]) == ("again", name), job.log()
    assert first["progress"] != f"step-{STEPS:08d}"
    assert f"resuming from {first['progress']}" in job.log()
    assert "JobState=COMPLETED" in lab.run("scontrol", "show", "job", high.strip())


def test_a_cancelled_job_does_not_come_back_and_goes_on_on_one_node(lab, launch, recipe, tmp_path):
    plain = "encoder.drop_path=0"  # which is drawn in each process by itself
    job = launch(lab, "--nodes", "2", plain, pause=0.5)
    job.started()
    foundation("jobs", "stop", str(job.root), lab=lab)
    job.ended("CANCELLED")
    saved = sorted((job.root / "checkpoints").glob("step-*"))[-1].name
    assert saved not in ("step-00000000", f"step-{STEPS:08d}"), "TERM made it save"
    assert job.show()[0]["state"] == "stopped" and "Restarts=0" in lab.run("scontrol", "show", "job", job.job)
    again = launch(lab, "--nodes", "1", "--allow-plugins", "tests.slurm.pause", run=job.root, what=job.root)
    again.ended()
    assert f"resuming from {saved}" in again.log()
    foundation("pretrain", str(recipe), plain, "--run", str(tmp_path / "one"))
    losses = [[line["loss"] for line in learnt(run)] for run in (job.root, tmp_path / "one")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4), "the run of one process, to rounding"


@pytest.mark.fault(35, "scontrol requeue of a SLURM job")
def test_a_job_that_is_queued_again_by_hand_goes_on_exactly(lab, launch, undisturbed, happened):
    job = launch(lab, "--nodes", "2", pause=0.5)
    job.started()
    lab.run("scontrol", "requeue", job.job)
    job.ended()
    assert learnt(job.root) == undisturbed
    assert "resuming from step-" in job.log()
    happened("TERM; saved; gone on from the newest checkpoint on disk, not from the pickle of the submission")


@pytest.mark.fault(33, "kill -9 to one process of a SLURM job, two nodes")
def test_a_killed_process_is_named_and_the_job_goes_on_exactly(lab, launch, undisturbed, happened):
    job = launch(lab, "--nodes", "2", pause=0.5)
    job.started(5)
    victim = dict(lab.tasks(job.job))[1]
    os.kill(victim, signal.SIGKILL)
    job.ended()
    assert learnt(job.root) == undisturbed
    first = job.ends()[0]
    assert first["decision"] == "again" and "rank 1" in first["reason"], first
    happened(first["reason"])


def test_a_run_that_is_lost_again_and_again_is_not_tried_for_ever(lab, launch):
    job = launch(lab, "--nodes", "2", "--retries", "1", pause=0.5)
    for start in (0, 1):
        job.wait(lambda start=start: len(lab.tasks(job.job)) == 2, f"in start {start}")
        for _, pid in lab.tasks(job.job):
            os.kill(pid, signal.SIGKILL)
        job.wait(lambda start=start: len(job.ends()) > start, f"at the end of start {start}")
    job.ended("FAILED")
    assert [end["decision"] for end in job.ends()] == ["again", "failed"]
    assert "1 try got no further" in job.show()[0]["reason"]


@pytest.mark.fault(33, "a node of a SLURM job vanishes")
def test_a_job_whose_node_vanishes_goes_on_exactly(rough_lab, launch, undisturbed, happened):
    job = launch(rough_lab, "--nodes", "2", pause=0.5)
    job.started(5)
    rough_lab.kill_node(2)
    job.wait(lambda: job.state() != "RUNNING", "noticed")
    rough_lab.start_node(2)
    job.ended()
    assert learnt(job.root) == undisturbed
    assert job.show()[0]["restarts"] >= 1
    happened("queued again, gone on when there was a node; figures equal to the last bit")


@pytest.mark.fault(35, "a node that is cut off from the controller trains on while the job starts elsewhere")
def test_a_process_of_an_earlier_start_writes_nothing_any_more(rough_lab, launch, happened):
    job = launch(rough_lab, "--nodes", "1", pause=2.0)
    job.started()
    ((_, stale),) = rough_lab.tasks(job.job)
    node = f"n{1 if rough_lab.tasks(job.job, 'n1') else 2}"
    slurmd = int((rough_lab.folder / "run" / f"slurmd-{node}.pid").read_text())
    os.kill(slurmd, signal.SIGKILL)
    job.ended()
    job.wait(lambda: not Path(f"/proc/{stale}").exists(), "left by the process of the first start")
    assert "the lock is taken over" in job.log() and "writes nothing any more" in job.log()
    assert [line["step"] for line in learnt(job.root)] == list(range(1, STEPS + 1))
    (job.root / ".owner").read_text().index('"start": 1')
    rough_lab.start_node(int(node[1:]))
    happened("the later start took the lock over; the process of the earlier one wrote nothing any more and ended")
