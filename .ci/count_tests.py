"""Prints how many tests passed, failed and were skipped, from JUnit files: ``count_tests.py FILE...``."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

passed = failed = skipped = 0
for name in sys.argv[1:]:
    for suite in ElementTree.parse(name).getroot().iter("testsuite"):
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        failed += number["failures"] + number["errors"]
        skipped += number["skipped"]
        passed += number["tests"] - number["failures"] - number["errors"] - number["skipped"]
print(passed, failed, skipped)
