"""``foundation checkpoint`` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foundation import cli
from foundation.checkpoints import checkpoint
from foundation.checkpoints.saver import Config, Saver
from foundation.run.run_folder import RunFolder
from foundation.schedules import Clock, Duration


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of five steps, the best of which is the second."""
    config = Config(every=Duration(10), keep_last=5, keep_best="probe/knn_top1")
    with Saver(tmp_path / "run" / "checkpoints", config, Clock(100, 10.0), print) as saver:
        for step, accuracy in ((10, 0.25), (20, 0.75), (30, 0.5), (40, 0.3), (50, 0.3)):
            saver.note(step, {"probe/knn_top1": accuracy})
            saver.save(step, {"student": {"a": torch.full((10_000,), float(step))}}, {"step": step})
    return tmp_path / "run"


def steps(run: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.steps(run / "checkpoints")]


def flip(run: Path, step: int) -> None:
    path = run / "checkpoints" / checkpoint.name_of(step) / "student.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_list_says_what_is_there_and_why(run, capsys):
    (run / "checkpoints" / checkpoint.name_of(40) / "student.safetensors").unlink()
    (run / "checkpoints" / "step-00000060.tmp-12345678").mkdir()
    assert cli.main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["10", "20", "30", "40", "50"]
    assert "best probe/knn_top1 (0.75)" in lines[2] and "MB" in lines[2] and "sizes right" in lines[2]
    assert "student.safetensors is missing" in lines[4] and "newest" in lines[5]
    assert "step-00000060.tmp-12345678: being written, or left over" in lines[6]


def test_verify_names_every_damaged_one_and_exits_3(run, capsys):
    assert cli.main(["checkpoint", "verify", str(run)]) == 0
    flip(run, 30)
    capsys.readouterr()
    assert cli.main(["checkpoint", "verify", str(run)]) == 3
    out = capsys.readouterr().out.splitlines()
    assert out[2].endswith("step-00000030: checksum mismatch in student.safetensors")
    assert sum(line.endswith(": good") for line in out) == 4
    assert cli.main(["checkpoint", "verify", str(run / "checkpoints" / "step-00000030")]) == 3
    assert cli.main(["checkpoint", "verify", str(run / "checkpoints" / "step-00000040")]) == 0


def test_prune_shows_first_and_removes_only_when_told(run, capsys):
    words = ["checkpoint", "prune", str(run), "--keep-last", "1"]
    assert cli.main(words) == 0
    assert "3 would be removed" in capsys.readouterr().out and steps(run) == [10, 20, 30, 40, 50]
    assert cli.main([*words, "--yes"]) == 0
    assert steps(run) == [20, 50]
    assert cli.main(["checkpoint", "prune", str(run), "--keep-last", "1", "--keep-best", "", "--yes"]) == 0
    assert steps(run) == [50]


def test_prune_goes_by_the_recipe_without_flags(run, capsys):
    assert cli.main(["checkpoint", "prune", str(run)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_prune_never_trades_a_good_one_for_a_damaged_one(run, capsys):
    flip(run, 50)
    flip(run, 40)
    assert cli.main(["checkpoint", "prune", str(run), "--keep-last", "1", "--keep-best", "", "--yes"]) == 0
    out = capsys.readouterr().out
    assert steps(run) == [30, 40, 50]
    assert "step-00000050: stays, although damaged: checksum mismatch in student.safetensors" in out
    assert checkpoint.newest(run / "checkpoints")[0] == run / "checkpoints" / "step-00000030"


def test_prune_is_refused_while_the_run_trains(run, capsys):
    with RunFolder(run):
        assert cli.main(["checkpoint", "prune", str(run), "--keep-last", "1", "--yes"]) == 2
    assert "another process is training" in capsys.readouterr().err and len(steps(run)) == 5


@pytest.mark.parametrize("what", ["list", "verify", "prune"])
def test_a_folder_without_checkpoints_is_the_users_mistake(tmp_path, capsys, what):
    assert cli.main(["checkpoint", what, str(tmp_path)]) == 2
    assert "no checkpoints in" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nonsense_is_refused(run, capsys):
    assert cli.main(["checkpoint", "prune", str(run), "--keep-last", "0", "--yes"]) == 2
    assert "--keep-last: 0 given; it must be from 1" in capsys.readouterr().err and len(steps(run)) == 5
