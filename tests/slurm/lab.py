"""A real SLURM cluster on one Linux machine, for tests: munged, slurmctld and some slurmd, without systemd and cgroups.

``python tests/slurm/lab.py up|down FOLDER`` brings one up to play with, and says what to export.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")
PACKAGES = "munge, slurmctld, slurmd and slurm-client of Debian or Ubuntu"
_LONGEST = 75  # characters of the folder's name: sockets lie in it
_UP_SECONDS, _DOWN_SECONDS = 30.0, 5.0
_SYSTEM = "/usr/sbin:/sbin"


def missing() -> str | None:
    """Why there can be no cluster on this machine; None where there can."""
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM}"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"{', '.join(absent)} not found: install {PACKAGES}"
    return None if sys.platform == "linux" else "SLURM needs Linux"


@dataclass
class Lab:
    """One cluster.

    Attributes:
        folder: all of it lies there.
        port: of the controller; the nodes have the next ones.
        nodes: how many, ``n1`` ...
        user_signal: at a preemption SLURM sends the signal of ``--signal`` as well (``preempt_send_user_signal``).
        silent_seconds: after which a node that says nothing is down.
    """

    folder: Path
    port: int
    nodes: int = 2
    user_signal: bool = True
    silent_seconds: int = 300

    @property
    def first_job(self) -> int:
        """Number of the first job: another one each time, and such that the ports at which processes of one job meet,
        which follow from its number, are not those of a cluster that stands beside this one."""
        seconds, cluster = int(time.time()), self.port // 10 % 20
        return seconds % 5000 * 12000 + cluster * 600 + seconds % 20 * 20 + 1

    @property
    def environment(self) -> dict[str, str]:
        """For commands of SLURM."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{_SYSTEM}",
        }

    def run(self, *words: str, check: bool = True, seconds: float = 30.0) -> str:
        """Output of a command of SLURM."""
        done = subprocess.run(
            words, capture_output=True, text=True, env=self.environment, timeout=seconds, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    def up(self) -> Lab:
        """Start it, and wait until all nodes answer."""
        assert len(str(self.folder)) <= _LONGEST, f"{self.folder}: too long for a socket"
        self._configure()
        run = self.folder / "run"
        self._start(
            "munged", f"--key-file={run}/munge.key", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid",
            f"--log-file={self.folder}/log/munged.log", f"--seed-file={run}/munged.seed",
        )  # fmt: skip
        self._start("slurmctld", "-f", str(self.folder / "slurm.conf"))
        for number in range(1, self.nodes + 1):
            self.start_node(number)
        end = time.monotonic() + _UP_SECONDS
        while self._idle() < self.nodes:
            if time.monotonic() > end:
                logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in (self.folder / "log").glob("*.log"))
                self.down()
                raise RuntimeError(f"the cluster does not come up:\n{logs}")
            time.sleep(0.1)
        return self

    def _idle(self) -> int:
        try:
            return len(set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False, seconds=5).split()))
        except subprocess.TimeoutExpired:
            return 0

    def _start(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")

    def start_node(self, number: int) -> None:
        """Start a node, in a mount namespace whose hosts file knows all nodes, where mounting is allowed."""
        slurmd = f"slurmd -f '{self.folder}/slurm.conf' -N n{number}"
        inner = f"mount --bind '{self.folder}/hosts' /etc/hosts; exec {slurmd}"
        may = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
        words = ["unshare", "-m", "--propagation", "private", "sh", "-c", inner] if may else ["sh", "-c", slurmd]
        self._start(*words)

    def kill_node(self, number: int) -> None:
        """Let a node vanish, with all that runs on it."""
        node = f"n{number}"
        pids = [int((self.folder / "run" / f"slurmd-{node}.pid").read_text())]
        pids += [pid for pid, found in self._processes() if found.get("SLURMD_NODENAME") == node]
        pids += [pid for pid in self._steps(node)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def tasks(self, job: str, node: str | None = None) -> list[tuple[int, int]]:
        """Rank and process number of each task of a job; the batch script and srun call themselves rank 0 as well."""
        found = [
            (int(variables["SLURM_PROCID"]), pid)
            for pid, variables in self._processes()
            if variables.get("SLURM_JOB_ID") == job
            and "SLURM_PROCID" in variables
            and (node is None or variables.get("SLURMD_NODENAME") == node)
            and _parent(pid) == "slurmstepd"
            and b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return sorted(found)

    def _processes(self) -> list[tuple[int, dict[str, str]]]:
        """Processes of jobs of this cluster, with their variables."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                pairs = [item.partition("=") for item in path.read_text(errors="replace").split("\0")]
            except OSError:
                continue
            variables = {name: value for name, _, value in pairs}
            if variables.get("SLURM_CONF") == str(self.folder / "slurm.conf") and "SLURM_JOB_ID" in variables:
                found.append((int(path.parent.name), variables))
        return found

    def _steps(self, node: str = "") -> list[int]:
        """slurmstepd of this cluster, or of one node; they know their node by their command line or log alone."""
        spool = str(self.folder / "spool")
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if "slurmstepd" not in (path / "comm").read_text():
                    continue
                held = [os.readlink(link) for link in (path / "fd").iterdir()]
            except OSError:
                continue
            named = [target for target in held if target.startswith((spool, str(self.folder / "log")))]
            if any(node in target for target in named):
                found.append(int(path.name))
        return found

    def down(self) -> None:
        """End all of it, and remove the folder."""
        with contextlib.suppress(subprocess.TimeoutExpired, RuntimeError):
            for words in (
                ["scancel", "--full", "-s", "KILL", "-u", getpass.getuser()],
                ["scancel", "-u", getpass.getuser()],
            ):
                self.run(*words, check=False, seconds=5)
        pids = [int(path.read_text()) for path in (self.folder / "run").glob("*.pid") if path.read_text().strip()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _DOWN_SECONDS
        while time.monotonic() < end and any(_lives(pid) for pid in pids):
            time.sleep(0.05)
        for pid in [*pids, *(pid for pid, _ in self._processes()), *self._steps()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _configure(self) -> None:
        for name in ("run", "log", "spool/ctld"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "run" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        names = " ".join(f"n{number}" for number in range(1, self.nodes + 1))
        (self.folder / "hosts").write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {names}\n")
        host, user, listed = socket.gethostname().partition(".")[0], getpass.getuser(), f"n[1-{self.nodes}]"
        flag = "SlurmctldParameters=preempt_send_user_signal\n" if self.user_signal else ""
        (self.folder / "slurm.conf").write_text(
            f"""\
ClusterName=lab
FirstJobId={self.first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={self.port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a job that is queued again starts when its credential has expired: after 120 s by default
AuthInfo=socket={self.folder}/run/munge.sock,cred_expire=5
StateSaveLocation={self.folder}/spool/ctld
SlurmdSpoolDir={self.folder}/spool/%n
SlurmctldPidFile={self.folder}/run/slurmctld.pid
SlurmdPidFile={self.folder}/run/slurmd-%n.pid
SlurmctldLogFile={self.folder}/log/slurmctld.log
SlurmdLogFile={self.folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout={self.silent_seconds}
KillWait=10
MinJobAge=3600
EnforcePartLimits=ALL
SlurmdParameters=config_overrides
{flag}SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={listed} NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + 1}-{self.port + self.nodes} CPUs=16 \
RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes={listed} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes={listed} MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""
        )


def _parent(pid: int) -> str:
    """Name of the program that has started a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return Path(f"/proc/{status.partition('PPid:')[2].split()[0]}/comm").read_text().strip()
    except OSError:
        return ""


def _lives(pid: int) -> bool:
    """Whether a process lives; what nobody has collected yet (zombies) does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


if __name__ == "__main__":
    lab = Lab(Path(sys.argv[2]).resolve(), int(os.environ.get("LAB_PORT", "16817")))
    if sys.argv[1] == "down":
        lab.down()
    else:
        lab.up()
        print(f"export SLURM_CONF={lab.folder}/slurm.conf PATH=$PATH:{_SYSTEM}")
