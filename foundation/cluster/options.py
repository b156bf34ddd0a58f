"""What a job asks the machine or the cluster for: one dataclass for the command line and for profiles."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from foundation import config
from foundation.errors import UserError
from foundation.paths import bundled, near_path
from foundation.plugins import near
from foundation.printable import printable
from foundation.ranges import Count, CountOrNone, Range, check

Nodes: TypeAlias = Annotated[int, Range(1, 65536)]
"""Machines of one job."""
GPUs: TypeAlias = Annotated[int, Range(0, 64)]
"""GPUs of one machine; 0: none."""
Tasks: TypeAlias = Annotated[int, Range(1, 1024)]
"""Processes on one machine."""
SignalSeconds: TypeAlias = Annotated[int, Range(10, 65535)]
"""Lead of the signal before the time limit; SLURM knows 65535 at most."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
_MEMORY = re.compile(r"\d+(\.\d+)?\s*([KMGT]B?)?", re.IGNORECASE)

_DIRECTIVES = ("#SBATCH", "#PBS", "#BSUB")
_ONE_PROCESS = "a process for each GPU is started, use --gpus-per-node, or --tasks-per-node without GPUs"
_LOGS = "the output is kept beside the run, 'foundation jobs logs' shows it"
_ANSWER = "its answer is read for the number of the job"
_OWN = {
    "array": "use --sweep and --array-parallelism",
    "output": _LOGS,
    "error": _LOGS,
    "open-mode": _LOGS,
    "input": "the processes read none",
    "signal": "use --signal-seconds",
    "nodes": "use --nodes",
    "ntasks": _ONE_PROCESS,
    "ntasks-per-node": _ONE_PROCESS,
    "ntasks-per-gpu": _ONE_PROCESS,
    "tasks-per-node": _ONE_PROCESS,
    "gpus": "use --gpus-per-node",
    "gpus-per-node": "use --gpus-per-node",
    "gpus-per-task": "use --gpus-per-node",
    "cpus-per-task": "use --cpus-per-task",
    "mem": "use --mem",
    "time": "use --time",
    "partition": "use --partition",
    "account": "use --account",
    "qos": "use --qos",
    "constraint": "use --constraint",
    "exclude": "use --exclude",
    "requeue": "use --retries",
    "no-requeue": "use --retries 0",
    "job-name": "it is the name of the run folder, use --run",
    "chdir": "give the command in that folder",
    "wrap": "the script is that of the run",
    "wait": "use --wait",
    "parsable": _ANSWER,
    "quiet": _ANSWER,
    "test-only": "use --dry-run",
    "help": "see 'sbatch --help'",
    "usage": "see 'sbatch --help'",
    "version": "see 'sbatch --version'",
}
"""Options of sbatch that are set by a launch, or would keep it from working, and what to use in their place."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Resources of one job, and how it is run. The keys of a profile are these."""

    on: Literal["local", "slurm"] = "local"
    """``local``: processes on this machine, in the background; ``slurm``: a job of the cluster."""
    nodes: Nodes = 1
    """Machines."""
    gpus_per_node: GPUs = 0
    """GPUs of each; every GPU gets one process."""
    tasks_per_node: Tasks | None = None
    """Processes on each machine; None: one for each GPU, or one where there are none."""
    cpus_per_task: Count | None = None
    """Processor cores of each process: its loader workers and one more."""
    mem: str | None = None
    """Memory of each machine, such as ``64GB``; None: what the cluster gives."""
    time: str | None = None
    """Time limit, as SLURM writes it: minutes, ``MM:SS``, ``HH:MM:SS``, ``D-HH`` or ``D-HH:MM:SS``. A job that reaches
    it saves, is queued again and goes on. None: what the cluster gives."""
    partition: str | None = None
    """Partition of the cluster."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have, such as ``h100``."""
    exclude: str | None = None
    """Nodes that must not be used, such as ``n[3-5]``."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Further options of sbatch without their dashes, such as ``reservation: spring``."""
    setup: tuple[str, ...] = ()
    """Lines of shell in front of the run, such as ``module load cuda``."""
    array_parallelism: Count = 256
    """Runs of a sweep that may be going on at the same time."""
    signal_seconds: SignalSeconds = 120
    """Seconds before the time limit at which the run is asked to save."""
    retries: CountOrNone = 3
    """How often a run that was lost (a process killed, a connection broken) is queued again without having got any
    further. A time limit and a preemption do not count, a mistake in the recipe is never tried again."""

    def __post_init__(self) -> None:
        check(self, "launch")
        if self.time is not None:
            minutes(self.time)
        if self.mem is not None and not _MEMORY.fullmatch(self.mem):
            raise UserError(f"mem: {self.mem!r} is no size of memory: write 64GB or 500MB")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise UserError(
                f"tasks_per_node is {self.tasks_per_node} and gpus_per_node {self.gpus_per_node}: each GPU gets one "
                "process, so leave out tasks_per_node"
            )
        if self.on == "local" and self.nodes > 1:
            raise UserError(f"nodes is {self.nodes}, and this machine is one: leave it out, or use on=slurm")
        if self.on == "local" and (self.setup or self.sbatch):
            raise UserError("setup and sbatch are for a cluster: on this machine, do it in the shell before you launch")
        if self.time is not None and 2 * self.signal_seconds > 60 * minutes(self.time):
            raise UserError(
                f"signal_seconds is {self.signal_seconds} and the time limit {self.time}: the run would be asked to "
                "save in the first half of its time. Raise time, or lower signal_seconds"
            )
        for option, value in vars(self).items():
            if isinstance(value, str):
                require_plain(value, option)
        for line in self.setup:
            require_plain(line.replace("\t", " "), "setup", "give each line on its own")
            if line.startswith(_DIRECTIVES):
                raise UserError(f"setup: {line!r} is no line of shell: options of sbatch stand under sbatch")
        for name, value in self.sbatch.items():
            require_plain(name, "sbatch")
            require_plain(value, f"sbatch {name}")
            _require_free(name)

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return self.nodes * self.tasks


def require_plain(text: str, option: str, advice: str = "leave it out") -> None:
    """Refuse what would begin a line of its own in a batch script, or cannot be written there.

    Args:
        text: value that gets into the script.
        option: whose value it is, for the message.
        advice: what to do.

    Raises:
        UserError: it has a control character, such as a line break, or is no text that UTF-8 can write.
    """
    for sign in text:
        if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp"):
            raise UserError(
                f"{option}: {printable(text)} has a character that no batch script takes "
                f"({sign.encode('unicode_escape').decode()}): {advice}"
            )


def _require_free(name: str) -> None:
    """Refuse a further option of sbatch that is no name, or that a launch sets. sbatch takes the beginning of a name
    for the whole."""
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise UserError(f"sbatch: {name!r} is no option of sbatch: write its long name without dashes")
    for option, instead in _OWN.items():
        if option.startswith(name):
            raise UserError(f"sbatch: {option} is set by foundation launch: {instead}")


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up.

    Args:
        text: minutes, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` or ``D-HH:MM:SS``.

    Raises:
        UserError: it is none of these, or nothing.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise UserError(f"time: {text!r} is no time limit: write 90 (minutes), 24:00:00 or 2-12:00:00")
    given = [int(part) for part in found.group("first", "second", "third") if part is not None]
    if found["days"] is not None:
        hours, minute, second = (*given, 0, 0)[:3]
        seconds = ((int(found["days"]) * 24 + hours) * 60 + minute) * 60 + second
    elif len(given) == 3:
        seconds = (given[0] * 60 + given[1]) * 60 + given[2]
    else:
        seconds = given[0] * 60 + (given[1] if len(given) > 1 else 0)
    if seconds == 0:
        raise UserError(f"time: {text!r} is no time at all")
    return -(-seconds // 60)


def profiles() -> dict[str, Path]:
    """The shipped profiles by name."""
    folder = bundled("launchers") / "profiles"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def profile(name_or_path: str) -> Options:
    """Read a profile.

    Args:
        name_or_path: name of a shipped one, or path of a YAML file of one's own.

    Raises:
        UserError: there is none, or it has mistakes: all of them, with their lines.
    """
    path = profiles().get(name_or_path, Path(name_or_path))
    if not path.is_file():
        similar = near(path.stem, profiles()) or near_path(path)
        raise UserError(
            f"no profile {name_or_path!r}{similar} (shipped: {', '.join(profiles())}; or give the path of a YAML file)"
        )
    return config.load(Options, path)


def merged(base: Options, given: dict[str, Any]) -> Options:
    """A profile under what the command line says: that wins, and what both have of ``sbatch`` and ``setup`` is joined.

    Args:
        base: of the profile.
        given: fields by name; None: not given.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if "sbatch" in values:
        values["sbatch"] = base.sbatch | values["sbatch"]
    if "setup" in values:
        values["setup"] = (*base.setup, *values["setup"])
    return replace(base, **values)
