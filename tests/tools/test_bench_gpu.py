"""``foundation bench gpu --rehearse``: every part runs to its end on a CPU, and the report has its form."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.measure.part import Part, Settings, load_part
from foundation.paths import bundled

CASES = {
    "environment": {"bfloat16 products", "TF32 products", "copy in memory", "attention: varlen", "compile"},
    "vit_small": {"counted operations", "attention sdpa", "larger batch", "compiled blocks", "drop path 0.3"},
    "attention": {"ViT-S"},
    "waits": {"launches of that step", "a step of a whole run (quickstart)"},
    "timeline": {"trace"},
}
"""Parts that are rehearsed here; CI rehearses all of them (``make gpu ARGS=--rehearse``)."""


@pytest.mark.slow
def test_the_rehearsal_takes_parts_to_their_end(tmp_path):
    words = ["--parts", *reversed(CASES), "--minutes", "12"]
    assert main(["bench", "gpu", "--rehearse", "--out", str(tmp_path), *words]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["form"] == 1 and report["rehearsal"] is True and report["seed"] == 0
    assert report["command"].startswith("foundation bench gpu") and report["machine"]["versions"]["torch"]
    assert list(report["parts"]) == list(CASES), "in order of worth, however they were named"
    for name, part in report["parts"].items():
        assert part["state"] == "done", (name, part["tail"])
        assert part["rows"] and part["seconds"] > 0 and part["limit_seconds"] > 0
        assert not [note for note in part["notes"] if "Error" in note], name
        assert {row["case"] for row in part["rows"]} >= CASES[name]
    steps = {row["case"]: row for row in report["parts"]["vit_small"]["rows"]}
    assert steps["attention sdpa"]["samples_per_second"] > 0 and steps["attention sdpa"]["MFU_of_measured_rate_%"] > 0
    page = (tmp_path / "gpu.md").read_text()
    assert "A rehearsal on tiny shapes" in page and all(f"Part `{name}`" in page for name in CASES)
    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured_and_the_reason_is_said(tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", "gpu", "--parts", "environment", "--out", str(tmp_path)]) == 1
    (part,) = json.loads((tmp_path / "gpu.json").read_text())["parts"].values()
    assert part["state"] == "failed" and "this torch sees no GPU" in part["tail"]
    assert "0 of 1 parts done" in capsys.readouterr().out


def test_a_part_that_is_not_there_is_refused(capsys):
    assert main(["bench", "gpu", "--parts", "nonsense"]) == 2
    assert "'nonsense' is none of environment" in capsys.readouterr().err


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_measured(tmp_path):
    words = [sys.executable, "-m", "foundation", "bench", "gpu", "--rehearse", "--out", str(tmp_path)]
    words += ["--parts", "environment", "augmentation"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("augmentation"):
            break
    process.kill()
    process.wait()
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["parts"]["environment"]["state"] == "done" and report["parts"]["environment"]["rows"]
    assert "Part `environment`" in (tmp_path / "gpu.md").read_text()
    end = time.monotonic() + 30
    while (left := running_parts(tmp_path)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, "the part that was under way ends with the command that started it"


def running_parts(folder: Path) -> list[str]:
    """Commands of processes that work for a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "foundation.measure.part" in text and str(folder) in text:
            found.append(text)
    return found


def test_tests_are_counted_and_those_that_fail_are_named(tmp_path):
    text = "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\n"
    text += "def test_left_out(): pytest.skip('not here')\n"
    (tmp_path / "test_some.py").write_text(text)
    record = tmp_path / "record.xml"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), f"--junitxml={record}"]
    assert subprocess.run(words, capture_output=True, cwd=tmp_path).returncode == 1
    part = Part(Settings(tmp_path / "part.json", rehearse=False, seed=0, seconds=10.0, folder=tmp_path))
    load_part(bundled("tools") / "bench" / "gpu" / "tests.py").count(part, record)
    assert {row["case"]: row["number"] for row in part.rows} == {"passed": 1, "failed": 1, "skipped": 1}
    assert part.failed and any("test_bad: assert 1 == 2" in note for note in part.notes)
    assert any(note.startswith("skipped: ") and "not here" in note for note in part.notes)
