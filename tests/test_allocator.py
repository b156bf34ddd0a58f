"""What a command does to its own process before it works: the memory it keeps, the modules it does not load."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from foundation import allocator

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


@pytest.mark.parametrize(
    ("variable", "value", "theirs"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072", True),
        ("MALLOC_TOP_PAD_", "0", True),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2:glibc.malloc.mmap_max=4", True),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2", False),
        ("MALLOC_ARENA_MAX", "2", False),
        ("MALLOC_PERTURB_", "85", False),
    ],
)
def test_only_limits_that_the_user_has_set_are_the_users(variable, value, theirs, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, value)
    assert allocator._chosen_by_user() == theirs
    assert not theirs or not allocator.keep_freed_memory()


def test_a_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator, "_is_glibc", lambda: True)
    monkeypatch.setattr(allocator, "_chosen_by_user", lambda: False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory() and not allocator.give_freed_memory_back()


CHILDREN = """
import json, multiprocessing, resource, sys
from foundation.allocator import give_freed_memory_back, keep_freed_memory

def faults():
    for _ in range(1):
        bytearray(b"x") * 2**26
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        bytearray(b"x") * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def child(queue):
    first = faults()
    given = give_freed_memory_back()
    queue.put([first, given, faults()])

if __name__ == "__main__":
    assert keep_freed_memory()
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(json.dumps([faults(), *queue.get(timeout=60)]))
    process.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_either_kind_give_back_and_do_not_change_their_parent(method, tmp_path):
    (tmp_path / "children.py").write_text(CHILDREN)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, str(tmp_path / "children.py"), method]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    parent, first, given, after = json.loads(done.stdout)
    each = 2 * 2**26 // 4096  # pages of two blocks of 64 MiB
    assert parent < each / 10 and given and after > each / 2
    assert (first < each / 10) == (method == "fork")
