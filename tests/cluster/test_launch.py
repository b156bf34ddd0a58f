"""``foundation launch`` and ``foundation jobs`` without a cluster: the text for sbatch, and jobs on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("submitit", reason="needs the extra 'cluster'")


def foundation(
    *words: str, code: int = 0, path: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    if path is not None:
        environment["PATH"] = path
    done = subprocess.run(
        [sys.executable, "-m", "foundation", *words], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def wait(ready: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 240
    while not ready():
        assert time.monotonic() < end, f"not {what}"
        time.sleep(0.1)


def test_the_dry_run_shows_the_text_for_sbatch_on_a_machine_without_slurm(tiny_recipe_file, tmp_path):
    run = tmp_path / "runs" / "mine"
    profile = tmp_path / "cluster.yaml"
    profile.write_text(
        "on: slurm\nnodes: 4\ngpus_per_node: 2\npartition: gpu\ntime: 24:00:00\nsetup: [module load cuda]\n"
    )
    done = foundation(
        "launch", str(tiny_recipe_file), "train.batch_size=32", "--run", str(run), "--profile", str(profile),
        "--partition", "fast", "--nodes", "2", "--sweep", "seed=0,1,2", "--array-parallelism", "2", "--dry-run",
        path=str(tmp_path),
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "#!/bin/bash"
    for line in (
        "#SBATCH --array=0-2%2", "#SBATCH --gpus-per-node=2", "#SBATCH --job-name=mine", "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2", "#SBATCH --partition=fast", "#SBATCH --requeue", "#SBATCH --signal=USR2@120",
        "#SBATCH --time=1440", "module load cuda",
    ):  # fmt: skip
        assert line in lines, line
    assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun "))
    assert "micro-batch" in done.stderr and "8 samples (4 processes)" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("run seed=")] == [
        "run seed=0", "run seed=1", "run seed=2",
    ]  # fmt: skip
    assert not run.exists() and "wckey" not in done.stdout


def test_without_slurm_a_launch_says_so_before_anything_is_copied(tiny_recipe_file, tmp_path):
    done = foundation(
        "launch", str(tiny_recipe_file), "--on", "slurm", "--run", str(tmp_path / "run"), code=2, path=str(tmp_path)
    )
    assert "no sbatch on PATH" in done.stderr and "--on local" in done.stderr
    assert not list((tmp_path / "run").rglob("*.py"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "2"], "this machine is one"),
        (["--profile", "slurm-gpus"], "did you mean 'slurm-gpu'"),
        (["--sweep", "seed"], "write a key and its values"),
        (["--on", "slurm", "train.device=cuda"], "asks for no GPU: add --gpus-per-node"),
        (["--array-parallelism", "2"], "goes with --sweep"),
        (["--partitoin", "x"], "did you mean '--partition'"),
        (["--time", "soon", "--on", "slurm"], "no time limit"),
        (["--on", "slurm", "--sbatch", "comment=a\ntouch X #"], "sbatch comment: a\\ntouch X #"),
        (["--on", "slurm", "--partition", "a\ntouch X"], "partition: a\\ntouch X"),
        (["--on", "slurm", "--sbatch", "array=0-9"], "use --sweep"),
        (["--run", "runs/a\nb"], "choose another --run"),
        (["name=a\tb"], "choose another --run"),
        (["--run", "runs/a%j"], "has a %"),
        (["--run", "runs/a\\b"], "has a \\"),
    ],
)
def test_mistakes_on_the_command_line_are_said(words, said, tiny_recipe_file, monkeypatch, capsys, tmp_path):
    from foundation.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["launch", str(tiny_recipe_file), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_jobs_of_nothing_are_none_and_unknown_ones_are_named(tmp_path, monkeypatch, capsys):
    from foundation.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["jobs"]) == 0
    assert "no jobs" in capsys.readouterr().out
    assert main(["jobs", "stpo", "12"]) == 2
    assert "did you mean 'stop'" in capsys.readouterr().err
    assert main(["jobs", "logs", "12"]) == 2
    assert "no job 12" in capsys.readouterr().err


def test_of_many_runs_of_a_sweep_some_are_built_and_it_is_said(tiny_recipe_file, monkeypatch, capsys, tmp_path):
    from foundation.cli import main
    from foundation.cluster import rehearsal

    built = []

    def rehearse(runs, code):
        built.extend(runs)
        return rehearsal.Rehearsed("", ())

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    monkeypatch.chdir(tmp_path)
    words = ["launch", str(tiny_recipe_file), "--on", "slurm", "--dry-run", "--sweep"]
    assert main([*words, "seed=" + ",".join(map(str, range(300)))]) == 0
    said = capsys.readouterr()
    assert len(built) == 8 and "8 of 300 runs of the sweep were checked" in said.err
    assert "run seed=299" in said.err and "#SBATCH --array=0-299%256" in said.out


@pytest.mark.slow
def test_a_local_job_goes_on_in_the_background_is_stopped_and_launched_again(tiny_recipe_file, tmp_path):
    run = tmp_path / "run"
    words = ("launch", str(tiny_recipe_file), "--run", str(run), "--tasks-per-node", "2", "train.length=300 steps")
    foundation(*words)

    def shown() -> dict:
        return json.loads(foundation("jobs", str(run), "--json").stdout)[-1]

    wait(lambda: (shown()["step"] or 0) >= 3, "at step 3")
    assert shown()["state"] == "running"
    refused = foundation(*words, code=2)
    assert f"foundation jobs stop {shown()['id']}" in refused.stderr
    foundation("jobs", "stop", str(run))
    wait(lambda: shown()["state"] != "running", "stopped")
    first = shown()
    assert first["state"] == "stopped" and "SIGTERM" in first["reason"] and 3 <= first["step"] < 300
    done = foundation(*words, "--wait")
    assert f"job {shown()['id']}: done" in done.stdout
    assert (shown()["state"], shown()["step"]) == ("done", 300)
    another = foundation(*words, "optimizer.learning_rate=1e-2", code=2).stderr
    assert "nothing was submitted" in another and "was trained with another recipe" in another
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 301))
    assert f"done: {run}" in foundation("jobs", str(run), "--tail").stdout
    assert "resuming from step-" in foundation("jobs", "logs", str(run), "--lines", "1000").stdout


@pytest.mark.slow
def test_a_job_runs_the_code_that_was_there_when_it_was_launched(tiny_recipe_file, tmp_path):
    run = tmp_path / "run"
    foundation("launch", str(tiny_recipe_file), "--run", str(run), "--wait")
    (folder,) = (run / "jobs").iterdir()
    launch = json.loads((folder / "launch.json").read_text())
    assert launch["code"]["path"] == str(folder / "code")
    assert (folder / "code" / "foundation" / "cli.py").is_file() and not list((folder / "code").rglob("tests"))
    assert launch["environment"]["package torch"] and launch["command"][1:3] == ["launch", str(tiny_recipe_file)]
    start = json.loads((run / "starts.jsonl").read_text().splitlines()[0])
    assert start["commit"] == launch["code"]["commit"]


@pytest.mark.slow
def test_shards_that_are_not_here_are_refused_unless_only_the_nodes_see_them(tiny_recipe_file, tmp_path):
    words = [str(tiny_recipe_file), "data.shards=[nowhere/*.tar]", "about.samples=40", "--on", "local"]
    words += ["--run", str(tmp_path / "run")]
    refused = foundation("launch", *words, code=2)
    assert "nothing was submitted: the shards are not here" in refused.stderr
    assert "--allow-missing-shards" in refused.stderr and not (tmp_path / "run").exists()
