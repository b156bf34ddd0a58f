"""A metrics file that is read on from where reading ended, however long it is and whatever happens to it meanwhile."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO

from foundation import schema
from foundation.run.lines import line_of
from foundation.run.runs import number_or_none
from foundation.voice import plural
from foundation.watch.series import Series

AT_ONCE = 1 << 20
"""Bytes read by one call: a file of gigabytes is read in many, and the page answers in between."""
WHOLE = 64 << 20
"""Bytes of a file up to which every line is parsed; of one that is larger when it is opened, only every second, third,
... line of what is there then, and all with probes."""
MOST_SERIES = 400
_KEPT_LINES = 200  # whole ones, for what is said of the last steps
_MARK = 256  # bytes before the place where reading ended, by which a file that was written anew is known
_NO_CURVES = ("step", "epoch", "time", "time/seconds")


class MetricsTail:
    """Reads one ``metrics.jsonl`` as it grows.

    Args:
        path: of the file, which need not exist yet.

    Attributes:
        series: curves by name, in the order of their first values.
        last: the last lines.
        size: bytes of the file when it was last looked at.
        offset: bytes of it that have been read.
        version: grows with everything that changes here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._anew = ""
        self._forget()

    def _forget(self) -> None:
        self.series: dict[str, Series] = {}
        self.last: deque[dict[str, Any]] = deque(maxlen=_KEPT_LINES)
        self.size = self.offset = 0
        self._identity: tuple[int, int] | None = None
        self._mark = b""
        self._damaged = self._not_finite = 0
        self._every, self._thinned_to = 1, 0
        self._left_out: set[str] = set()
        self._problem = ""
        self.version += 1

    def read(self) -> bool:
        """Read on, at most :data:`AT_ONCE` bytes.

        Returns:
            Whether the end was reached.
        """
        try:
            with schema.opened(self.path) as file:
                return self._read(file)
        except FileNotFoundError:
            if self._identity is not None:
                self._start_anew("is gone")
        except schema.FormError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self.version += 1
        return True

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file, or was."""
        name = self.path.name
        said = [self._problem] if self._problem else []
        if self._anew:
            said.append(f"{name} {self._anew}")
        if self._damaged:
            said.append(f"{name}: {plural(self._damaged, 'damaged line')} left out")
        if self._every > 1:
            said.append(
                f"{name} is large: of its first {self._thinned_to >> 20:,} MiB one line in {self._every} is read"
            )
        if self._not_finite:
            said.append(f"{plural(self._not_finite, 'value')} of the loss not finite")
        if self._left_out:
            said.append(f"more than {MOST_SERIES} figures: the others are in {name} alone")
        return said

    @property
    def progress(self) -> float:
        """Share of the file that has been read."""
        return self.offset / self.size if self.size > self.offset else 1.0

    def _read(self, file: BinaryIO) -> bool:
        found = os.fstat(file.fileno())
        identity = (found.st_dev, found.st_ino)
        if self._identity is not None:
            file.seek(self.offset - len(self._mark))
            if found.st_size < self.offset:
                self._start_anew("became shorter, and is read anew")
            elif identity != self._identity or file.read(len(self._mark)) != self._mark:
                self._start_anew("was replaced, and is read anew")
        self._identity, self.size, self._problem = identity, found.st_size, ""
        if self.offset == 0:
            self._every, self._thinned_to = -(-self.size // WHOLE) or 1, self.size
        file.seek(self.offset)
        content = file.read(AT_ONCE)
        end = content.rfind(b"\n") + 1
        if not end and len(content) == AT_ONCE:  # no line is so long: what comes up to the next end is damaged too
            end, self._damaged = len(content), self._damaged + 1
        elif end:
            every = self._every if self.offset < self._thinned_to else 1
            for number, text in enumerate(content[: end - 1].split(b"\n")):
                if number % every == 0 or b'"probe/' in text:
                    self._take(text)
        if end:
            self.offset += end
            self._mark = (self._mark + content[max(0, end - _MARK) : end])[-_MARK:]
            self.version += 1
        return len(content) < AT_ONCE

    def _take(self, text: bytes) -> None:
        line = line_of(text)
        if line is None:
            self._damaged += 1
            return
        self.last.append(line)
        step = line["step"]
        if "loss" in line and line["loss"] is None:
            self._not_finite += 1
        for key, value in line.items():
            number = number_or_none(value)
            if number is None or key in _NO_CURVES:
                continue
            curve = self.series.get(key)
            if curve is None:
                if len(self.series) >= MOST_SERIES:
                    self._left_out.add(key[:100])
                    continue
                curve = self.series[key] = Series()
            curve.add(step, float(number))

    def _start_anew(self, why: str) -> None:
        self._forget()
        self._anew = why
