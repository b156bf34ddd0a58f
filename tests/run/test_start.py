"""What a run says before its first step, what it refuses there, and how it ends early."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from foundation import config, paths
from foundation.catalogue import of_modality
from foundation.checkpoints import checkpoint
from foundation.cli import main
from foundation.data.sources import open_sources
from foundation.run import journal, runs
from foundation.run.advice import advice, of_counts
from foundation.run.interrupt import StopFlag
from foundation.run.recipe import Recipe
from tests.conftest import RECIPE


def test_stop_after_belongs_to_the_command_and_not_to_the_run(tiny_recipe_file, tmp_path, capfd):
    run = tmp_path / "run"
    assert main(["pretrain", str(tiny_recipe_file), "train.stop_after=3 steps", "--run", str(run)]) == 0
    out = capfd.readouterr().out
    assert f"stopped early at step 3 of 8 (train.stop_after); go on with: foundation pretrain {run}" in out
    found = runs.summary(run)
    assert (found.state, found.step, found.total) == ("stopped", 3, 8) and "of 8" in (found.reason or "")
    assert "stop_after: null" in (run / "recipe.yaml").read_text()
    kept = (run / "recipe.yaml").read_text().replace("stop_after: null", "stop_after: 4 steps")
    (run / "recipe.yaml").write_text(kept)  # as older versions left it
    assert main(["pretrain", str(run)]) == 0
    out = capfd.readouterr().out
    assert "resuming from step-00000003" in out and f"done: {run}" in out
    assert runs.summary(run).state == "done" and checkpoint.newest(run / "checkpoints")[0].name == "step-00000008"


def test_a_finished_run_says_in_one_line_that_nothing_is_left_and_how_to_go_on(tiny_recipe_file, tmp_path, capfd):
    run = tmp_path / "run"
    words = ["pretrain", str(tiny_recipe_file), "--run", str(run)]
    assert main(words) == 0
    capfd.readouterr()
    for again in (words, ["pretrain", str(run)]):
        assert main(again) == 0
        (line,) = "".join(capfd.readouterr()).splitlines()
        assert line.startswith(f"nothing left to do: {run} has reached its length, 8 steps (step 8 of 8)")
    exports = list((run / "export").glob("*.safetensors"))
    for export in exports:
        export.unlink()
    assert main(words) == 0 and exports and all(export.is_file() for export in exports), "written again"
    capfd.readouterr()
    assert main([*words, "train.length=9 steps", "--accept-changes"]) == 0
    assert "resuming from step-00000008" in capfd.readouterr().out and runs.summary(run).step == 9


def test_a_stop_that_lies_behind_is_said_and_folders_are_quoted(train, tiny_recipe, tmp_path):
    run = tmp_path / "my run"
    train(tiny_recipe("train.length=8 steps", "train.stop_after=3 steps"), run, [])
    said: list[str] = []
    trainer = train(tiny_recipe("train.length=8 steps", "train.stop_after=2 steps"), run, said)
    assert any("train.stop_after is step 2, and step 3 is done: nothing is trained this time" in line for line in said)
    assert trainer.stopped_early.endswith(f"go on with: foundation pretrain '{run}'")


def test_a_terminal_of_unknown_width_gets_lines_instead_of_a_bar(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        assert not journal._can_show_a_bar(), "a bar of no columns is nothing"
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
        assert journal._can_show_a_bar()
        monkeypatch.setenv("TERM", "dumb")
        assert not journal._can_show_a_bar()
    os.close(ours)


def test_a_run_begins_with_what_it_will_do(train, tiny_recipe, tmp_path):
    said: list[str] = []
    trainer = train(tiny_recipe("train.length=4 steps", "train.stop_after=2 steps"), tmp_path / "run", said)
    first = next(index for index, line in enumerate(said) if line.startswith("step 1/2"))
    head = "\n".join(said[:first])
    trained = sum(p.numel() for p in trainer.learner.branches["student"].parameters() if p.requires_grad)
    assert "device      float32 on cpu" in head and f"{trained:,} trained" in head
    assert "40 in the shards, 8 in a batch" in head and f"folder      {tmp_path / 'run'}" in head
    assert "4, the data 0.8 times, this time to step 2 (train.stop_after)" in head
    assert "epoch 0.2, loss " in said[first] and "learning rate 3.13e-05" in said[first]


def test_a_recipe_that_does_not_fit_the_data_is_told_with_the_keys_to_change(tiny_shards, tmp_path, capfd):
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE.format(shards=tiny_shards).replace("name: tiny", "name: own\nabout: {samples: 1281167}"))
    words = ["pretrain", str(path), "train.batch_size=64", "train.length=100 epochs", "--dry-run"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "62 (99.2 epochs)" in " ".join(out.split()), "of the 40 samples that there are, not of those it was made for"
    assert "train.batch_size 64 is more than the 40 samples there are" in err and "train.batch_size to 4" in err
    assert "62 steps are few" in err and "Set train.length to '1000 steps' or more" in err
    assert main([*words, "data.samples_per_epoch=1281167"]) == 0
    assert (
        "data.samples_per_epoch 1,281,167 makes an epoch of 1,281,167 samples, and there are 40"
        in capfd.readouterr().err
    )
    assert main([*words, "data.shards=[not-here-*.tar]"]) == 0
    out, err = capfd.readouterr()
    assert "the shards are not here" in err and "an epoch is counted as 1,281,167 samples" in err


def test_far_fewer_samples_than_the_recipe_suits_are_told_last(tiny_shards, tmp_path, train, tiny_recipe):
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE.format(shards=tiny_shards).replace("name: tiny", "name: own\nabout: {samples: 160}"))
    both = io.StringIO()
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        assert main(["pretrain", str(path), "--dry-run"]) == 0
    text = both.getvalue()
    few = "warning: 40 samples are few for a recipe whose settings suit about 160 (about.samples)"
    assert text.splitlines()[-1].startswith(few) and "recipes list image" in text
    assert "parameters, encoder" in text and "optimizer:" not in text
    said: list[str] = []
    train(tiny_recipe("about.samples=160", "train.length=1 steps"), tmp_path / "run", said)
    assert any(line.startswith(few) for line in said)
    said.clear()
    train(tiny_recipe("about.samples=159", "train.length=1 steps"), tmp_path / "another", said)
    assert not any("are few for a recipe" in line for line in said)


@pytest.mark.parametrize("modality", ["image", "audio", "points", "video", "imu", "paired"])
def test_every_modality_has_a_recipe_that_says_how_much_data_it_suits(modality):
    recipe = config.load(Recipe, paths.recipe(of_modality(modality)[0]), ["data.shards=[]"])
    told = "\n".join(of_counts(recipe, recipe.clock(80), 80))
    assert f"80 samples are few for a recipe whose settings suit about {recipe.about.samples:,}" in told


def test_the_samples_of_a_mixture_are_counted_together(tiny_recipe, tiny_shards):
    parts = [tiny_shards.replace("*", f"00000{part}") for part in range(2)]
    mixture = f"data.sources={{a: {{shards: '{parts[0]}'}}, b: {{shards: '{parts[1]}'}}}}"
    for suited, few in ((160, True), (159, False)):
        recipe = tiny_recipe("data.shards=[]", mixture, f"about.samples={suited}")
        told = advice(recipe, recipe.clock(40), open_sources(recipe.data))
        assert any("40 samples are few" in line for line in told) == few


def test_every_setting_is_shown_when_asked_for(tiny_recipe_file, tmp_path, capsys):
    words = ["pretrain", str(tiny_recipe_file), "train.batch_size=4", "--run", str(tmp_path / "run")]
    assert main([*words, "--show-recipe"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    read = config.load(Recipe, shown)
    assert read.train.batch_size == 4 and "shuffle_window: 16" in shown and "peer_timeout_seconds" in shown


@pytest.mark.slow
def test_shards_of_another_modality_are_refused_with_the_recipes_that_fit(tiny_shards, tmp_path, capfd, monkeypatch):
    words = ["pretrain", "hapt-mae-nano", "--run", str(tmp_path / "run")]
    assert main([*words, f"data.shards=[{tiny_shards}]"]) == 2
    assert "no sample can be read by the recipe 'hapt-mae-nano', which is for imu" in capfd.readouterr().err
    assert main(["data", "build", "digits", str(tmp_path / "digits")]) == 0
    assert main([*words, f"data.shards=[{tmp_path}/digits/train-*.tar]"]) == 2
    err = capfd.readouterr().err
    assert (
        "these are image samples" in err
        and "cifar10-dino-ibot-nano" in err
        and "hapt" not in err.split("Recipes for")[1]
    )
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.setitem(sys.modules, "soundfile", None)  # what is not installed is of no use here either
    assert main(["pretrain", "fsdd-mae-nano", f"data.shards=[{tmp_path}/digits/train-*.tar]", "--dry-run"]) == 2
    assert "these are image samples, and the recipe 'fsdd-mae-nano' is for audio" in capfd.readouterr().err


def test_the_third_interrupt_does_not_wait_for_the_save():
    with StopFlag() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the launcher passes on what the terminal has sent already
        time.sleep(0.11)
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.name == "SIGINT"
        time.sleep(0.11)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        time.sleep(0.11)
        os.kill(os.getpid(), signal.SIGINT)  # while the last word is written


def test_a_worker_forked_while_a_run_listens_neither_speaks_for_it_nor_outlives_term(capfd):
    with StopFlag():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert "saving" not in capfd.readouterr().err


HANGING_SAVE = """
import sys, time
from foundation.cli import main
from foundation.checkpoints import saver
write = saver.checkpoint.write
def on_storage_that_hangs(root, step, *rest):
    time.sleep(300 if step else 0)
    return write(root, step, *rest)
saver.checkpoint.write = on_storage_that_hangs
sys.exit(main())
"""
HANGING_PROBE = """
import sys, time
from foundation.cli import main
from foundation.probes import features
features.progress = lambda batches, *_: (time.sleep(300) for _ in batches)
sys.exit(main())
"""
LAUNCHER = """
import sys
from foundation.parallel.launch import run_processes
sys.exit(run_processes([sys.executable, "-c", *sys.argv[1:]], 2, lambda line: print(line, file=sys.stderr)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("program", [HANGING_SAVE, HANGING_PROBE], ids=["save", "probe"])
def test_three_quick_interrupts_end_with_130_and_one_word_whatever_hangs(
    tiny_recipe_file, tiny_shards, tmp_path, processes, program
):
    run = tmp_path / "run"
    words = ["pretrain", str(tiny_recipe_file), "train.length=4000 steps", "data.workers=1", "--run", str(run)]
    if program == HANGING_PROBE:
        words.append(f"probes=[{{name: knn, every: 2 steps, train: '{tiny_shards}', workers: 1}}]")
    command = [sys.executable, "-c", *([LAUNCHER] if processes > 1 else []), program, *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not ((log := run / "metrics.jsonl").exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate(timeout=60)
    said = "\nfoundation: saving after this step (Ctrl-C twice more ends without)\nfoundation: interrupted\n"
    assert (process.returncode, err) == (130, said)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "stopped" and "without a last save" in status["reason"]
    assert checkpoint.newest(run / "checkpoints")[0] is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing of it is left


@pytest.mark.slow
def test_processes_that_are_asked_to_stop_say_so_once(tiny_recipe_file, tmp_path):
    run = tmp_path / "run"
    words = ["pretrain", str(tiny_recipe_file), "train.length=4000 steps", "--processes", "2", "--run", str(run)]
    command = [sys.executable, "-m", "foundation", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not ((log := run / "metrics.jsonl").exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and err.count("stopped by SIGINT") == 1 and "killed" not in err, err


def test_views_longer_than_the_recordings_are_told(tmp_path, capfd):
    from foundation.data.shards import write_shards

    header = "acc_x,acc_y,acc_z,gyr_x,gyr_y,gyr_z\n"
    rows = "".join("0.1,0.2,9.8,0,0,0\n" for _ in range(50))  # one second at 50 Hz
    samples = ({"__key__": f"s{i}", "csv": (header + rows).encode(), "json": b'{"rate": 50}'} for i in range(8))
    write_shards(samples, tmp_path, "train")
    assert main(["pretrain", "hapt-mae-nano", f"data.shards=[{tmp_path}/train-*.tar]", "--dry-run"]) == 0
    err = capfd.readouterr().err
    assert "8 samples will teach an encoder little" in err and "train.batch_size to" not in err
    assert "recordings are 1 s (median)" in err and "Set views.global_views.size to 50 or less" in err
