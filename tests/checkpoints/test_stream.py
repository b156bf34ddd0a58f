"""A file of tensors written one by one: the bytes of safetensors, and the memory of one tensor."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from foundation.checkpoints import checkpoint, stream
from foundation.errors import UserError
from foundation.weights import DTYPES

TENSORS = {
    **{f"kind.{name}": torch.arange(6).reshape(2, 3).to(kind) for kind, name in DTYPES.items()},
    "number": torch.tensor(1.5),
    "none": torch.zeros(0, 4),
    'quote " and ä': torch.ones(3, dtype=torch.bfloat16),
    "turned": torch.arange(12.0).reshape(3, 4).T,
}


def test_the_bytes_are_those_of_safetensors(tmp_path):
    asked: list[str] = []

    def read(key: str) -> torch.Tensor:
        asked.append(key)
        return TENSORS[key]

    like = {key: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for key, tensor in TENSORS.items()}
    digest = stream.write(tmp_path / "new" / "a.safetensors", like, read)
    wanted = save({key: tensor.contiguous() for key, tensor in TENSORS.items()})
    assert (tmp_path / "new" / "a.safetensors").read_bytes() == wanted
    assert digest == hashlib.sha256(wanted).hexdigest()
    assert sorted(asked) == sorted(TENSORS), "each is asked for once"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_a_file_that_cannot_be_written_keeps_no_other_process_waiting(tmp_path):
    """Others take part in the reading of every tensor, whether process 0 has room or not."""
    asked: list[str] = []

    def read(key: str) -> torch.Tensor:
        asked.append(key)
        return TENSORS[key]

    (tmp_path / "taken").write_text("no folder")
    with pytest.raises(OSError, match="taken"):
        stream.write(tmp_path / "taken" / "a.safetensors", TENSORS, read)
    assert sorted(asked) == sorted(TENSORS)
    asked.clear()
    assert stream.write(None, TENSORS, read) == "" and sorted(asked) == sorted(TENSORS)


def test_a_tensor_that_cannot_be_read_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    stream.write(path, TENSORS, TENSORS.__getitem__)
    before = path.read_bytes()

    def read(key: str) -> torch.Tensor:
        raise UserError("checkpoint step-00000001 cannot be used")

    with pytest.raises(UserError, match="step-00000001"):
        stream.write(path, TENSORS, read)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


PROGRAM = """
import sys, torch
from pathlib import Path
from foundation.checkpoints import checkpoint, stream

def anonymous():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024

folder, out = map(Path, sys.argv[1:])
with checkpoint.Reader(folder) as reader:
    like = {key: reader.like("student", key) for key in reader.contents["student"]}
    reader.tensor("student", "0")
    before, most = anonymous(), 0

    def read(key):
        global most
        tensor = reader.tensor("student", key)
        most = max(most, anonymous() - before)
        return tensor

    stream.write(out, like, read)
print(max(most, anonymous() - before))
"""


def test_no_more_than_a_tensor_is_in_memory(tmp_path):
    size = 4 << 20
    tensors = {str(number): torch.full((size // 4,), float(number)) for number in range(32)}
    folder = checkpoint.write(tmp_path, 1, {"student": tensors}, {})
    arguments = [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path / "out.safetensors")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.safetensors").read_bytes() == save(tensors)
    assert int(done.stdout) < 4 * size, "of 32 tensors of this size"
