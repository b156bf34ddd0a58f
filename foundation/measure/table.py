"""A report of parts as a page of Markdown that can be copied into the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REHEARSAL = (
    "**A rehearsal on tiny shapes: it shows that the code runs. The figures mean nothing and are no benchmark.**"
)


def markdown(report: Mapping[str, Any]) -> str:
    """The page of a report.

    Args:
        report: ``command``, ``seed``, ``rehearsal``, ``machine`` (plain facts) and ``parts`` by name, each with
            ``title``, ``state``, ``seconds``, ``limit_seconds``, ``rows``, ``notes`` and ``tail``.
    """
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in machine.items() if key != "versions" and value]
    lines = [f"`{report['command']}` (seed {report['seed']}, {report['started']})", ""]
    lines += [REHEARSAL, ""] if report["rehearsal"] else []
    lines += [f"Machine: {', '.join(facts)}." if facts else "Machine: not looked at.", ""]
    lines += [f"Versions: {versions}.", ""] if versions else []
    for name, part in report["parts"].items():
        lines += section(name, part)
    return "\n".join(lines).rstrip() + "\n"


def section(name: str, part: Mapping[str, Any]) -> list[str]:
    """Title, table and notes of one part."""
    ended = "" if part["state"] == "done" else f", **{part['state']}**"
    lines = [f"### {part['title']}", "", f"Part `{name}`: {part['seconds']:.0f} s{ended}.", ""]
    if part["rows"]:
        lines += [*grid(part["rows"]), ""]
    lines += [f"- {note}" for note in part["notes"]] + ([""] if part["notes"] else [])
    if part["tail"]:
        lines += ["```text", *part["tail"].replace("```", "'''").splitlines(), "```", ""]
    return lines


def grid(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as a table with every column that one of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", f"|{'---|' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(cell(row.get(column)) for column in columns)} |" for row in rows)]


def cell(value: Any) -> str:
    """A value in a table: numbers with at least three digits, nothing for what there is not."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).replace("|", "\\|").replace("\n", " ")
    if isinstance(value, int) or (abs(value) >= 100 and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:.3g}"
