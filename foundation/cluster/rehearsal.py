"""Whether a run could begin, found out before its job waits in a queue: the dry run, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.cluster.environment import stale
from foundation.errors import UserError
from foundation.redact import redact
from foundation.search_path import FIND

_PROGRAM = (
    "import json, sys\n"
    "from foundation.cli import main\n"
    "for words in json.loads(sys.argv[1]):\n"
    "    code = main(words)\n"
    "    if code:\n"
    "        sys.exit(code)\n"
)


@dataclass(frozen=True)
class Rehearsed:
    """What the dry runs said.

    Attributes:
        shown: steps, parameters and memory of the first run, for a person.
        warnings: of all.
    """

    shown: str
    warnings: tuple[str, ...]


def rehearse(runs: Sequence[Sequence[str]], code: Path | None) -> Rehearsed:
    """Build each run without data, weights or a step, from the very code that its job will use.

    Args:
        runs: words of ``foundation pretrain`` for each.
        code: folder in front of Python's path; None: the code of this process.

    Raises:
        UserError: a run could not begin; with its message, which names file, line and key.
    """
    words = [[*run, "--dry-run"] for run in runs]
    path = os.pathsep.join([str(code), *_entries()]) if code else os.environ.get("PYTHONPATH", "")
    program = f"{FIND}\n{_PROGRAM}" if code is None else _PROGRAM
    left_out = stale(os.environ)
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "110"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, json.dumps(words)], capture_output=True, text=True, env=environment
    )
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        message = "\n".join(said).removeprefix("foundation: ") or f"exit code {done.returncode}"
        raise UserError(redact(f"nothing was submitted: the run could not begin. {message}"))
    return Rehearsed(done.stdout.rstrip(), tuple(dict.fromkeys(said)))


def _entries() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
