"""Run folders of somebody else, and damaged ones: nothing hangs, nothing is hidden, and nothing else is ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from foundation.cli import main
from foundation.cluster import records, slurm, states
from foundation.errors import UserError

WATCHER = "import sys, time; print('up', flush=True); time.sleep(120)"


def launch(run, job: str, on: str = "local", stamp: str = "20300101-000000"):
    folder = run / "jobs" / stamp
    folder.mkdir(parents=True)
    content = {
        "on": on, "time": 1.0, "host": socket.gethostname(), "command": [], "tasks": 1, "retries": 3, "code": {},
        "environment": {}, "jobs": [{"id": job, "run": str(run), "words": []}],
    }  # fmt: skip
    (folder / "launch.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def watcher(tmp_path):
    """Starts what looks like submitit's controller to whoever reads the arguments of processes: its module's name is
    that of a stand-in which sleeps."""
    package = tmp_path / "stand-in" / "submitit" / "local"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py"):
        path.touch()
    (package / "_local.py").write_text(WATCHER)
    started = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "stand-in"), "LC_ALL": "C"}
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, env=environment)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder"])
def test_what_is_no_log_is_neither_waited_for_nor_read(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = records.log_of(launch(tmp_path / "runs" / "a", "78"), "78", 0)
    secret = tmp_path / "secret"
    secret.write_text("hidden words\n")
    if kind == "pipe":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    else:
        log.symlink_to("/dev/zero" if kind == "device" else secret)
    assert main(["jobs", "--tail"]) == 0
    assert main(["jobs", "logs", "78"]) == 0
    said = capsys.readouterr()
    assert "78" in said.out and "hidden" not in said.out
    assert "78_0_log.out" in said.err


def test_of_a_long_log_the_end_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = records.log_of(launch(tmp_path / "runs" / "a", "78"), "78", 0)
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    assert main(["jobs", "logs", "78", "--lines", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["last but one", "last"]


def test_starts_are_counted_apart_from_the_log(tmp_path):
    run = tmp_path / "run"
    folder = launch(run, "78")
    assert states.of_launch(folder)[0].restarts == 0
    for _ in range(3):
        records.write_starts(folder, "78")
    assert states.of_launch(folder)[0].restarts == 2
    records.write_starts(folder, "78", 7)
    assert states.of_launch(folder)[0].restarts == 6 and not records.start_ends(folder, "78")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: path.write_text(path.read_text().replace("/run", "/" + "x" * 300)),
        lambda path: path.write_text(path.read_text().replace('"78"', '"--me"')),
        lambda path: path.write_text(path.read_text().replace("/run", "/run\\u0000")),
    ],
    ids=["cut off", "pipe", "long name", "no number", "null"],
)
def test_one_damaged_launch_is_named_and_the_others_are_listed(damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    damaged = launch(tmp_path / "runs" / "run-a", "78") / "launch.json"
    damage(damaged)
    launch(tmp_path / "runs" / "b", "79")
    assert main(["jobs", "--json"]) == 0
    said = capsys.readouterr()
    assert [job["id"] for job in json.loads(said.out)] == ["79"]
    assert len(said.err.splitlines()) == 1 and str(damaged) in said.err
    assert states.living([tmp_path / "runs" / "run-a"]) == []


@pytest.mark.parametrize("name", ["plain", "läufe 跑", "line\nbreak"])
def test_a_local_job_is_known_by_the_arguments_of_its_process(name, tmp_path, watcher, monkeypatch):
    run = tmp_path / name
    folder = launch(run, "1")
    process = watcher("-m", "submitit.local._local", str(folder))
    (folder / "launch.json").write_text((folder / "launch.json").read_text().replace('"1"', f'"{process.pid}"'))
    monkeypatch.setenv("LC_ALL", "C")
    assert [job.state for job in states.of_launch(folder)] == ["running"]
    link = tmp_path / "link"
    link.symlink_to(run)
    (job,) = states.find([link])
    assert job.state == "running", "by another path"
    states.require_own(job)
    assert main(["jobs", "stop", str(link)]) == 0
    assert process.wait(10) == -15


def test_another_process_that_names_the_folder_is_not_ended(tmp_path, watcher, capsys):
    run = tmp_path / "run"
    folder = launch(run, "1")
    text = (folder / "launch.json").read_text()
    for words in (["-c", WATCHER, str(folder)], ["-m", "submitit.local._local", str(folder), "more"]):
        process = watcher(*words)
        (folder / "launch.json").write_text(text.replace('"1"', f'"{process.pid}"'))
        assert states.of_launch(folder)[0].state == "lost"
        assert main(["jobs", "stop", str(run)]) == 0
        assert process.poll() is None, "still there"
    capsys.readouterr()


def test_a_folder_that_is_none_of_a_launch_into_the_run_is_refused(tmp_path, watcher, capsys):
    folder = launch(tmp_path / "theirs", "1")
    process = watcher("-m", "submitit.local._local", str(folder))
    text = (folder / "launch.json").read_text().replace('"1"', f'"{process.pid}"')
    (folder / "launch.json").write_text(text.replace(str(tmp_path / "theirs"), str(tmp_path / "x" / "elsewhere")))
    assert main(["jobs", "stop", str(tmp_path / "theirs")]) == 2
    assert "no folder of a launch into" in capsys.readouterr().err
    assert process.poll() is None


@pytest.mark.parametrize("action", ["stop", "requeue"])
def test_a_job_of_the_queue_that_was_launched_elsewhere_is_left_alone(action, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    folder = launch(run, "78", "slurm")
    done = []
    entry = slurm.QueueEntry("78", "RUNNING", "", "n1", 0, 1.0, "0:0", "", "/data/me/precious.sh")
    monkeypatch.setattr(slurm, "entries", lambda jobs: {job: entry for job in jobs})
    monkeypatch.setattr(slurm, "command", lambda *words, **_: done.append(words) or "")
    assert main(["jobs", action, str(run)]) == 2
    assert "was not launched from" in capsys.readouterr().err and not done
    entry = slurm.QueueEntry("78", "RUNNING", "", "n1", 0, 1.0, "0:0", "", str(folder / "78_submission.sh"))
    assert main(["jobs", action, str(run)]) == 0
    assert [words[-1] for words in done] == ["78"]


def test_the_number_of_no_process_is_never_asked_for_a_signal(tmp_path):
    for number in ("0", "1", "999999999999999999"):
        folder = launch(tmp_path / number, number)
        (job,) = states.of_launch(folder)
        assert job.state == "lost"
        with pytest.raises(UserError, match="is left alone"):
            states.require_own(job)


def test_step_and_loss_stand_on_the_line_of_the_last_job_of_a_run(tmp_path, capsys):
    """They are read from the run folder, in which an earlier job did not get so far."""
    run = tmp_path / "runs" / "a"
    launch(run, "77")
    launch(run, "78", stamp="20300102-000000")
    (run / "recipe.yaml").write_text("name: a\n")
    (run / "status.json").write_text(json.dumps({"state": "done", "time": 2.0, "pid": 1, "step": 400, "total": 400}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 400, "loss": 5.5}) + "\n")
    old, new = states.find([tmp_path / "runs"])
    assert (old.id, old.step, old.loss) == ("77", None, None)
    assert (new.id, new.step, new.loss) == ("78", 400, 5.5)


def test_the_output_of_a_process_that_is_not_there_names_those_that_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = launch(tmp_path / "runs" / "a", "78")
    for rank in (0, 1):
        records.log_of(folder, "78", rank).write_text("words\n")
    assert main(["jobs", "logs", "78", "--rank", "5"]) == 0
    assert "no output of rank 5" in (out := capsys.readouterr().out) and "output of rank 0, 1" in out
