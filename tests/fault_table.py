"""The table of injected faults in docs/reliability.md, written from the tests that inject them.

``pytest -m fault --fault-table=docs/reliability.md`` (``make faults``) runs the tests and rewrites the table between
two marks of the page; the rest of the page is prose and stays. Every run of pytest gathers the marks of all tests that
it collects, also of those that it then leaves out, so that the page can be compared with them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- faults: written by make faults -->", "<!-- end of faults -->"
FAMILIES = (
    (1, "Killed, and going on"),
    (7, "Checkpoints, logs and folders"),
    (12, "Another number of workers or processes, another recipe"),
    (16, "Shards and samples"),
    (25, "Storage and workers"),
    (30, "Signals"),
    (36, "Numbers"),
    (38, "Downloads and the cache"),
    (41, "Hostile input and a crowded machine"),
    (45, "Over and over"),
)
NO_WORDS = "(the test does not say)"
FAILS = "**the test fails**"


@dataclass(frozen=True, order=True)
class Fault:
    """One injected fault: its row in the catalogue, what is injected, and ``file::function`` of the test."""

    row: int
    injected: str
    test: str


@dataclass
class Result:
    """What came of it: the texts of all parameters, and how the tests ended."""

    texts: list[str] = field(default_factory=list)
    failed: bool = False
    skipped: str = ""


def listed(page: str) -> dict[Fault, str]:
    """The rows of a page's table, with what happened."""
    rows = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].isdigit():
            row, injected, happened, test = (cell.replace("\\|", "|") for cell in cells)
            rows[Fault(int(row), injected, test.strip("`"))] = happened
    return rows


def table(faults: Collection[Fault], results: dict[Fault, Result], before: dict[Fault, str]) -> str:
    """The table. A fault that was not tried this time keeps its text."""
    lines = [BEGIN, "", f"{len(faults)} faults are injected by the tests; the numbers are those of the catalogue."]
    heading = ""
    for fault in sorted(faults):
        family = [title for first, title in FAMILIES if fault.row >= first][-1]
        if family != heading:
            heading = family
            lines += ["", f"### {family}", "", "| # | injected | what happened | test |", "| --- | --- | --- | --- |"]
        cells = (str(fault.row), fault.injected, _text(fault, results.get(fault), before), f"`{fault.test}`")
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", END])


def _text(fault: Fault, result: Result | None, before: dict[Fault, str]) -> str:
    if result is not None and result.failed:
        return FAILS
    if result is not None and result.texts:
        return "; ".join(dict.fromkeys(result.texts))
    if fault in before and (result is None or result.skipped):
        return before[fault]
    return f"not tried: {result.skipped}" if result is not None and result.skipped else NO_WORDS


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


class FaultTable:
    """pytest plugin: gathers which faults there are and what happened, and writes the page when there is one to write.

    Attributes:
        faults: all that collected tests are marked with.
        files: that were collected as a whole.
    """

    def __init__(self, page: Path | None) -> None:
        self.page = page
        self.results: dict[Fault, Result] = {}
        self.files: set[str] = set()
        self._faults: dict[str, list[Fault]] = {}

    @property
    def faults(self) -> set[Fault]:
        return {fault for faults in self._faults.values() for fault in faults}

    @pytest.hookimpl(tryfirst=True)  # before pytest leaves out what was not asked for
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        parts = {argument.partition("::")[0] for argument in config.args if "::" in argument}
        for item in items:
            test = item.nodeid.partition("[")[0]
            self._faults[item.nodeid] = [Fault(int(m.args[0]), m.args[1], test) for m in item.iter_markers("fault")]
            file = test.partition("::")[0]
            if not any(file.endswith(part) or str(item.path) == part for part in parts):
                self.files.add(file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for fault in self._faults.get(report.nodeid, ()):
            result = self.results.setdefault(fault, Result())
            if report.failed:
                result.failed = True
            elif report.skipped:
                result.skipped = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            elif report.when == "call":
                result.texts += [str(text) for name, text in report.user_properties if name == "happened"]

    def stale(self, on_page: Collection[Fault]) -> set[Fault]:
        """Rows of a page whose test is gone, as far as this run can tell."""
        known = self.faults
        return {
            fault
            for fault in on_page
            if fault not in known
            and ((file := fault.test.partition("::")[0]) in self.files or not (ROOT / file).exists())
        }

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.page is None:
            return
        page = self.page.read_text(encoding="utf-8") if self.page.exists() else f"{BEGIN}\n{END}\n"
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        before = listed(page)
        faults = self.faults | (before.keys() - self.stale(before.keys()))
        self.page.write_text(head + table(faults, self.results, before) + tail, encoding="utf-8")
        terminalreporter.write_line(f"{len(faults)} faults, {len(self.results)} tried this time: {self.page}")
