"""The guard of the data: which samples of a run were bad, each counted once, and when there are too many of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foundation.errors import DataBudgetError
from foundation.parallel.collective import gather_json, on_first_rank, rank
from foundation.types import BadSample, Batch

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
        folder: Path,
        say: Callable[[str], None],
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.path, self.say = folder / BAD_SAMPLES, say
        self.counts: Counter[str] = Counter(counts or {})
        self.limit = int(allowed * samples) if 0 < allowed < 1 else int(allowed)
        self._allowed = f"{allowed:g} ({self.limit:,} of {samples:,} samples)" if 0 < allowed < 1 else f"{self.limit}"
        self._new: dict[int, BadSample] = {}
        self._latest = ""
        self._cannot_write = False
        known: list[list[Any]] = on_first_rank(lambda: [[number, reason] for number, reason in read(self.path).items()])
        self._known: dict[int, str] = {int(number): str(reason) for number, reason in known}

    @property
    def distinct(self) -> int:
        """Bad samples that the run has met, in all processes."""
        return len(self._known)

    def see(self, batch: Batch) -> None:
        """Count a batch's bad samples."""
        self.counts.update(batch.skipped)
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
                        self._write(values)
        if self.distinct > self.limit:
            reasons = Counter(self._known.values())
            listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
            raise DataBudgetError(
                f"{self.distinct:,} bad samples ({listed}), more than data.max_bad_samples = {self._allowed}. "
                f"Last: {self._latest or 'before the restart'}. All of them are in {self.path}. Repair the shards and "
                f"remove that list, or raise data.max_bad_samples"
            )

    def _write(self, values: Mapping[str, object]) -> None:
        line = json.dumps({name: value for name, value in values.items() if value != ""}).encode() + b"\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # a kill or a full disk left half a line
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:  # bookkeeping must not end a run
            if not self._cannot_write:
                self.say(f"warning: {self.path} cannot be written ({error.strerror}); the run goes on without the list")
            self._cannot_write = True


def read(path: Path) -> dict[int, str]:
    """Reason of each bad sample that a list names, by the sample's number; lines cut short are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    known = {}
    for line in lines:
        try:
            values = json.loads(line)
            known[int(values["number"])] = str(values["reason"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return known
