"""Imports of ``foundation`` run one way: no file leads back to itself, and none reaches into a layer above its own.

Every import counts, wherever it stands: in a function, under ``TYPE_CHECKING`` and as the text of a dotted name, as
``import_module`` takes it. Patterns of plug-ins (``foundation.objectives.{name}``) name nothing and do not count: they are
how a lower layer lets the user reach a higher one.
"""

from __future__ import annotations

from pathlib import Path

import foundation

ROOT = Path(foundation.__file__).parent

LAYERS: list[tuple[str, tuple[str, ...]]] = [
    # What a person, a file and a machine are to any program.
    (
        "ground",
        (
            "foundation", "allocator", "catalogue", "chunks", "counter", "ctrl_c", "deadline", "errors", "files", "lifeline",
            "paths", "plugins", "printable", "ranges", "records", "redact", "schedules", "search_path", "spread", "stacks",
            "synonyms", "versions", "voice", "weights",
        ),
    ),
    ("config", ("config", "config_nodes", "config_reader", "schema")),
    ("types", ("types", "linear")),
]  # fmt: skip
