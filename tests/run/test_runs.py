"""How runs stand: read from real folders of real runs, killed ones too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.errors import UserError
from foundation.run import runs
from foundation.run.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, train, tiny_shards) -> Path:
    """A finished run of 8 steps; copied by those who change it."""
    from foundation import config
    from foundation.run.recipe import Recipe
    from tests.conftest import RECIPE

    folder = tmp_path_factory.mktemp("runs") / "finished"
    recipe = config.load(Recipe, RECIPE.format(shards=tiny_shards))
    with RunFolder(folder) as run:
        from foundation.run.trainer import Trainer

        run.write_recipe(config.dump(recipe))
        Trainer(recipe, run, say=lambda text: None).run()
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """``copy("name")``: a copy of the finished run below the test's folder."""
    return lambda name: Path(shutil.copytree(finished, tmp_path / "runs" / name))


def set_status(folder: Path, **values) -> None:
    RunFolder(folder).write_status(values.pop("state"), **values)


def set_beat(folder: Path, age: float = 0.0, **values) -> None:
    (folder / "heartbeat").mkdir(exist_ok=True)
    beat = {"time": time.time() - age, "rank": 0, "host": socket.gethostname(), "pid": 1, "step": 5} | values
    (folder / "heartbeat" / "rank0.json").write_text(json.dumps(beat))


def age_files(folder: Path, seconds: float) -> None:
    for name in ("recipe.yaml", "metrics.jsonl"):
        os.utime(folder / name, (time.time() - seconds,) * 2)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"time": time.time() - seconds}))


def test_a_finished_run(finished):
    run = runs.summary(finished)
    assert (run.state, run.step, run.total, run.name) == ("done", 8, 8, "tiny")
    assert run.checkpoint == "step-00000008" and not run.damaged and run.reason is None
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert run.loss == lines[-1]["loss"] and run.samples_per_second == lines[-1]["throughput/samples_per_second"]
    assert run.seconds_per_step == pytest.approx((lines[-1]["time/seconds"] - lines[0]["time/seconds"]) / 7)
    assert run.seconds_left is None and run.started is not None and run.updated is not None
    assert abs(run.updated - time.time()) < 600 and run.started <= run.updated


def test_running_while_it_holds_its_lock_and_silent_without(copy):
    folder = copy("one")
    set_status(folder, state="running", step=5)
    set_beat(folder, step=6, total=80, doing="training")
    with RunFolder(folder):
        run = runs.summary(folder)
        assert (run.state, run.step, run.total, run.doing) == ("running", 6, 80, "training")
        assert run.seconds_left == pytest.approx(74 * run.seconds_per_step)
    assert runs.summary(folder).state == "silent"


def test_silent_by_an_old_heartbeat_although_locked(copy):
    folder = copy("one")
    set_status(folder, state="running", step=5)
    age_files(folder, 5000)
    set_beat(folder, age=4000)
    with RunFolder(folder):
        assert runs.summary(folder).state == "silent"
        assert runs.summary(folder, silent_after=4500).state == "running"
        set_beat(folder)
        assert runs.summary(folder).state == "running"


def test_a_fresh_start_is_not_silent_because_of_an_old_heartbeat(copy):
    folder = copy("one")
    set_status(folder, state="failed", step=5)
    age_files(folder, 5000)
    set_beat(folder, age=4900)
    with RunFolder(folder) as run:
        run.write_recipe((folder / "recipe.yaml").read_text())
        assert runs.summary(folder).state == "running"


def test_a_run_on_another_machine_is_known_by_its_heartbeat(copy):
    """Its lock may not be visible here."""
    folder = copy("one")
    set_status(folder, state="running", step=5)
    set_beat(folder, host="another-machine")
    assert runs.summary(folder).state == "running"
    set_beat(folder, age=4000, host="another-machine")
    assert runs.summary(folder).state == "silent"


@pytest.mark.parametrize("word", ["failed", "stopped"])
def test_the_reason_is_shown(copy, capsys, word):
    folder = copy("one")
    set_status(folder, state=word, step=5, reason="step 4: loss nan: not finite")
    assert runs.summary(folder).state == word
    assert main(["runs", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert word in shown and "step 4: loss nan: not finite" in shown and "step 8: loss" in shown


def test_a_damaged_checkpoint_is_passed_over(copy, capsys):
    folder = copy("one")
    path = folder / "checkpoints" / "step-00000008" / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run = runs.summary(folder)
    assert run.checkpoint == "step-00000006" and "student.safetensors has" in run.damaged["step-00000008"]
    assert main(["runs", "show", str(folder)]) == 0
    assert "student.safetensors has" in capsys.readouterr().out


def test_damaged_and_missing_files_are_as_if_not_there(copy):
    folder = copy("one")
    (folder / "status.json").write_text('{"state": "do')
    (folder / "metrics.jsonl").write_text('{"step": 3, "loss": 2.5}\nnonsense\n[1]\n{"step": 4, "lo')
    (folder / "heartbeat" / "rank0.json").write_text("")
    run = runs.summary(folder)
    assert (run.state, run.loss, run.step) == ("silent", 2.5, 3)
    (folder / "metrics.jsonl").unlink()
    assert runs.summary(folder).loss is None
    with pytest.raises(UserError, match="is no run folder"):
        runs.summary(folder / "checkpoints")


def test_speed_does_not_mix_two_attempts(copy):
    """The clock of the metrics begins anew at each start."""
    folder = copy("one")
    lines = [{"step": s, "loss": 1.0, "time/seconds": 100.0 * s} for s in range(1, 6)]
    lines += [{"step": s, "loss": 1.0, "time/seconds": 2.0 * (s - 5)} for s in range(6, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runs.summary(folder).seconds_per_step == pytest.approx(2.0)


def test_only_the_end_of_long_metrics_is_read(copy):
    folder = copy("one")
    lines = [{"step": s, "loss": float(s), "padding": "x" * 1000} for s in range(1, 5000)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    last = runs.tail(folder)
    assert last[-1]["step"] == 4999 and 900 < len(last) < 1100


def test_list_finds_runs_at_any_depth(copy, tmp_path, capsys):
    for name in ("one", "sweep/a", "sweep/b"):
        copy(name)
    (tmp_path / "runs" / "notes").mkdir()
    assert main(["runs", "list", str(tmp_path / "runs"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [Path(item["path"]).relative_to(tmp_path / "runs").as_posix() for item in found] == [
        "one",
        "sweep/a",
        "sweep/b",
    ]
    assert all(item["state"] == "done" and item["checkpoint"] == "step-00000008" for item in found)
    assert main(["runs", "list", str(tmp_path / "runs")]) == 0
    table = capsys.readouterr().out
    assert "sweep/a" in table and "done" in table and "8 / 8" in table
    assert main(["runs", "list", str(tmp_path / "runs" / "notes")]) == 0
    assert "no runs below" in capsys.readouterr().out
    assert main(["runs", "list", str(tmp_path / "nowhere")]) == 2


def test_best_sorts_by_any_figure(copy, tmp_path, capsys):
    for name, values in {"a": (0.3, 0.5, 0.4), "b": (0.6, 0.2), "c": ()}.items():
        lines = [{"step": 10 * n, "probe/knn_top1": v} for n, v in enumerate(values, 1)]
        (copy(name) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    probes = tmp_path / "runs" / "c" / "probes"
    probes.mkdir(exist_ok=True)
    rows = [{"name": "model", "top1": 0.7}, {"name": "raw", "top1": 0.9}]
    (probes / "knn.json").write_text(json.dumps({"format": 1, "probe": "knn", "results": rows}))
    words = ["runs", "best", str(tmp_path / "runs"), "--metric"]
    assert main([*words, "probe/knn_top1", "--json"]) == 0
    found = [(Path(r["path"]).name, r["probe/knn_top1"], r["step"]) for r in json.loads(capsys.readouterr().out)]
    assert found == [("b", 0.6, 10), ("a", 0.5, 20)]
    assert main([*words, "probe/knn_top1", "--lowest", "--limit", "1"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "probe/knn_top1", "where", "(lowest", "first)"]
    assert row.split()[1:] == ["0.2", "step", "20"]
    assert main([*words, "knn/top1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[1:] == ["0.7", "probe", "result"]
    assert main([*words, "probe/knn_top"]) == 2
    assert "probe/knn_top1" in capsys.readouterr().err


def test_losses_of_different_objectives_are_listed_apart(copy, tmp_path, capsys):
    for name, loss in (("a", 5.0), ("b", 0.1), ("c", 4.0)):
        (copy(name) / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": loss}) + "\n")
    recipe = tmp_path / "runs" / "b" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: koleo", "name: byol"))
    assert main(["runs", "best", str(tmp_path / "runs"), "--metric", "loss", "--lowest"]) == 0
    out, err = capsys.readouterr()
    first, second = out.split("objectives ")[1:]
    assert first.startswith("dino + ibot + 0.1 byol:") and "runs/b" in first and "runs/c" not in first
    assert second.startswith("dino + ibot + 0.1 koleo:") and second.index("runs/c") < second.index("runs/a")
    assert "do not compare" in err


def test_looking_at_a_run_never_keeps_it_from_starting(copy):
    """Two processes look without pause while a folder is locked a hundred times."""
    folder = copy("one")
    program = f"""
from pathlib import Path
from foundation.run import runs
folder = Path({str(folder)!r})
print(runs.locked(folder), flush=True)
while True: runs.locked(folder)
"""
    lookers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert all(looker.stdout is not None and looker.stdout.readline() == "False\n" for looker in lookers)
        for _ in range(100):
            with RunFolder(folder):
                time.sleep(0.01)
        assert [looker.poll() for looker in lookers] == [None, None]  # they looked until the end
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()


def test_the_command_needs_no_torch(copy, tmp_path):
    copy("one")
    program = (
        "import sys\nfrom foundation.cli import main\n"
        f"code = main(['runs', 'list', {str(tmp_path / 'runs')!r}])\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules), 'torch was imported'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_killed_run_is_silent_and_goes_on_when_started_again(tiny_recipe_file, tmp_path):
    """The real thing: running while it trains, silent after SIGKILL, and the same command goes on."""
    run = tmp_path / "runs" / "real"
    words = [sys.executable, "-m", "foundation", "pretrain", str(tiny_recipe_file), "--run", str(run), "data.workers=1"]
    process = subprocess.Popen([*words, "train.length=5000 steps"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while True:
        found = [runs.summary(path) for path in runs.find(tmp_path / "runs")] if run.exists() else []
        if found and found[0].step >= 5:
            break
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert found[0].state == "running" and found[0].total == 5000 and found[0].pid == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    silent = runs.summary(run)
    assert silent.state == "silent" and silent.step >= 5 and silent.checkpoint is not None
    done = subprocess.run(
        [*words, "train.length=5000 steps", f"train.stop_after={silent.step + 5} steps"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert runs.summary(run).state == "stopped" and runs.summary(run).step == silent.step + 5
