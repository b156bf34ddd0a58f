"""Rewrite the values of ``losses.json``, of all runs or of those that are named, and say what has changed.

    python -m tests.frozen.record [RUN ...]

A new run is an entry of ``runs`` without ``values``. The shared data sets are found as by the tests.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.frozen.runs import FILE, load, measure, rounding, settings, shards

SHARED = Path(os.environ.get("FOUNDATION_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def record(names: list[str]) -> None:
    """Run, compare with what is there, and write."""
    frozen = load()
    unknown = sorted(set(names) - set(frozen["runs"]))
    if unknown:
        sys.exit(f"no run {', '.join(unknown)} in {FILE.name}: {', '.join(frozen['runs'])}")
    if names and frozen.get("recorded") != rounding():
        sys.exit(
            f"the other runs were recorded with {frozen.get('recorded')}, this is {rounding()}: record all of them"
        )
    said = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        built: dict[str, str] = {}
        for name in names or frozen["runs"]:
            run = frozen["runs"][name]
            if run["data"] not in built:
                folder = Path(scratch) / "data" / run["data"]
                built[run["data"]] = shards(frozen["data"][run["data"]], lambda data: SHARED / data, folder)
            words = [f"data.shards=['{built[run['data']]}']", *settings(frozen, name)]
            begin, before = time.process_time(), run.get("values")
            run["values"] = measure(run["recipe"], words, Path(scratch) / "runs" / name)
            word = "new" if before is None else "as before" if before == run["values"] else "CHANGED"
            said.append(f"{name}: {word} ({time.process_time() - begin:.1f} s of processor time)")
    frozen["recorded"] = rounding()
    FILE.write_text(written(frozen), encoding="utf-8")
    print("\n".join(said))


def written(frozen: dict[str, Any]) -> str:
    """As JSON with the numbers of one loss on one line."""
    text = json.dumps(frozen, indent=2, ensure_ascii=False)
    flat = re.compile(r"\[\s+((?:-?[0-9][0-9.e+-]*,\s+)*-?[0-9][0-9.e+-]*)\s+\]")
    return flat.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n"


if __name__ == "__main__":
    record(sys.argv[1:])
