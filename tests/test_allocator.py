"""What a command does to its own process before it works: the memory it keeps, the modules it does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
from foundation.cli import main
code = main(sys.argv[1:])
dynamo = "torch._dynamo" in sys.modules
import torch
torch.set_num_threads(1)
def faults(elements=2**22):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(elements)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
found = {"code": code, "dynamo": dynamo, "faults": faults()}
from foundation.allocator import give_freed_memory_back
give_freed_memory_back()
faults(2**24)
print(json.dumps(found | {"as_a_worker": faults(2**24)}))
"""


def after(words: list[str], **environment: str) -> dict:
    """What is so in the process of a command when the command has ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_training_keeps_freed_memory_and_does_not_load_torchs_compiler(tiny_recipe_file, tmp_path):
    words = [
        "pretrain",
        str(tiny_recipe_file),
        "train.length=3 steps",
        "data.workers=0",
        "--run",
        str(tmp_path / "run"),
    ]
    found = after(words)
    assert found["code"] == 0 and not found["dynamo"]
    assert found["faults"] < 100  # by default each of the 8 tensors of 16 MiB costs 4,096 page faults
    assert found["as_a_worker"] > 8 * 16000  # a loader worker gives tensors of 64 MiB back


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_users_own_malloc_settings_stay():
    assert after(["recipes", "list"], MALLOC_MMAP_THRESHOLD_="131072")["faults"] > 8 * 4000
