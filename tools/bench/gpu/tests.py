"""The tests that need a GPU, counted by pytest's own record."""

from __future__ import annotations

TITLE = "Tests that need a GPU"
SECONDS = 150.0


def measure(part) -> None:
    import importlib.util
    import signal
    import subprocess
    import sys
    from pathlib import Path

    import foundation
    from foundation.errors import UserError

    root = Path(foundation.__file__).resolve().parents[1]
    if not (root / "tests" / "gpu").is_dir():
        raise UserError("the tests are part of a checkout, and this is an installed package: run it from a checkout")
    if importlib.util.find_spec("pytest") is None:
        raise UserError("pytest is not installed: pip install pytest")
    record = part.settings.folder / "parts" / "tests.xml"
    files = [str(file) for file in sorted((root / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in file.read_text()]
    words = [sys.executable, "-m", "pytest", *files, "-m", "gpu", "-q", "-p", "no:cacheprovider", "--tb=short"]
    if part.device.type == "cuda":
        process = subprocess.Popen([*words, f"--junitxml={record}"], cwd=root)
        try:
            process.wait(max(part.seconds_left - 20, 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it writes its record then
            part.fail("pytest was interrupted at the limit of the part: parts/tests.log says how far it came")
            process.wait()
        count(part, record)
    else:
        done = subprocess.run([*words, "--collect-only"], cwd=root, capture_output=True, text=True)
        collected = sum("::" in line for line in done.stdout.splitlines())
        part.row(case="collected", number=collected)
        if done.returncode or not collected:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        part.note("there is no GPU: the tests were collected and not run")


def count(part, record) -> None:
    """Passed, failed and skipped tests, and what was said of those that failed."""
    from xml.etree import ElementTree

    cases = list(ElementTree.parse(record).iter("testcase"))
    bad = {case: found for case in cases for found in (*case.findall("failure"), *case.findall("error"))}
    skipped = {case: found for case in cases if (found := case.find("skipped")) is not None}
    part.row(case="passed", number=len(cases) - len(bad) - len(skipped))
    part.row(case="failed", number=len(bad))
    part.row(case="skipped", number=len(skipped))
    for case, found in (*bad.items(), *skipped.items()):
        said = (found.get("message") or "").strip().splitlines() or [""]
        told = f"{found.tag}: {case.get('classname')}::{case.get('name')}: {said[0][:200]}"
        part.note(told) if found.tag == "skipped" else part.fail(told)
