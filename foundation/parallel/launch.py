"""Several processes of one run on this machine: started together, signalled together, ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from foundation.ctrl_c import INTERRUPTED
from foundation.errors import RequeueRequest
from foundation.lifeline import LAUNCHER_VARIABLE
from foundation.parallel.threads import processors
from foundation.search_path import START

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_FIRST_PORT, _LAST_PORT = 20000, 32000  # below the ports that Linux hands out by itself
_PATIENCE_SECONDS = 20.0  # the others notice a lost process by themselves; then they are asked to end, then killed
_SAVE_SECONDS = 3600.0
_IMPATIENT_SECONDS = 5.0  # for processes that were interrupted: there is nothing to save
_POLL_SECONDS = 0.05
_AGAIN = RequeueRequest.exit_code


def free_port(wanted: int, say: Callable[[str], None] = print) -> int:
    """The wanted port of this machine or, when it is taken, the next free one; says which."""
    for port in range(wanted, wanted + 1000):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != wanted:
            say(f"port {wanted} is taken; the processes meet at port {port}")
        return port
    raise OSError(f"no free port between {wanted} and {wanted + 1000}")


def job_port(job: str) -> int:
    """A port for a job, the same in all its processes, below those that the system hands out by itself."""
    number = int("".join(character for character in job if character.isdigit()) or 0)
    return _FIRST_PORT + number % (_LAST_PORT - _FIRST_PORT)


def run_processes(command: Sequence[str], count: int, say: Callable[[str], None] = print) -> int:
    """Run a command in several processes that find each other by environment variables, and wait for all.

    Args:
        command: the same for each; ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and
            ``MASTER_PORT`` differ or are set. Processors are shared out unless ``OMP_NUM_THREADS`` is set.
        count: number of processes.
        say: gets each line meant for a person.

    Returns:
        0 when all ended well; else the exit code of the one that failed first, 75 when that one was killed: the same
        command then goes on from the last checkpoint.
    """
    given = os.environ.get("MASTER_PORT")
    wanted = int(given) if given else job_port(str(os.getpid()))
    common = os.environ | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port(wanted, say if given else _nothing)),
        LAUNCHER_VARIABLE: str(os.getpid()),  # should this process be killed, they end with it
    }
    common.setdefault("OMP_NUM_THREADS", str(max(1, processors() // count)))
    children: list[subprocess.Popen[bytes]] = []
    stopping: list[int] = []

    def forward(number: int, _: object) -> None:
        stopping.append(number)
        _signal_all(children, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        for index in range(count):
            children.append(
                subprocess.Popen(list(command), env=common | {"RANK": str(index), "LOCAL_RANK": str(index)})
            )
            if stopping:  # asked before this one was in the list
                _signal_all(children, stopping[-1])
        return _wait(children, say)
    finally:
        _end(children, 1.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]], say: Callable[[str], None]) -> int:
    """Wait for all; the first to fail decides the exit code and ends the others."""
    while True:
        codes = [child.poll() for child in children]
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed is None:
            if all(code == 0 for code in codes):
                return 0
            time.sleep(_POLL_SECONDS)
            continue
        code = codes[failed]
        assert code is not None
        # Processes that were asked to stop wait for the save; one that died leaves the others waiting for nothing, and
        # so does one whom a person has asked to wait no longer.
        if code == INTERRUPTED:
            _end(children, _IMPATIENT_SECONDS, (None, signal.SIGKILL))
        else:
            _end(children, _SAVE_SECONDS if code == _AGAIN else _PATIENCE_SECONDS)
        if code == -signal.SIGINT:  # one press more, while it was ending
            return _AGAIN if _AGAIN in (child.poll() for child in children) else INTERRUPTED
        if code < 0:
            say(
                f"process {failed} of {len(children)} was killed by {signal.Signals(-code).name}; the others were "
                "stopped. The same command goes on from the last checkpoint"
            )
            return _AGAIN
        if code not in (_AGAIN, INTERRUPTED):
            say(f"process {failed} of {len(children)} failed first, with exit code {code}")
        return code


def _end(
    children: Sequence[subprocess.Popen[bytes]],
    patience: float,
    numbers: Sequence[signal.Signals | None] = (None, signal.SIGTERM, signal.SIGKILL),
) -> None:
    """Wait some seconds for all to end by themselves; then TERM, then KILL."""
    for number in numbers:
        if number is not None:
            _signal_all(children, number)
        deadline = time.monotonic() + patience
        while any(child.poll() is None for child in children):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return


def _signal_all(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _nothing(_: str) -> None:
    return


def again(arguments: Sequence[str]) -> list[str]:
    """The command line that runs ``foundation`` with these words in a process of its own.

    With ``-P``: modules are not looked for in the working directory.
    """
    return [sys.executable, "-P", "-c", START, *arguments]
