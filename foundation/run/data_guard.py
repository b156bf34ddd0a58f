"""The guard of the data: which samples of a run were bad, each counted once, and when there are too many of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foundation import schema
from foundation.errors import DataBudgetError
from foundation.parallel.collective import gather_json, on_first_rank, rank
from foundation.run.run_folder import RunFolder
from foundation.types import BadSample, Batch

_MOST_BYTES = 1 << 30
BAD_SAMPLES = "bad-samples.jsonl"
"""File of the run folder with every bad sample that the run has met, one line each."""


class DataGuard:
    """Knows the bad samples of a run, in all its processes alike.

    A sample is counted once however often the stream comes to it: in the eleventh epoch it is as bad as in the first.
    The list in the run folder outlives restarts, so that counts go on; process 0 writes it for all.

    Args:
        allowed: ``data.max_bad_samples``: a number of samples, or below 1 a share of all.
        samples: of all sources together.
        folder: the run folder.
        say: gets each line meant for a person.
        counts: times that the stream met a bad sample before a restart, by reason; for process 0 only.

    Attributes:
        counts: times that this process met one, by reason.
        limit: distinct bad samples that are tolerated.
    """

    def __init__(
        self,
        allowed: float,
        samples: int,
        folder: RunFolder,
        say: Callable[[str], None],
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.folder, self.say = folder, say
        self.counts: Counter[str] = Counter(counts or {})
        self.limit = int(allowed * samples) if 0 < allowed < 1 else int(allowed)
        self._allowed = f"{allowed:g} ({self.limit:,} of {samples:,} samples)" if 0 < allowed < 1 else f"{self.limit}"
        self._new: dict[int, BadSample] = {}
        self._latest = ""
        self._told: set[str] = set()
        self._unwritten: list[dict[str, object]] = []  # on a full disk: for the next time
        known: list[list[Any]] = on_first_rank(lambda: [list(pair) for pair in read(self._path).items()])
        self._known: dict[int, str] = {int(number): str(reason) for number, reason in known}

    @property
    def distinct(self) -> int:
        """Bad samples that the run has met, in all processes."""
        return len(self._known)

    def of_all(self) -> Counter[str]:
        """Times that all processes together met a bad sample, by reason; all call this together."""
        return sum((Counter(part) for part in gather_json(dict(self.counts))), Counter())

    def metrics(self) -> dict[str, float]:
        """Bad samples, and how often each reason made the stream leave one out; all processes call this together."""
        counts = self.of_all()
        reasons = {f"data/skipped/{reason}": float(count) for reason, count in sorted(counts.items())}
        return {"data/bad_samples": float(self.distinct), "data/skipped": float(counts.total()), **reasons}

    def see(self, batch: Batch) -> None:
        """Count a batch's bad samples; say what is odd about good ones, once for each reason."""
        self.counts.update(batch.skipped)
        for reason, text in batch.notes.items():
            if reason not in self._told:
                self._told.add(reason)
                self.say(f"note: {text} ({reason}; 'foundation data verify --decode' lists all of these)")
        for one in batch.bad:
            if one.number not in self._known:
                self._new.setdefault(one.number, one)

    def spend(self) -> None:
        """Agree with the other processes on what was found; all call this after a step in which any met a bad sample.

        Raises:
            DataBudgetError: more distinct samples are bad than the recipe allows.
        """
        found, self._new = [asdict(one) for one in self._new.values()], {}
        for part in gather_json(found):
            for values in part:
                one = BadSample(**values)
                if one.number not in self._known:
                    self._known[one.number] = one.reason
                    self._latest = str(one)
                    if rank() == 0:
                        self.say(f"skipped: {one}")
                        self._unwritten.append({name: value for name, value in values.items() if value != ""})
        while self._unwritten and self.folder.append(BAD_SAMPLES, self._unwritten[0]):
            del self._unwritten[0]
        if self.distinct > self.limit:
            reasons = Counter(self._known.values())
            listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
            raise DataBudgetError(
                f"{self.distinct:,} bad samples ({listed}), more than data.max_bad_samples = {self._allowed}. "
                f"Last: {self._latest or 'before the restart'}. All of them are in {self._path}. Repair the shards and "
                f"remove that list, or raise data.max_bad_samples"
            )

    @property
    def _path(self) -> Path:
        return self.folder.path / BAD_SAMPLES


def read(path: Path) -> dict[int, str]:
    """Reason of each bad sample that a list names, by the sample's number; lines cut short are left out."""
    try:
        lines = schema.read_bytes(path, _MOST_BYTES).splitlines()
    except (FileNotFoundError, schema.FormError):
        return {}
    known = {}
    for line in lines:
        try:
            values = json.loads(line)
            known[int(values["number"])] = str(values["reason"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return known
