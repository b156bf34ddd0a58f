"""Clusters, launches and the run that all disturbed ones are compared with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RECIPE
from tests.slurm.lab import Lab, missing

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
SECONDS = 240.0
"""Longest wait for anything: other programs may use the processors as well."""


@pytest.fixture(scope="session", autouse=True)
def _needs_slurm() -> None:
    if reason := missing():
        pytest.skip(reason)
    pytest.importorskip("submitit", reason="needs the extra 'cluster'")


def _free_ports(first: int) -> int:
    """The first of ten ports that nothing uses, such as a cluster that a killed test has left."""
    for port in range(first, first + 10000, 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for one in range(port, port + 10):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", one))
            return port
    raise RuntimeError(f"no ten free ports from {first} on")


def _lab(number: int, **settings: Any) -> Iterator[Lab]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets lie in it
    lab = Lab(folder, port=_free_ports(17000 + 40 * int(worker) + 10 * number), **settings)
    try:
        yield lab.up()
    finally:
        lab.down()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two nodes; a job that is preempted gets the signal that it asked for."""
    yield from _lab(0)


@pytest.fixture(scope="session")
def rough_lab() -> Iterator[Lab]:
    """Two nodes; at a preemption only TERM comes, as SLURM does by default, and a silent node is soon down."""
    yield from _lab(1, user_signal=False, silent_seconds=10)


@pytest.fixture(scope="session")
def recipe(tiny_shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe whose steps can be slowed down."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    text = RECIPE.format(shards=tiny_shards).replace("length: 8 steps", f"length: {STEPS} steps")
    path.write_text(f"{text}jobs:\n  - {{name: tests.slurm.pause, every: 1 steps}}\n")
    return path


def environment(**further: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | further


@pytest.fixture(scope="session")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Figures of the run in two processes that nothing happens to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    words = ["-m", "foundation", "pretrain", str(recipe), "--run", str(run), "--processes", "2"]
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment())
    return learnt(run)


def learnt(run: Path) -> list[dict[str, Any]]:
    """What a run has logged, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss", "gradient/", "schedule/", "dino/", "ibot/", "koleo/")
    return [{key: value for key, value in line.items() if key.startswith(kept)} for line in lines if "loss" in line]


class Launched:
    """Jobs of one launch, looked at from outside."""

    def __init__(self, lab: Lab, root: Path, said: str) -> None:
        self.lab, self.root, self.said = lab, root, said
        self.folder = sorted((root / "jobs").iterdir())[-1]
        self.launch = json.loads((self.folder / "launch.json").read_text())
        self.ids = [job["id"] for job in self.launch["jobs"]]
        self.job = self.ids[0]

    def wait(self, ready: Callable[[], object], what: str) -> None:
        """Until something is so."""
        end = time.monotonic() + SECONDS
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*_log.out")))
                queue = self.lab.run("scontrol", "-o", "show", "job", self.job, check=False)
                pytest.fail(f"not {what}; the queue: {queue}\nlogs: {logs}")
            time.sleep(0.1)

    def step(self, run: Path | None = None) -> int:
        """Last step that is logged."""
        try:
            lines = ((run or self.root) / "metrics.jsonl").read_text().splitlines()
            return int(json.loads(lines[-1])["step"]) if lines else 0
        except (FileNotFoundError, ValueError):
            return 0

    def started(self, step: int = 2) -> None:
        """Until some steps are done."""
        self.wait(lambda: self.step() >= step, f"at step {step}")

    def show(self) -> list[dict[str, Any]]:
        """``foundation jobs --json``."""
        return json.loads(foundation("jobs", str(self.root), "--json", lab=self.lab).stdout)

    def state(self) -> str:
        """Of the job, in the queue's words."""
        text = self.lab.run("scontrol", "-o", "show", "job", self.job)
        return text.partition("JobState=")[2].split()[0]

    def ended(self, state: str = "COMPLETED") -> None:
        """Until the job has ended so."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait(lambda: self.state() in over, "ended")
        assert self.state() == state, self.log()

    def log(self, rank: int = 0) -> str:
        """Output of a process, over all starts."""
        return (self.folder / f"{self.job}_{rank}_log.out").read_text()

    def ends(self) -> list[dict[str, Any]]:
        """What was done at the end of each start."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{self.job}_start*_end.json"))]


def foundation(
    *words: str, lab: Lab | None = None, code: int | None = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command, as a user of a cluster gives it."""
    cluster = {} if lab is None else {name: lab.environment[name] for name in ("SLURM_CONF", "PATH")}
    done = subprocess.run(
        [sys.executable, "-m", "foundation", *words],
        capture_output=True, text=True, timeout=SECONDS, env=environment(**cluster, **variables),
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def launch(recipe: Path, tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """``launch(lab, "--nodes", "2", pause=0.2)``: the small recipe as a job."""
    begun: list[Launched] = []

    def begin(lab: Lab, *words: str, pause: float = 0.0, run: Path | None = None, what: Path | None = None) -> Launched:
        root = run or tmp_path / "run"
        # As if given in an interactive job, whose variables must not reach the new one.
        of_another_job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "7", "SLURM_CPUS_PER_TASK": "90", "RANK": "3"}
        given = ("launch", str(what or recipe), "--on", "slurm", "--run", str(root), *words)
        done = foundation(*given, lab=lab, TEST_PAUSE=str(pause), **of_another_job)
        begun.append(Launched(lab, root, done.stdout))
        return begun[-1]

    yield begin
    for launched in begun:
        for job in launched.ids:
            launched.lab.run("scancel", "--full", "-s", "KILL", job, check=False)
            launched.lab.run("scancel", job, check=False)
        launched.wait(lambda one=launched: not one.lab.run("squeue", "-h", "-j", one.job, check=False).strip(), "gone")
        shutil.rmtree(launched.folder / "code", ignore_errors=True)
