"""Runs of several processes, one after another; a program of its own, so that each process is a fork that has torch.

Called as ``many_runs.py PLAN``, a JSON file with a list of ``[processes, ["pretrain", ...], log]``. Prints a JSON list
of the exit codes of all processes of each run.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import torch._dynamo
import torch.utils.tensorboard  # noqa: F401

from foundation.cli import main
from foundation.run import trainer  # noqa: F401


def start(words: list[str], log: str, environment: dict[str, str]) -> int:
    """Fork a process that runs a command; returns the process number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        code = main(words)
    finally:
        sys.stdout.flush()
        os._exit(code)


def together(processes: int, words: list[str], log: str) -> list[int]:
    """Run a command in processes that find each other; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids = [
        start(words, log, place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        for rank in range(processes)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    print(json.dumps([together(*run) for run in json.loads(Path(sys.argv[1]).read_text())]))
