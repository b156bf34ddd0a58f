"""The reader of JSON files: what it gives has the declared form, and all else is one clear line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from foundation import schema
from foundation.printable import printable


class _Part(TypedDict):
    bytes: int
    names: list[str]


class _Form(TypedDict):
    format: Literal[1]
    rate: float
    parts: dict[str, _Part]
    pair: tuple[str, list[int]]
    reason: NotRequired[str | None]


GOOD: dict[str, Any] = {
    "format": 1, "rate": 2.5, "parts": {"a": {"bytes": 3, "names": ["x"]}}, "pair": ["float32", [2, 3]],
}  # fmt: skip


def read(path: Path, content: bytes | str) -> Any:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return schema.read_json(_Form, path, limit=100_000)


def test_what_has_the_form_is_given_back_as_it_is(tmp_path):
    for value in (
        GOOD,
        GOOD | {"reason": None},
        GOOD | {"reason": "why", "of a newer version": [[[1]]]},
        GOOD | {"rate": 2},
    ):
        assert read(tmp_path / "a.json", json.dumps(value)) == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "'format' must be 1, found 2"),
        ({"rate": "fast"}, "'rate' must be a number, found \"fast\""),
        ({"rate": True}, "'rate' must be a number, found true"),
        ({"rate": float("nan")}, "'rate' must be a number, found NaN"),
        ({"rate": float("inf")}, "'rate' must be a number, found Infinity"),
        ({"parts": [1]}, "'parts' must be a mapping, found a list of 1"),
        ({"parts": {"a": {"bytes": 3}}}, "lacks 'parts.a.names'"),
        ({"parts": {"a": {"bytes": 10**30, "names": []}}}, "'parts.a.bytes' must be a whole number, found a number of"),
        ({"parts": {"a": {"bytes": 3.0, "names": []}}}, "'parts.a.bytes' must be a whole number, found 3.0"),
        ({"parts": {"a": {"bytes": 3, "names": "x"}}}, "'parts.a.names' must be a list, found \"x\""),
        ({"parts": {"a": {"bytes": 3, "names": ["\ud800"]}}}, "'parts.a.names.0' must be text"),
        ({"parts": {"\ud800": {}}}, "'parts' must be text"),
        ({"pair": ["float32"]}, "'pair' must be a list of 2"),
        ({"reason": 3}, "'reason' must be text, found 3"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_file_and_value(tmp_path, change, said):
    with pytest.raises(schema.FormError) as caught:
        read(tmp_path / "a.json", json.dumps(GOOD | change))
    assert said in str(caught.value) and f"{tmp_path / 'a.json'} is damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b"[" * 50_000, "nested too deeply"),
        (b"[" * 90 + b"]" * 90, "nested too deeply"),
        (b'{"a":' * 90 + b"1" + b"}" * 90, "nested too deeply"),
        (b"9" * 5_000, "no JSON"),
        (b"null", "its content must be a mapping, found null"),
        (b'{"format": 1e999}', "'format' must be 1"),
        (b" " * 100_001, "has 100,001 bytes; at most 100,000 are read"),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path, content, said):
    with pytest.raises(schema.FormError) as caught:
        read(tmp_path / "a.json", content)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file_at_all_is_named_and_never_waited_for(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "folder", "a folder"),
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(schema.FormError, match=f"is {said}, not a file"):
            schema.read_json(_Form, path)
    with pytest.raises(FileNotFoundError):
        schema.read_json(_Form, tmp_path / "nothing")


def test_printable_text_is_left_alone_and_the_rest_is_escaped():
    for text in ("plain", "Zürich 東京 😀", "a b"):
        assert printable(text) == text
    assert printable("\x1b[31mred\r\n\u202egnp.exe\ud800\x9b") == "\\x1b[31mred\\r\\n\\u202egnp.exe\\ud800\\x9b"
    assert printable("a\nb\x07", lines=True) == "a\nb\\x07"
