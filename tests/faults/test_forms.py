"""Every file that a command reads back, damaged in many ways: a valid result or one clear line, never a traceback."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foundation import config
from foundation.checkpoints import checkpoint, retention
from foundation.checkpoints.manifest import own_checksum
from foundation.checkpoints.retention import Policy
from foundation.cli import main
from foundation.data.shards import open_shards
from foundation.errors import FoundationError, UserError
from foundation.files import replace_json
from foundation.run import build
from foundation.zoo.export import export_branches
from foundation.zoo.load import load_encoder

HOSTILE = "\x1b]0;owned\x07\x1b[31m[red]\u202egnp.[/red]<script>alert(1)</script>"

WRONG: tuple[Any, ...] = (
    None, True, -(10**400), float("nan"), 1e308, [], {}, "", [HOSTILE], {HOSTILE: HOSTILE}, "\ud800", HOSTILE,
)  # fmt: skip


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Ways in which the text of a JSON file (or of one line of JSON) can be wrong."""
    value = json.loads(content)
    yield "empty", b""
    yield "cut", content[: len(content) // 2]
    yield "not UTF-8", b"\xff\xfe" + content
    yield "another kind", b"[1, 2]"
    yield "null", b"null"
    yield "deep", b"[" * 100_000
    yield "deep inside", content.rstrip()[:-1] + b', "deep": ' + b"[" * 500 + b"]" * 500 + b"}"
    keys = sorted(value) if isinstance(value, dict) else []
    for index, wrong in enumerate(WRONG):
        yield f"every item {wrong!r}"[:40], json.dumps(dict.fromkeys(keys, wrong)).encode()
        for key in keys[index % 4 :: 4]:  # each key has three of them, each of them a quarter of the keys
            yield f"{key} {wrong!r}"[:40], json.dumps(value | {key: wrong}).encode()
    for key in keys:
        yield f"without {key}", json.dumps({name: item for name, item in value.items() if name != key}).encode()
    for path in inner(value):
        wrong = (None, -(10**400), HOSTILE, [[]], {"a": {}})[len(str(path)) % 5]
        changed = copy.deepcopy(value)
        here = changed
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = wrong
        yield f"{path} {wrong!r}"[:60], json.dumps(changed).encode()


def inner(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places below the first level, the first two of every mapping or list."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, below in items if len(path) == 0 else items[:2]:
        if path:
            yield (*path, key)
        yield from inner(below, (*path, key))


@pytest.fixture
def folder(tmp_path: Path, tiny_recipe: Callable[..., Any]) -> Path:
    """A run folder with every kind of file, beside a sound one."""
    from foundation.schedules import Clock

    recipe = tiny_recipe()
    learner, run = build.learner(recipe, Clock(10, 10)), tmp_path / "runs" / "bad"
    tensors = {name: branch.state_dict() for name, branch in learner.branches.items()}
    for step in (3, 7):
        checkpoint.write(run / "checkpoints", step, tensors, {"step": step, "recipe": config.dump(recipe)})
    retention.write(run / "checkpoints", Policy(2), {3: {"probe/knn_top1": 0.5}})
    export_branches(recipe, learner, run / "export", 7)
    (run / "recipe.yaml").write_text(config.dump(recipe))
    lines = [{"step": step, "loss": 1.5, "epoch": 0.1 * step, "time/seconds": 1.0 * step} for step in range(1, 8)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    replace_json(run / "status.json", {"state": "failed", "time": 1.7e9, "pid": 1, "step": 7, "reason": "why"})
    beat = {"time": 1.7e9, "pid": 1, "host": "here", "rank": 0, "doing": "step", "step": 7, "total": 8}
    replace_json(run / "heartbeat" / "rank0.json", beat)
    row = {"name": "model", "features": "x", "top1": 0.5, "interval": [0.4, 0.6], "n": 10, "k": 10}
    result = {
        "format": 1, "probe": "knn", "model": "m", "results": [row, row | {"name": "untrained"}], "created": "today",
        "confusion": {"counts": [[1, 2], [3, 4]], "k": 10}, "data": {"test": {"shards": ["a.tar"], "samples": 10}},
    }  # fmt: skip
    replace_json(run / "probes" / "knn-a.json", result)
    shutil.copytree(run, run.parent / "good")
    return run


def manifest_rewritten(content: bytes) -> bytes:
    """A manifest whose own checksum is right: someone wrote it, nothing flipped a bit."""
    value = json.loads(content)
    if isinstance(value, dict):
        value["manifest_sha256"] = own_checksum(value)
    return json.dumps(value).encode()


READERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "status.json": (("runs", "list"), ("runs", "show"), ("report",)),
    "heartbeat/rank0.json": (("runs", "list"), ("runs", "show")),
    "probes/knn-a.json": (("runs", "best"), ("report",)),
    "export/teacher.json": (("load",), ("report",)),
    "checkpoints/retention.json": (("checkpoint", "list"), ("checkpoint", "prune")),
    "checkpoints/step-00000007/MANIFEST.json": (("checkpoint", "list"), ("checkpoint", "verify"), ("runs", "show")),
    "metrics.jsonl": (("runs", "list"), ("runs", "show"), ("runs", "best"), ("report",)),
}


def run_command(folder: Path, words: tuple[str, ...], damaged: Path) -> int:
    if words == ("load",):
        try:
            load_encoder(damaged.with_suffix(".safetensors"))
        except FoundationError as error:
            assert damaged.name in str(error)
            return error.exit_code
        return 0
    place = str(folder.parent) if words in (("runs", "list"), ("runs", "best")) else str(folder)
    more = {"report": ("--samples", "0"), "runs best": ("--metric", "loss")}.get(" ".join(words), ())
    return main([*words, place, *more])


@pytest.mark.parametrize("name", READERS)
@pytest.mark.fault(7, "a file of a run, a checkpoint or an export, damaged in some fifty ways each")
def test_a_damaged_file_is_one_line_and_hides_nothing_else(name, folder, capsys, happened, monkeypatch):
    path = folder / name
    sound = path.read_bytes()
    text = sound.splitlines()[3] if name.endswith(".jsonl") else sound
    tried = 0
    monkeypatch.setattr("foundation.report.build._pictures", lambda *_: (None, "not asked for", None))
    for index, (kind, content) in enumerate(damages(text)):
        path.write_bytes(sound.replace(text, content) if name.endswith(".jsonl") else content)
        if name.endswith("MANIFEST.json"):
            with contextlib.suppress(ValueError, RecursionError):
                path.write_bytes(manifest_rewritten(content))
        words = READERS[name][index % len(READERS[name])]  # in turn: each meets many damages, none meets all
        tried += 1
        capsys.readouterr()
        try:
            code = run_command(folder, words, path)
        except Exception as error:
            raise AssertionError(f"{name}: {kind}: {' '.join(words)}: {error!r}") from error
        said = capsys.readouterr()
        assert code in (0, 2, 3), (kind, words, said.err)
        assert not set("\x1b\x07\u202e") & set(said.out + said.err), (kind, words)
        if words[-1] in ("list", "best") and words[0] == "runs":
            assert code == 0 and "good" in said.out, (kind, words, said)
        if words == ("report",):
            assert "<script>" not in (folder / "report.html").read_text()
    if name.endswith("MANIFEST.json"):
        path.write_bytes(manifest_rewritten(b'{"format": 2, "step": 7}'))
        newest, skipped = checkpoint.newest(folder / "checkpoints")
        assert newest is not None and newest.name == "step-00000003" and "lacks 'time'" in skipped[0][1]
    assert tried > 30
    happened("each time a valid result or one line that names the file; the other run is listed as ever")


@pytest.mark.parametrize("name", [*READERS, "checkpoints/step-00000007/state.json", "recipe.yaml"])
@pytest.mark.fault(7, "a folder, a pipe, a device or a dangling link in the place of a file")
def test_what_is_no_file_is_named_and_not_waited_for(name, folder, capsys, happened):
    path = folder / name
    readers = READERS.get(name, (("checkpoint", "verify"), ("runs", "show"), ("runs", "list")))
    for make in (Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to("nowhere")):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        make(path)
        for words in readers:
            assert run_command(folder, words, path) in (0, 2, 3)
            said = capsys.readouterr()
            assert "Traceback" not in said.err and (words[-1] != "list" or "good" in said.out or words[0] != "runs")
    happened("named; read as not there, or refused with exit 2 or 3")


@pytest.mark.fault(18, "an index of shards, damaged in some fifty ways, with names that leave the folder")
def test_a_damaged_index_is_one_line(shard, capsys, happened):
    tar = shard(indexed=True)
    index = tar.parent / "index.json"
    sound = index.read_bytes()
    entry = json.loads(sound)["splits"]["train"]["shards"][0]
    more = [
        ("outside", json.loads(sound) | {"splits": {"train": {"shards": [entry | {"file": name}]}}})
        for name in ("../x.tar", "/etc/passwd", "", ".", "a\0b", HOSTILE)
    ] + [("negative", json.loads(sound) | {"splits": {"train": {"shards": [entry | {"samples": -1}]}}})]
    for kind, content in (*damages(sound), *((kind, json.dumps(value).encode()) for kind, value in more)):
        index.write_bytes(content)
        try:
            open_shards(str(tar)).close()
        except FoundationError as error:
            assert str(index) in str(error) or str(tar) in str(error), (kind, error)
        capsys.readouterr()
        try:
            code = main(["data", "inspect", str(tar)])
        except Exception as error:
            raise AssertionError(f"{kind}: {error!r}") from error
        said = capsys.readouterr()
        assert code in (0, 2, 3) and not set("\x1b\x07\u202e") & set(said.out + said.err), kind
    for _, value in more[:5]:
        index.write_text(json.dumps(value))
        with pytest.raises(UserError, match="is no file of its folder"):
            open_shards(str(tar))
    happened("refused with file and field, exit 2; a name never leaves the folder")


@pytest.mark.fault(7, "state.json of a checkpoint that is none, with a manifest that fits it: someone wrote both")
def test_a_state_that_is_none_makes_a_checkpoint_a_damaged_one(folder, happened):
    checkpoints = folder / "checkpoints"
    newest = checkpoints / "step-00000007"
    sound = (newest / "state.json").read_bytes()
    for kind, content in damages(sound):
        (newest / "state.json").write_bytes(content)
        manifest = json.loads((newest / "MANIFEST.json").read_bytes())
        facts = {"bytes": len(content), "sha256": checkpoint.sha256(newest / "state.json")}
        manifest["files"]["state.json"] = facts
        (newest / "MANIFEST.json").write_bytes(manifest_rewritten(json.dumps(manifest).encode()))
        try:
            load_encoder(newest, branch="student")
        except UserError as error:
            assert "step-00000007" in str(error), kind
        if kind in ("empty", "cut", "not UTF-8", "another kind", "null", "deep", "deep inside"):
            found, skipped = checkpoint.newest(checkpoints)
            assert found is not None and found.name == "step-00000003" and "state.json" in skipped[0][1], kind
    happened("named; the step before is used, or exit 2 where the encoder alone is asked for")


@pytest.mark.slow
@pytest.mark.fault(7, "a run in a folder whose name steers a terminal, or is no UTF-8 text")
def test_a_hostile_name_of_a_folder_reaches_neither_terminal_nor_page(folder, tiny_shards, tmp_path, capfd, happened):
    for name in (HOSTILE.replace("/", "|"), os.fsdecode(b"run\xff\xfe")):
        run = folder.parent / name
        folder.rename(run)
        replace_json(run / "status.json", {"state": "failed", "time": 1.7e9, "pid": 1, "step": 7, "reason": HOSTILE})
        model = str(run / "export" / "teacher.safetensors")
        for words in (
            ("runs", "list", str(run.parent)), ("runs", "show", str(run)), ("checkpoint", "list", str(run)),
            ("checkpoint", "verify", str(run)), ("export", str(run), "--out", str(run / "more")),
            ("report", str(run), "--samples", "0"), ("knn", model, "--train", tiny_shards, "--test", tiny_shards),
        ):  # fmt: skip
            assert main(list(words)) in (0, 2), words
            said = capfd.readouterr()
            assert not set("\x1b\x07\u202e") & set(said.out + said.err), words
            assert "Traceback" not in said.err, words
        page = (run / "report.html").read_text(encoding="utf-8")
        assert not set("\x1b\x07\u202e") & set(page) and "&lt;script&gt;" in page and "<script>" not in page
        folder = run
    happened("every verb shows it escaped; the report is written, escaped as well")
