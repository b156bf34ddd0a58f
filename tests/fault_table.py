"""The table of injected faults in docs/reliability.md, written from the tests that inject them.

``pytest -m fault --fault-table=docs/reliability.md`` (``make faults``) runs the tests and rewrites the table between
two marks of the page; the rest of the page is prose and stays. Which tests there are is read from their source, so that
the table can be compared with them without running anything.
"""

from __future__ import annotations

import ast
import re
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


def declared(folder: Path = ROOT / "tests") -> set[Fault]:
    """All faults that tests are marked with, read from their source.

    Raises:
        ValueError: a mark whose arguments are not written out.
    """
    found = set()
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.fault(" not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row, injected in _marks(node, path):
                    found.add(Fault(row, injected, f"{path.relative_to(folder.parent).as_posix()}::{node.name}"))
    return found


def _marks(function: ast.FunctionDef, path: Path) -> list[tuple[int, str]]:
    marks = []
    for decorator in function.decorator_list:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                try:
                    row, injected = (ast.literal_eval(argument) for argument in node.args)
                except ValueError as error:
                    raise ValueError(f"{path}:{node.lineno}: write row and text of the fault out in full") from error
                marks.append((int(row), str(injected)))
    return marks


def listed(page: str) -> dict[Fault, str]:
    """The rows of a page's table, with what happened."""
    rows = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].isdigit():
            row, injected, happened, test = (cell.replace("\\|", "|") for cell in cells)
            rows[Fault(int(row), injected, test.strip("`"))] = happened
    return rows


def table(faults: set[Fault], results: dict[Fault, Result], before: dict[Fault, str]) -> str:
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
        return "**the test fails**"
    if result is not None and result.texts:
        return "; ".join(dict.fromkeys(result.texts))
    if fault in before and (result is None or result.skipped):
        return before[fault]
    return f"not tried: {result.skipped}" if result is not None and result.skipped else NO_WORDS


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


class FaultTable:
    """pytest plugin: gathers what happened and writes the page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[Fault, Result] = {}
        self._faults: dict[str, list[Fault]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            test = item.nodeid.partition("[")[0]
            self._faults[item.nodeid] = [Fault(int(m.args[0]), m.args[1], test) for m in item.iter_markers("fault")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for fault in self._faults.get(report.nodeid, ()):
            result = self.results.setdefault(fault, Result())
            if report.failed:
                result.failed = True
            elif report.skipped:
                result.skipped = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            elif report.when == "call":
                result.texts += [str(text) for name, text in report.user_properties if name == "happened"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        page = self.path.read_text(encoding="utf-8") if self.path.exists() else f"{BEGIN}\n{END}\n"
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        faults = declared()
        self.path.write_text(head + table(faults, self.results, listed(page)) + tail, encoding="utf-8")
        terminalreporter.write_line(f"{len(faults)} faults, {len(self.results)} tried this time: {self.path}")
