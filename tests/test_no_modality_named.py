"""One engine for every sensor: its code names no modality. Prose (comments, docstrings, sentences) may."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "foundation"
MODALITIES = {path.parent.name for path in PACKAGE.glob("modalities/*/views.py")}
BLIND = ("engine", "objectives", "branches", "probes", "parallel", "encoders/trunk.py", "masks", "heads")


def files() -> list[Path]:
    found = [PACKAGE / name for name in BLIND]
    return sorted(path for entry in found for path in ([entry] if entry.suffix else entry.rglob("*.py")))


def named(text: str) -> Iterator[str]:
    """Where a source names a modality: in an identifier, a string that is no sentence, or an import."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        words: list[str] = []
        if isinstance(node, ast.Name):
            words = node.id.split("_")
        elif isinstance(node, ast.Attribute):
            words = node.attr.split("_")
        elif isinstance(node, (ast.arg, ast.keyword)):
            words = (node.arg or "").split("_")
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            words = re.findall(r"[A-Z]?[a-z]+", node.name)
        elif isinstance(node, ast.ImportFrom):
            words = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            words = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            words = re.split(r"\W|_", node.value)
        for word in words:
            if word.lower() in MODALITIES:
                yield f"line {node.lineno}: {word}"


def test_there_are_modalities_and_files_to_look_at():
    assert {"image", "audio", "points", "video", "imu", "paired"} <= MODALITIES
    assert len(files()) > 40


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_modality_is_named(path):
    assert not list(named(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "from foundation.modalities.audio import views",
        "if modality == 'imu': pass",
        "rate = sample['video_rate']",
        "x.points.mean()",
        "def decode_image(x): pass",
        "f(audio=1)",
    ],
)
def test_what_counts_as_naming_one(code):
    assert list(named(code))


def test_sentences_may_speak_of_them():
    assert not list(named('"""Images and sound."""\nraise ValueError("tokens of [points, 3] in a video")  # imu\n'))
