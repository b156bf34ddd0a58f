"""Runs the commands that a Markdown file shows: ``readme_commands.py README.md``.

Every block that begins with three backquotes and ``bash`` or ``python`` is run, in order, in the current folder. One
is left out only when the line before it says why: ``<!-- not run: needs a checkout -->``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RUN = ("```bash", "```python")
NOT_RUN = re.compile(r"<!--\s*not run:\s*(.+?)\s*-->")


@dataclass(frozen=True)
class Block:
    """Commands that a document shows.

    Attributes:
        line: of the first command.
        text: the commands.
        language: ``bash`` or ``python``.
        reason: why they are not run; empty when they are.
    """

    line: int
    text: str
    language: str
    reason: str


def blocks(markdown: str) -> list[Block]:
    """The blocks of a document that can be run."""
    found, before, language, start, lines = [], "", "", 0, []
    for number, line in enumerate(markdown.splitlines(), 1):
        if language and line.strip() == "```":
            reason = NOT_RUN.search(before)
            found.append(Block(start, "\n".join(lines), language, reason[1] if reason else ""))
            language, before, lines = "", "", []
        elif language:
            lines.append(line)
        elif line.strip() in RUN:
            language, start = line.strip("` "), number + 1
        elif line.strip():
            before = line
    return found


def main(file: Path) -> int:
    """Run all blocks and return the number of those that failed (at most 1)."""
    shown = blocks(file.read_text(encoding="utf-8"))
    failures = 0
    for block in shown:
        place = f"{file.name}:{block.line}"
        if block.reason:
            print(f"{place}: not run: {block.reason}")
            continue
        print(f"{place}:\n{block.text}", flush=True)
        begun = time.perf_counter()
        words = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else ["python", "-c"]
        code = subprocess.run([*words, block.text], timeout=1200).returncode
        print(f"{place}: exit code {code} after {time.perf_counter() - begun:.0f} s", flush=True)
        failures += code != 0
    run = sum(not block.reason for block in shown)
    print(f"{run} blocks run, {failures} failed, {len(shown) - run} left out")
    return int(failures > 0 or run == 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
