"""Processes that save and load a sharded state together; a program of its own, so that each is a fork that has torch.

Called as ``sharded_ground.py PLAN``, a JSON file with a list of ``[processes, function, arguments]``. Prints a JSON
list of what the function gave in each process, for each line of the plan.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint
import torch.distributed.tensor
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from foundation.checkpoints import checkpoint, sharded
from foundation.checkpoints.reader import Reader
from foundation.checkpoints.saver import Config, Saver
from foundation.engine.agreement import check_agreement
from foundation.errors import FoundationError, PeerError
from foundation.parallel.blocks import block_of
from foundation.parallel.collective import gather_json
from foundation.parallel.process_group import process_group
from foundation.parallel.shards import is_sharded, local, whole
from foundation.schedules import Clock, Duration

SHAPES = {"seven": (7, 5), "one": (1,), "many": (16, 3, 2), "even": (12, 4), "none": (0, 4), "number": ()}
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64}


def value(group: str, key: str, step: int) -> Tensor:
    """What a tensor of the state holds at a step."""
    shape, kind = key.split("_")
    draw = torch.Generator().manual_seed(zlib.crc32(f"{group}/{key}".encode()) + step)
    return torch.randint(-100, 100, SHAPES[shape], generator=draw).to(KINDS[kind])


def expected(step: int) -> dict[str, dict[str, Tensor]]:
    """The state in a single process."""
    keys = [f"{shape}_{kind}" for shape in SHAPES for kind in KINDS]
    groups = {name: {key: value(name, key, step) for key in keys} for name in ("student", "optimizer")}
    return {**groups, "objectives": {"seven_float32": value("objectives", "seven_float32", step)}, "jobs": {}}


def state(mode: str, step: int) -> dict[str, dict[str, Tensor]]:
    """The same, spread over the processes: ``plain`` (each has all), ``fsdp`` or ``hsdp``."""
    groups = expected(step)
    if mode == "plain":
        return groups
    size = dist.get_world_size()
    if mode == "fsdp":
        mesh, placements = init_device_mesh("cpu", (size,)), (Shard(0),)
    else:
        mesh, placements = init_device_mesh("cpu", (2, size // 2)), (Replicate(), Shard(0))
    for name in ("student", "optimizer"):
        for key, tensor in groups[name].items():
            if tensor.ndim and tensor.numel():
                groups[name][key] = distribute_tensor(tensor, mesh, placements, src_data_rank=None)
    second = groups["student"]["many_float32"]
    if is_sharded(second):  # columns, as tensor parallelism has them
        columns = (*placements[:-1], Shard(1))
        groups["student"]["many_float32"] = distribute_tensor(value("student", "many_float32", step), mesh, columns)
    return groups


def saver(folder: str, said: list[str], **settings: Any) -> Saver:
    settings = {"every": Duration(10), "keep_last": 3} | settings
    return Saver(Path(folder), Config(**settings), Clock(1000, 100.0), said.append, timeout_seconds=60.0)


def scribble(groups: dict[str, dict[str, Tensor]]) -> None:
    """As the optimiser does while a checkpoint is being written."""
    for group in groups.values():
        for tensor in group.values():
            local(tensor).zero_()


def save(folder: str, mode: str, first: int, asynchronous: bool, count: int = 1) -> dict[str, Any]:
    """Save ``count`` steps from ``first`` on."""
    said: list[str] = []
    with saver(folder, said, asynchronous=asynchronous) as own:
        for step in range(first, first + 10 * count, 10):
            groups = state(mode, step)
            if mode != "plain" or dist.get_rank() == 0:
                own.save(step, groups, {"step": step})
            scribble(groups)
        own.wait()
    return {"newest": own.newest.name if own.newest else None, "said": said, "failure": repr(own.failure())}


def load(folder: str, mode: str, step: int) -> dict[str, Any]:
    """Load a step into a state that is spread by ``mode``; what differs, and how much was read of what is needed."""
    groups, read = state(mode, step + 1), 0
    slice_of = Reader._slice

    def counted(self: Reader, *arguments: Any) -> Tensor:
        nonlocal read
        part = slice_of(self, *arguments)
        read += part.nbytes
        return part

    Reader._slice = counted  # type: ignore[method-assign]
    found = checkpoint.read_for(Path(folder) / checkpoint.name_of(step), groups)
    Reader._slice = slice_of  # type: ignore[method-assign]
    needed = sum(block_of(tensor).tensor.nbytes for group in groups.values() for tensor in group.values())
    wanted, wrong = expected(step), []
    for name, group in groups.items():
        for key, tensor in group.items():
            other = found[name][key]
            alike = is_sharded(other) == is_sharded(tensor) and other.dtype == tensor.dtype
            if not (alike and torch.equal(whole(other), wanted[name][key])):
                wrong.append(f"{name}/{key}")
    return {"wrong": wrong, "read": read, "needed": needed}


def fail(folder: str, policy: str) -> dict[str, Any]:
    """Save once, then with no room on process 1, then with room again."""
    said: list[str] = []
    facts: dict[str, Any] = {}
    with saver(folder, said, when_disk_full=policy) as own:
        own.save(10, state("fsdp", 10), {"step": 10}, wait=True)
        if dist.get_rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        own.save(20, state("fsdp", 20), {"step": 20})
        own.settle()
        failure = own.failure()
        facts["failure"] = None if failure is None else str(failure)
        facts["newest"], facts["has"] = own.newest.name if own.newest else None, own.has(20)
        dist.barrier()  # process 0 has removed what was half-written
        facts["there"] = sorted(path.name for path in Path(folder).iterdir())
        try:
            own.save(20, state("fsdp", 20), {"step": 20}, wait=True)
            facts["waited"] = None
        except FoundationError as error:
            facts["waited"] = [str(error), error.exit_code]
        dist.barrier()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        own.save(20, state("fsdp", 20), {"step": 20}, wait=True)
        facts["at last"] = own.newest.name if own.newest else None
    return facts | {"said": said}


def apart(folder: str) -> str | None:
    """Save where process 1 sees another disk under the same name; what is said, or None where that cannot be had."""
    sharded._VISIBLE_SECONDS, said, private = 0.5, list[str](), True
    if dist.get_rank() == 1:
        library, new_mounts = ctypes.CDLL(None), 0x20000
        private = library.unshare(new_mounts) == 0
        for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "tmpfs", folder]):
            private = private and subprocess.run(["mount", *words], capture_output=True).returncode == 0
    if not all(gather_json(private)):
        return None
    with saver(folder, said) as own:
        try:
            own.save(10, state("fsdp", 10), {"step": 10}, wait=True)
        except FoundationError as error:
            return str(error)
    return "saved"


def goes_on(folder: str) -> None:
    """Save one step after the other without end; ends when another process does."""
    said: list[str] = []
    with saver(folder, said) as own:
        found: list[Any] = [own.recover() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(found)
        own.know(found[0])
        mesh, step = init_device_mesh("cpu", (dist.get_world_size(),)), 0
        if found[0] is not None:
            step = checkpoint.step_of(found[0])
        while True:
            step += 1
            whole = torch.full((800_000,), float(step))
            groups = {name: {"a": distribute_tensor(whole, mesh, (Shard(0),))} for name in ("student", "optimizer")}
            own.save(step, groups, {"step": step})
            assert own.failure() is None
            dist.barrier()


def killed(folder: str, kills: int, size: int = 2) -> list[dict[str, Any]]:
    """Kill one of the processes that :func:`goes_on`, again and again; what is there then, and who ended how."""
    draw, facts = random.Random(0), []
    for number in range(kills):
        port, children = free_port(), list[int]()
        try:
            for rank in range(size):
                children.append(forked(size, rank, port, "goes_on", [folder], Path(os.devnull)))
            wanted, until, seen = draw.random() * 2 * 4 * 800_000, time.monotonic() + 60, set[str]()
            while time.monotonic() < until:
                names, bytes_written = being_written(Path(folder))
                seen |= names
                if len(seen) > 1 and bytes_written > wanted:  # not the first save: there is one to go back to
                    break
                time.sleep(0.0002)
            os.kill(children[number % size], signal.SIGKILL)
            until = time.monotonic() + 60
            exits = [ended(child, until) for child in children]
        finally:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        left = sorted(path.name for path in Path(folder).glob("*.tmp-*"))
        newest, skipped = checkpoint.newest(Path(folder))
        fact = {"victim": number % size, "exits": exits, "left": left, "skipped": [str(one) for one in skipped]}
        if newest is not None:
            tensors, numbers = checkpoint.read(newest)
            fact["right"] = all(bool((group["a"] == numbers["step"]).all()) for group in tensors.values())
            fact["step"] = numbers["step"]
        facts.append(fact)
    return facts


def ended(child: int, until: float) -> int | None:
    """How a process ended; None when it had not by then."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def being_written(root: Path) -> tuple[set[str], int]:
    """Folders under temporary names, and the bytes in them."""
    names, total = set(), 0
    for name in os.listdir(root) if root.is_dir() else ():
        if name.startswith("step-") and ".tmp-" in name:
            names.add(name)
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                total += sum(entry.stat().st_size for entry in os.scandir(root / name))
    return names, total


def disagree(mode: str, culprit: int) -> list[str | None]:
    """What is said when a process holds another number in a shard, and in a plain tensor."""
    found: list[str | None] = []
    for key in ("even_float32", "number_float32"):
        groups = state(mode, 1)
        if dist.get_rank() == culprit:
            local(groups["student"][key]).add_(1)
        try:
            check_agreement(groups, 1)
            found.append(None)
        except FoundationError as error:
            found.append(str(error))
    return found


def run(size: int, rank: int, port: int, function: str, arguments: list[Any], answer: Path) -> None:
    """In a process of its own: join the others, call the function, leave what it gives in a file."""
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group("cpu", 60.0):
        answer.write_text(json.dumps(globals()[function](*arguments)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forked(size: int, rank: int, port: int, function: str, arguments: list[Any], answer: Path) -> int:
    """Start a process that calls :func:`run`; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run(size, rank, port, function, arguments, answer)
        code = 0
    except PeerError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def together(size: int, function: str, arguments: list[Any]) -> list[Any]:
    """Call a function in so many processes that find each other; without any in this one."""
    if not size:
        return globals()[function](*arguments)  # type: ignore[no-any-return]
    with tempfile.TemporaryDirectory() as folder:
        answers, port = [Path(folder) / str(rank) for rank in range(size)], free_port()
        for child in [forked(size, rank, port, function, arguments, answer) for rank, answer in enumerate(answers)]:
            os.waitpid(child, 0)
        return [json.loads(answer.read_text()) if answer.exists() else None for answer in answers]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([together(*line) for line in json.loads(Path(sys.argv[1]).read_text())]))
