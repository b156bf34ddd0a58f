"""Checkpoints: whole or absent, verified, and honest about damage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from foundation.engine import checkpoint
from foundation.errors import UserError

TENSORS = {"student": {"a": torch.arange(6.0).view(2, 3)}, "optimizer": {"b": torch.ones(4, dtype=torch.int64)}}


def test_round_trip(tmp_path):
    folder = checkpoint.write(tmp_path, 12, TENSORS, {"step": 12, "position": 96})
    assert folder.name == "step-00000012"
    tensors, state = checkpoint.read(folder)
    assert state == {"step": 12, "position": 96}
    assert torch.equal(tensors["student"]["a"], TENSORS["student"]["a"])
    assert torch.equal(tensors["optimizer"]["b"], TENSORS["optimizer"]["b"])


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, Path.unlink])
@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.safetensors", "state.json"])
def test_any_damage_to_any_file_is_named_and_the_one_before_is_used(tmp_path, damage, name):
    good = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1})
    bad = checkpoint.write(tmp_path, 2, TENSORS, {"step": 2})
    damage(bad / name)
    found, skipped = checkpoint.newest(tmp_path)
    assert found == good
    assert [path for path, _ in skipped] == [bad] and name in skipped[0][1]
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        checkpoint.read(bad)


def test_half_written_folder_is_no_checkpoint_and_is_cleaned(tmp_path):
    good = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1})
    shutil.copytree(good, tmp_path / "step-00000002.tmp-abcd1234")
    (tmp_path / "step-00000003").mkdir()
    found, skipped = checkpoint.newest(tmp_path)
    assert found == good and skipped == [(tmp_path / "step-00000003", "MANIFEST.json is missing")]
    checkpoint.prune(tmp_path, keep=2)
    assert not (tmp_path / "step-00000002.tmp-abcd1234").exists()


def test_an_existing_good_step_is_not_written_again(tmp_path):
    folder = checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "first": True})
    checkpoint.write(tmp_path, 1, TENSORS, {"step": 1, "first": False})
    assert checkpoint.read(folder)[1]["first"] is True


def test_disk_full_says_path_needed_and_free_and_leaves_nothing(tmp_path):
    limit = f"ulimit -f 64; exec {sys.executable} -c"  # 64 blocks: larger files cannot be written
    program = (
        "import signal, torch; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path\nfrom foundation.engine import checkpoint\n"
        f"checkpoint.write(Path({str(tmp_path)!r}), 1, {{'student': {{'a': torch.zeros(10**6)}}}}, {{'step': 1}})"
    )
    result = subprocess.run(["bash", "-c", f'{limit} "$0"', program], capture_output=True, text=True)
    assert result.returncode != 0
    assert "cannot write checkpoint" in result.stderr and "free" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sigkill_while_writing_leaves_the_old_checkpoint(tmp_path):
    """Killed at 12 moments of a loop that writes without pause: the newest valid step always loads."""
    program = (
        "import sys, torch\nfrom pathlib import Path\nfrom foundation.engine import checkpoint\n"
        "tensors = {'student': {'a': torch.randn(500_000)}}\n"
        f"root = Path({str(tmp_path)!r})\nstep = len(checkpoint.steps(root))\n"
        "while True:\n    step += 1\n    checkpoint.write(root, step, tensors, {'step': step})\n"
        "    checkpoint.prune(root, 2)\n    print(step, flush=True)\n"
    )
    for round_ in range(12):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(3):
            written = int(process.stdout.readline())
        time.sleep(0.003 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found, _ = checkpoint.newest(tmp_path)
        assert found is not None and int(found.name.removeprefix("step-")) >= written
        checkpoint.read(found)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
