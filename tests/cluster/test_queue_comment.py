"""Step and loss in the queue's comment."""

from __future__ import annotations

import json
import os
import time

from foundation.cluster.queue_comment import QueueComment, text_of


def beat(run, **content):
    path = run / "heartbeat" / "rank0.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_the_text_has_step_total_and_loss_where_they_are_known(tmp_path):
    assert text_of(tmp_path / "none.json") == ""
    assert text_of(beat(tmp_path, step=None)) == ""
    assert text_of(beat(tmp_path, step=7)) == "step=7"
    assert text_of(beat(tmp_path, step=120, total=4000, loss=3.41234)) == "step=120/4000 loss=3.412"
    (tmp_path / "heartbeat" / "rank0.json").write_text('{"step": ')
    assert text_of(tmp_path / "heartbeat" / "rank0.json") == ""


def scontrol(tmp_path, monkeypatch, ending):
    """A program that keeps what it was asked and ends so."""
    program, asked = tmp_path / "scontrol", tmp_path / "asked"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{ending}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return asked


def until(ready):
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_has_not_changed_is_not_said_again(tmp_path, monkeypatch):
    asked = scontrol(tmp_path, monkeypatch, "exit 0")
    beat(tmp_path, step=1)
    with QueueComment("7", tmp_path, seconds=0.02):
        until(lambda: asked.exists() and asked.read_text())
        time.sleep(0.2)
        beat(tmp_path, step=2)
        until(lambda: "step=2" in asked.read_text())
    assert asked.read_text().splitlines() == ["update JobId=7 Comment=step=1", "update JobId=7 Comment=step=2"]


def test_a_queue_that_takes_no_comment_is_complained_of_once(tmp_path, monkeypatch, capsys):
    asked = scontrol(tmp_path, monkeypatch, "echo 'Access denied' >&2; exit 1")
    beat(tmp_path, step=1)
    said = ""
    with QueueComment("7", tmp_path, seconds=0.02):
        until(lambda: asked.exists())
        beat(tmp_path, step=2)
        time.sleep(0.3)
        said = capsys.readouterr().err
    assert said.count("the queue does not show how far the run is") == 1 and "Access denied" in said
    assert len(asked.read_text().splitlines()) == 1
