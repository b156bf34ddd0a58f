"""One part of a measurement, in a process of its own: what it finds is on the disk as soon as it is found.

A part is a file with ``TITLE``, ``SECONDS`` (its limit) and ``measure(part)``.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from foundation.allocator import keep_freed_memory
from foundation.errors import FoundationError, UserError
from foundation.files import replace_json
from foundation.lifeline import signal_at_parents_death


@dataclass(frozen=True)
class Settings:
    """What a part is told.

    Attributes:
        file: of its results.
        rehearse: take every way of the code on tiny shapes; the figures mean nothing.
        seed: of everything drawn.
        seconds: until it is ended.
        folder: for files that are results themselves.
    """

    file: Path
    rehearse: bool
    seed: int
    seconds: float
    folder: Path


class Part:
    """What a part has found so far.

    Args:
        settings: as told.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.machine: dict[str, Any] = {}
        self.failed = False
        self._end = time.monotonic() + settings.seconds

    @property
    def rehearse(self) -> bool:
        """Whether shapes are tiny."""
        return self.settings.rehearse

    @property
    def seconds_left(self) -> float:
        """Until the part is ended."""
        return self._end - time.monotonic()

    @cached_property
    def device(self) -> Any:
        """The GPU; the CPU in a rehearsal where there is none.

        Raises:
            UserError: there is none, and it is no rehearsal.
        """
        from foundation.measure.machine import device_of_machine

        found = device_of_machine()
        if found.type != "cuda" and not self.rehearse:
            raise UserError("this torch sees no GPU: nothing is measured (a rehearsal of the code: --rehearse)")
        return found

    def row(self, **figures: Any) -> None:
        """One line of the part's table; ``case`` comes first, units stand in the names."""
        self.rows.append({key: _plain(value) for key, value in figures.items()})
        self.write()

    def note(self, text: str) -> None:
        """Something to know about the table."""
        if text not in self.notes:
            self.notes.append(text)
        self.write()

    def fail(self, text: str) -> None:
        """Note a finding that makes the whole part a failure; it goes on."""
        self.failed = True
        self.note(text)

    def case(self, name: str, call: Callable[[], Mapping[str, Any]], seconds: float = 0.0) -> dict[str, Any] | None:
        """A row that may fail, where the next one can still be had. In a rehearsal the part has failed then, unless it
        is for want of something that is not installed.

        Args:
            name: of the case.
            call: measures it and gives the row.
            seconds: that it takes, about: it is left out, and that is noted, where less is left.

        Returns:
            The row, or None.
        """
        if self.seconds_left < seconds:
            self.note(f"{name}: left out, {self.seconds_left:.0f} s were left")
            return None
        try:
            figures = dict(call())
        except Exception as error:
            sys.stderr.write(traceback.format_exc())
            if self.rehearse and not isinstance(error, UserError):
                self.failed = True
            self.note(f"{name}: {type(error).__name__}: {_first_line(error)}")
            _forget(error)
            return None
        self.row(case=name, **figures)
        return figures

    def write(self, whole: bool = False) -> None:
        """Bring the file up to date; ``whole`` says that nothing is missing."""
        content = {"rows": self.rows, "notes": self.notes, "machine": self.machine, "whole": whole}
        replace_json(self.settings.file, content)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _forget(error: Exception) -> None:
    """Let go of the tensors that the frames of an error hold."""
    from foundation.measure.timing import free

    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    free()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)


def load_part(path: Path) -> ModuleType:
    """A part's file as a module."""
    spec = importlib.util.spec_from_file_location(f"_foundation_part_{path.stem}", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def command(path: Path, settings: Settings) -> list[str]:
    """The command that runs a part in a fresh process, which imports nothing from the working directory."""
    told = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    return [sys.executable, "-P", "-m", "foundation.measure.part", str(path), json.dumps(told)]


def main(path: str, told: str) -> int:
    """What the process of a part does; its exit code."""
    given = json.loads(told)
    part = Part(Settings(**(given | {name: Path(given[name]) for name in ("file", "folder")})))
    signal_at_parents_death(signal.SIGTERM)
    keep_freed_memory()
    try:
        from foundation.measure.machine import describe

        part.machine = describe()
        part.write()
        load_part(Path(path)).measure(part)
    except FoundationError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    part.write(whole=True)
    return int(part.failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
