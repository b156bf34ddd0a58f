"""Runs that are ended again and again; a program of its own, so that each attempt is a fork with torch loaded already.

Called as ``killing_ground.py RECIPE FOLDER ENDS SEED MODE [key=value ...]``. MODE is ``steps`` (killed at random steps,
after a random delay), ``saves`` (killed while a checkpoint is being written), ``signals`` (TERM, INT and USR2 to all
processes of the run in turn, most times a second signal at once) or ``pair`` (two processes train together, and one of
them is killed at a random place of a step or a save). Prints one JSON line about each attempt.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch
import torch._dynamo
import torch.utils.tensorboard

from foundation.cli import main
from foundation.run import trainer  # noqa: F401

_GIVE_UP_SECONDS = 240
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def attempt(words: list[str], log: Path, environment: dict[str, str] | None = None) -> int:
    """Start a run in a process of its own; returns the process number."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.environ.update(environment or {})
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 1
    try:
        code = main(words)
    finally:
        sys.stdout.flush()
        os._exit(code)


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def being_written(folder: Path) -> bool:
    return any(".tmp-" in path.name for path in (folder / "checkpoints").glob("*"))


def open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def family_of(pid: int) -> set[int]:
    """A run and the processes that it has started, its loader workers among them."""
    try:
        return {pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())}
    except OSError:
        return {pid}


def in_shared_memory(family: set[int]) -> set[Path]:
    """Tensors of these processes; other tests may leave some at the same time."""
    return {path for path in Path("/dev/shm").glob("torch_*") if int(path.name.split("_")[1]) in family}


def strike(child: int, mode: str, number: int, draw: random.Random) -> None:
    """End the run and its workers, or ask them to end."""
    if mode != "signals":
        time.sleep(draw.random() * (0.03 if mode == "steps" else 0.004))
        os.killpg(child, signal.SIGKILL)
        return
    os.killpg(child, _SIGNALS[number % 3])
    if number % 4:
        time.sleep(draw.random() * 0.02)
        os.killpg(child, _SIGNALS[draw.randrange(3)])


def run(recipe: str, folder: Path, ends: int, seed: int, mode: str, overrides: list[str]) -> None:
    draw = random.Random(seed)
    words, left = ["pretrain", recipe, *overrides, "--run", str(folder)], set[Path]()
    for number in range(ends + 1):
        begin, seen, struck = steps_done(folder), 0, number == ends
        family, foreign = set[int](), set(Path("/dev/shm").glob("torch_*"))  # of a process that had the same number
        wanted = begin + draw.randint(1, 3)
        child = attempt(words, folder.with_suffix(".log"))
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while not (done := os.wait4(child, os.WNOHANG))[0]:
            seen, family = max(seen, open_files(child)), family | family_of(child)
            now = steps_done(folder)
            if not struck and (now > begin and being_written(folder) if mode == "saves" else now >= wanted):
                strike(child, mode, number, draw)
                struck = True
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGABRT)
            time.sleep(0.0005)
        facts = {"from": begin, "to": steps_done(folder), "exit": os.waitstatus_to_exitcode(done[1])}
        left = {path for path in left if path.exists()} | (in_shared_memory(family) - foreign)
        facts |= {"memory": done[2].ru_maxrss, "files": seen, "shared": len(left)}
        print(json.dumps(facts), flush=True)


def run_pair(recipe: str, folder: Path, ends: int, seed: int, overrides: list[str]) -> None:
    """Two processes that train together; one and the other is killed in turn, and the run is started again."""
    draw, words = random.Random(seed), ["pretrain", recipe, *overrides, "--run", str(folder)]
    for number in range(ends + 1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        children = [
            attempt(words, folder.with_suffix(".log"), place | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
        ]
        begin, deadline, exits = steps_done(folder), time.monotonic() + _GIVE_UP_SECONDS, [None, None]
        wanted, by_save = begin + draw.randint(1, 3), number % 2  # at a step, or while a checkpoint is being written
        struck = number == ends
        while None in exits:
            for rank, child in enumerate(children):
                if exits[rank] is None and (done := os.waitpid(child, os.WNOHANG))[0]:
                    exits[rank] = os.waitstatus_to_exitcode(done[1])
            now = steps_done(folder)
            if not struck and (now > begin and being_written(folder) if by_save else now >= wanted):
                time.sleep(draw.random() * (0.01 if by_save else 0.03))
                os.killpg(children[number // 2 % 2], signal.SIGKILL)
                struck = True
            if time.monotonic() > deadline:
                for child in (child for child, code in zip(children, exits, strict=True) if code is None):
                    os.killpg(child, signal.SIGABRT)
            time.sleep(0.0005)
        print(json.dumps({"from": begin, "to": steps_done(folder), "exit": exits}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe, folder, ends, seed, mode, *overrides = sys.argv[1:]
    if mode == "pair":
        run_pair(recipe, Path(folder), int(ends), int(seed), overrides)
        sys.exit()
    run(recipe, Path(folder), int(ends), int(seed), mode, overrides)
