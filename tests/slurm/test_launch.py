"""Jobs on a real SLURM cluster: launched, watched, refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from foundation.cluster import submit
from foundation.cluster.options import Options
from foundation.errors import UserError
from foundation.submitit_job import Job
from tests.slurm.conftest import STEPS, foundation, learnt

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("data", ["ddp", "fsdp"])
def test_a_run_on_two_nodes_is_the_run_in_two_processes(data, lab, launch, undisturbed):
    job = launch(lab, "--nodes", "2", f"parallel.data={data}")
    job.ended()
    figures = learnt(job.root)
    assert [line["step"] for line in figures] == list(range(1, STEPS + 1))
    if data == "ddp":
        assert figures == undisturbed
    else:
        assert [line["loss"] for line in figures] == pytest.approx([line["loss"] for line in undisturbed], abs=1e-5)
    (shown,) = job.show()
    expected = {"state": "done", "nodes": "n[1-2]", "step": STEPS, "total": STEPS, "restarts": 0}
    assert {key: shown[key] for key in expected} == expected
    assert shown["loss"] == pytest.approx(figures[-1]["loss"])
    hosts = {json.loads(path.read_text())["host"] for path in job.folder.glob("*_start0_rank*.json")}
    assert hosts == {"n1", "n2"}, "one process on each node"
    assert "done:" in foundation("jobs", "logs", str(job.root), lab=lab).stdout


def test_copies_of_sharded_weights_stay_inside_a_node(lab, launch):
    job = launch(lab, "--nodes", "2", "--tasks-per-node", "2", "parallel.data=hsdp", "train.length=3 steps")
    job.ended()
    said = foundation("jobs", "logs", str(job.root), "--lines", "100", lab=lab).stdout
    assert "hsdp: weights in 2 shards, 2 copies" in said
    assert len(learnt(job.root)) == 3


def test_what_the_dry_run_shows_is_what_sbatch_is_given(lab, launch, recipe, tmp_path):
    words = ("--nodes", "1", "--cpus-per-task", "2", "--time", "30", "--sbatch", "nice=5", "--setup", "export A=1")
    shown = foundation(
        "launch", str(recipe), "--on", "slurm", "--run", str(tmp_path / "run"), *words, "--dry-run", lab=lab
    )
    assert not (tmp_path / "run").exists()
    job = launch(lab, *words)
    given = (job.folder / f"{job.job}_submission.sh").read_text()
    stamp = shown.stdout.partition("jobs/")[2].partition("/")[0]
    assert shown.stdout.rstrip().replace(stamp, job.folder.name) == given.rstrip()
    for line in ("#SBATCH --time=30", "#SBATCH --nice=5", "#SBATCH --signal=USR2@120", "export A=1"):
        assert line in given.splitlines()
    assert "--kill-on-bad-exit=1 --cpus-per-task=2" in given


def test_a_mistake_in_the_recipe_is_found_before_submission(lab, recipe, tmp_path):
    word = foundation(
        "launch", str(recipe), "--on", "slurm", "--nodes", "2", "--run", str(tmp_path / "run"), "train.batch_size=7",
        lab=lab, code=2,
    ).stderr  # fmt: skip
    assert "nothing was submitted" in word and "train.batch_size 7 cannot be divided among 2" in word
    assert not list((tmp_path / "run").rglob("*.sh"))
    assert not lab.run("squeue", "-h", "-n", "run").strip()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"nodes": 64}, "--nodes"),
        ({"partition": "high", "time": "99:00:00"}, "a shorter --time"),
        ({"constraint": "h100"}, "sinfo -o '%N %f'"),
        ({"mem": "9000GB"}, "a smaller --mem"),
        ({"sbatch": {"colour": "red"}}, "--sbatch"),
    ],
)
def test_what_sbatch_refuses_is_said_with_what_to_do(given, expected, lab, monkeypatch, tmp_path):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, lab.environment[name])
    executor = submit.executor(tmp_path, Options(on="slurm", **given), "refused", None)
    with pytest.raises(UserError, match="sbatch refused the job: ") as error:
        submit.submit(executor, [Job(["pretrain", "x.yaml"])])
    assert expected in str(error.value) and "Traceback" not in str(error.value)


def test_a_launch_that_sbatch_refuses_leaves_nothing_behind(lab, recipe, tmp_path):
    run = tmp_path / "run"
    words = ("launch", str(recipe), "--on", "slurm", "--run", str(run), "--partition", "nope")
    done = foundation(*words, lab=lab, code=2)
    assert "sbatch refused the job: invalid partition specified: nope" in done.stderr
    assert "--partition NAME" in done.stderr and "Traceback" not in done.stderr
    assert not run.exists()


def test_two_launches_into_one_run_folder_are_refused(lab, launch, recipe):
    job = launch(lab, "--nodes", "2", pause=0.5)
    waiting = foundation("launch", str(recipe), "--on", "slurm", "--run", str(job.root), lab=lab, code=2)
    assert f"job {job.job} (" in waiting.stderr and f"foundation jobs stop {job.job}" in waiting.stderr
    job.started()
    by_hand = foundation("pretrain", str(recipe), "--run", str(job.root), lab=lab, code=2)
    assert f"another process is training in {job.root} (job {job.job}, process" in by_hand.stderr
    assert job.state() == "RUNNING"


def test_a_sweep_is_one_array_and_the_best_is_picked(lab, launch, tmp_path):
    job = launch(
        lab, "train.length=12 steps", "--sweep", "optimizer.learning_rate=1e-3,1e-1", "--sweep", "seed=0,1",
        "--array-parallelism", "2", run=tmp_path / "sweep", pause=0.5,
    )  # fmt: skip
    base = job.job.partition("_")[0]
    assert job.ids == [f"{base}_{number}" for number in range(4)]
    job.wait(lambda: job.step(Path(job.launch["jobs"][1]["run"])) >= 2, "at step 2 in the second run")
    number = lab.run("squeue", "-h", "-r", "-j", job.ids[1], "-o", "%A").strip()
    ((_, pid),) = lab.tasks(number)
    os.kill(pid, signal.SIGUSR2)  # scancel --signal sends it to an element of an array over and over
    job.wait(lambda: all(item["state"] == "done" for item in job.show()), "done")
    assert [item["restarts"] for item in job.show()] == [0, 1, 0, 0], "each element is queued again by itself"
    assert {Path(item["script"]).parent for item in job.show()} == {job.folder}, "each is known to be of this launch"
    names = [Path(item["run"]).name for item in job.show()]
    assert names == [f"optimizer.learning_rate={rate},seed={seed}" for rate in ("1e-3", "1e-1") for seed in (0, 1)]
    best = json.loads(foundation("runs", "best", str(job.root), "--metric", "loss", "--lowest", "--json").stdout)
    runs = [Path(item["run"]) for item in job.show()]
    losses = {run.name: min(line["loss"] for line in learnt(run)) for run in runs}
    assert [Path(row["path"]).name for row in best] == sorted(losses, key=lambda name: losses[name])


def test_the_queue_shows_step_and_loss(lab, launch):
    job = launch(lab, pause=1.0)
    job.wait(lambda: "step=" in lab.run("squeue", "-h", "-j", job.job, "-o", "%k"), "with a comment")
    step = lab.run("squeue", "-h", "-j", job.job, "-o", "%k")
    assert f"/{STEPS} loss=" in step
