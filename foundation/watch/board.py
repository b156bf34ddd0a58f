"""The runs below a folder, kept up to date from their files while somebody looks."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from foundation import config
from foundation.errors import FoundationError, UserError
from foundation.files import matching
from foundation.printable import printable
from foundation.probes.results import read_results
from foundation.redact import redact
from foundation.report import names
from foundation.run import runs
from foundation.run.lines import is_number
from foundation.watch.tail import MetricsTail

MOST_RUNS = 500
MOST_PROBLEMS = 5  # of a run that are said
_PERIOD = 1.0  # seconds between two looks at the files
_LOOKED_AT = 60.0  # seconds after the last request for which files are looked at
_SCAN_PERIOD, _SCAN_SHARE = 3.0, 0.05  # seconds between two searches for runs; share of the time that those may take
_FILES = ("recipe.yaml", "metrics.jsonl", "status.json", ".lock", runs.HEARTBEATS, "probes")
"""What of a run folder is read."""


@dataclass
class WatchedRun:
    """One run folder and what is known of it.

    Attributes:
        id: by which the page asks for it: no path.
        folder: of the run.
        place: below the watched folder, for a person.
        tail: its metrics.
        state: how it stands; None where it cannot be read.
        plain: values of its recipe.
        results: final figures of its probes by ``PROBE/FIGURE``.
        problems: what of its files is damaged or not read, with the reason.
    """

    id: str
    folder: Path
    place: str
    tail: MetricsTail
    state: runs.RunSummary | None = None
    plain: dict[str, Any] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _stamps: dict[str, Any] = field(default_factory=dict)
    _said: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As its recipe says."""
        return self.state.name if self.state is not None else self.folder.name

    @property
    def recipe_stamp(self) -> Any:
        """Changes whenever the recipe does."""
        return self._stamps.get("recipe")

    def refresh(self, root: Path, silent_after: float) -> bool:
        """Look at the files again.

        Returns:
            Whether all of the metrics have been read.
        """
        try:
            leading_out = link_out_of(root, self.folder)
            if leading_out is not None:
                self.state = None
                self.problems = [f"{leading_out} is a link that leads out of the watched folder: the run is not read"]
                return True
            ended = self.tail.read()
            self._read_recipe()
            self._read_results()
            self.state = runs.standing(self.folder, list(self.tail.last), self.plain, silent_after=silent_after)
            self.state.probes |= {
                key: curve.last for key, curve in self.tail.series.items()
                if key.startswith("probe/") and curve.last is not None
            }  # fmt: skip
            said = [*self.tail.problems, *self.state.unreadable, *self._said.get("recipe", []),
                    *self._said.get("results", [])]  # fmt: skip
        except (FoundationError, OSError) as error:  # one run never hides the others
            said, ended, self.state = [str(error)], True, None
        more = [f"and {len(said) - MOST_PROBLEMS} more"] if len(said) > MOST_PROBLEMS else []
        self.problems = [printable(redact(text))[:300] for text in said[:MOST_PROBLEMS]] + more
        return ended

    def _changed(self, what: str, stamp: Any) -> bool:
        if self._stamps.get(what) == stamp:
            return False
        self._stamps[what] = stamp
        self._said[what] = []
        return True

    def _read_recipe(self) -> None:
        path = self.folder / "recipe.yaml"
        if not self._changed("recipe", _stamp(path)):
            return
        try:
            self.plain = config.read_plain(path)
        except FileNotFoundError:
            self.plain = {}
        except UserError as error:
            self.plain, self._said["recipe"] = {}, [str(error)]

    def _read_results(self) -> None:
        files = matching(self.folder / "probes", "*.json")
        if not self._changed("results", [(path.name, _stamp(path)) for path in files]):
            return
        self.results = {}
        for result in read_results(self.folder / "probes", self._said["results"].append):
            metric = result.get("metric", "top1")
            rows = [row for row in result.get("results", ()) if row.get("name") == "model"]
            # Of the treatments and settings of one file the best, as in its table; of several files the newest.
            if rows:
                best = max(rows, key=lambda row: float(row[metric]) if is_number(row.get(metric)) else -1.0)
                self.results |= {f"{result['probe']}/{key}": float(v) for key, v in best.items() if is_number(v)}


class Board:
    """All runs below a folder.

    Args:
        root: the folder.
        silent_after: seconds without a sign of life after which a running run is called silent.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, root: Path, silent_after: float = runs.SILENT_AFTER) -> None:
        if not root.is_dir():
            raise UserError(f"no folder {root}")
        self.name = str(root)
        self.root = root.resolve()
        self.silent_after = silent_after
        self.lock = threading.RLock()
        """Held by whoever reads or changes what the runs hold."""
        self.problems: list[str] = []
        self._runs: dict[str, WatchedRun] = {}
        self._next_scan = 0.0
        self._asked = time.monotonic()
        self._wake = threading.Event()

    def start(self) -> None:
        """Keep up to date from now on, in a thread that ends with the process."""
        threading.Thread(target=self._keep, name="watch", daemon=True).start()

    def asked(self) -> None:
        """Somebody looks: the files are looked at for another minute."""
        with self.lock:
            idle = time.monotonic() - self._asked > _LOOKED_AT
            self._asked = time.monotonic()
        if idle:
            self.refresh()
            self._wake.set()

    def runs(self) -> list[WatchedRun]:
        """The runs, those that were started last first."""
        with self.lock:
            found = list(self._runs.values())
        return sorted(found, key=lambda run: (-(run.state.started or 0) if run.state else 0.0, run.place))

    def run(self, identifier: str) -> WatchedRun | None:
        """The run of an id."""
        with self.lock:
            return self._runs.get(identifier)

    def refresh(self) -> bool:
        """Look at all files once.

        Returns:
            Whether everything has been read.
        """
        if time.monotonic() >= self._next_scan:
            self._scan()
        ended = True
        for run in self.runs():
            with self.lock:
                ended &= run.refresh(self.root, self.silent_after)
        return ended

    def _keep(self) -> None:
        while True:
            with self.lock:
                idle = time.monotonic() - self._asked > _LOOKED_AT
            if idle:
                self._wake.wait()
                self._wake.clear()
            self._wake.wait(_PERIOD if self.refresh() else 0.01)

    def _scan(self) -> None:
        begun = time.monotonic()
        problems: list[str] = []
        try:
            folders = list(islice(runs.find(self.root), MOST_RUNS + 1))
        except (UserError, OSError) as error:
            folders, problems = [], [str(error)]
        if len(folders) > MOST_RUNS:
            problems.append(f"more than {MOST_RUNS} runs: the first {MOST_RUNS} by name are shown")
        found = {identifier_of(self.root, folder): folder for folder in folders[:MOST_RUNS]}
        with self.lock:
            self.problems = problems
            self._runs = {
                key: self._runs.get(key) or WatchedRun(
                    key, folder, _place(self.root, folder), MetricsTail(folder / "metrics.jsonl")
                )
                for key, folder in found.items()
            }  # fmt: skip
        now = time.monotonic()
        self._next_scan = now + max(_SCAN_PERIOD, (now - begun) / _SCAN_SHARE)


def identifier_of(root: Path, folder: Path) -> str:
    """Short id of a run folder, which says nothing of its path and stays the same."""
    return hashlib.blake2b(str(folder.relative_to(root)).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def link_out_of(root: Path, folder: Path) -> str | None:
    """The first part of a run folder that is a link to somewhere outside of a folder; None where there is none."""
    parts = [folder / name for name in _FILES]
    for name in (runs.HEARTBEATS, "probes"):
        parts += matching(folder / name, "*.json")
    for part in parts:
        if part.is_symlink() and not part.resolve().is_relative_to(root):
            return printable(part.relative_to(folder))
    return None


def listed(board: Board) -> dict[str, Any]:
    """All runs as JSON values: every text in it is printable, and a browser must still not read it as HTML."""
    found, figures = [], {}
    for run in board.runs():
        with board.lock:
            keys = list(run.tail.series)
            found.append({"id": run.id, "name": printable(run.name)[:200], "place": printable(run.place)[:300],
                          "read": round(run.tail.progress, 3), "problems": run.problems,
                          "series": keys, **_standing(run.state)})  # fmt: skip
        for key in keys:
            if key not in figures:
                kind = names.figure(key)
                figures[key] = {"title": kind.title, "axis": kind.axis, "percent": kind.percent, "zero": kind.zero}
    return {"folder": printable(board.name), "problems": [printable(text) for text in board.problems],
            "figures": figures, "runs": found}  # fmt: skip


def _standing(state: runs.RunSummary | None) -> dict[str, Any]:
    if state is None:
        return {"state": "unreadable"}
    texts = {"reason": state.reason, "stage": state.stage, "doing": state.doing, "host": state.host}
    return {
        "state": state.state, "step": state.step, "total": state.total, "loss": state.loss,
        "rate": state.samples_per_second, "left": state.seconds_left, "updated": state.updated,
        "started": state.started, "alarms": state.alarms, "probes": state.probes,
        **{key: None if text is None else printable(text)[:300] for key, text in texts.items()},
    }  # fmt: skip


def curves(run: WatchedRun, wanted: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Points of some curves of a run that a page has not yet got.

    Args:
        run: whose curves; its board's lock is held.
        wanted: names of the curves, each with the generation that the page has and from where it lacks points.

    Returns:
        By name: the generation, the index of the first point and the points.
    """
    found = {}
    for key, (generation, start) in wanted.items():
        curve = run.tail.series.get(key)
        if curve is not None:
            start = min(start, len(curve)) if generation == curve.generation else 0
            found[key] = {"generation": curve.generation, "start": start, **curve.points(start)}
    return {"run": run.id, "curves": found}


def _place(root: Path, folder: Path) -> str:
    return folder.name if folder == root else str(folder.relative_to(root))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)
