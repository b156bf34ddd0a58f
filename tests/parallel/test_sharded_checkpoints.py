"""Checkpoints that several processes write together, and what any number of processes reads of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from foundation.checkpoints import checkpoint, reader
from foundation.errors import UserError
from tests.parallel.sharded_ground import expected

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``play([2, "save", [...]], ...)``: functions of sharded_ground.py in so many processes; what each gave."""

    def run(*plan: list[Any], seconds: float = 600) -> list[Any]:
        path = tmp_path_factory.mktemp("plan") / "plan.json"
        path.write_text(json.dumps(plan))
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("sharded_ground.py")), str(path)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        results: list[Any] = json.loads(done.stdout)
        return results

    return run


@pytest.fixture(scope="module")
def saved(play: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Checkpoints of one, two and four processes, and what others read of them; the processes are started once."""
    root = tmp_path_factory.mktemp("saved")
    checkpoint.write(root / "whole", 10, expected(10), {"step": 10})
    two, four, whole = str(root / "two"), str(root / "four"), str(root / "whole")
    plan: list[list[Any]] = [
        [2, "save", [two, "fsdp", 10, True, 2]], [4, "save", [four, "hsdp", 10, False]],
        [2, "save", [str(root / "again"), "fsdp", 10, False, 2]],
        [3, "load", [two, "fsdp", 20]], [4, "load", [two, "hsdp", 10]], [2, "load", [two, "plain", 10]],
        [3, "load", [four, "fsdp", 10]], [2, "load", [whole, "fsdp", 10]], [4, "load", [whole, "hsdp", 10]],
        [2, "fail", [str(root / "continue"), "continue"]], [2, "fail", [str(root / "stop"), "stop"]],
        [4, "disagree", ["hsdp", 3]], [2, "disagree", ["fsdp", 1]], [2, "apart", [str(root / "apart")]],
    ]  # fmt: skip
    (root / "apart").mkdir()
    names = ["two", "four", "again", *(f"{line[0]} from {Path(line[2][0]).name}" for line in plan[3:9])]
    names += ["continue", "stop", "hsdp", "fsdp", "apart"]
    return {"root": root, **dict(zip(names, play(*plan), strict=True))}


def the_same(folder: Path, step: int) -> bool:
    tensors, numbers = checkpoint.read(folder)
    wanted = expected(step)
    return (
        numbers == {"step": step}
        and tensors.keys() == wanted.keys()
        and all(tensors[name].keys() == wanted[name].keys() for name in wanted)
        and all(torch.equal(tensors[n][key], one) and tensors[n][key].dtype == one.dtype
                for n, group in wanted.items() for key, one in group.items())
    )  # fmt: skip


def test_one_process_reads_what_several_have_written(saved):
    assert all(fact == {"newest": "step-00000020", "said": [], "failure": "None"} for fact in saved["two"])
    assert the_same(saved["root"] / "two" / "step-00000010", 10)
    assert the_same(saved["root"] / "two" / "step-00000020", 20)
    assert the_same(saved["root"] / "four" / "step-00000010", 10)


@pytest.mark.parametrize(
    "which", ["3 from two", "4 from two", "2 from two", "3 from four", "2 from whole", "4 from whole"]
)
def test_any_number_of_processes_reads_it_and_no_more_than_it_needs(saved, which):
    for rank, fact in enumerate(saved[which]):
        assert fact["wrong"] == [], f"process {rank}"
        assert fact["read"] == fact["needed"] > 0, f"process {rank}"
    if which[0] != "2" or "whole" in which:
        assert len({fact["needed"] for fact in saved[which]}) > 1, "the shards are of unequal size"


def test_written_aside_it_is_the_same_bytes(saved):
    """While one is written aside, all tensors are overwritten."""
    for step in ("step-00000010", "step-00000020"):
        one, other = (checkpoint.manifest_of(saved["root"] / name / step)["files"] for name in ("two", "again"))
        assert one == other and len(one) > 4


def test_every_copy_is_written_once_and_by_whose_turn_it_is(saved):
    folder = saved["root"] / "four" / "step-00000010"
    held, bytes_of = 0, {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            held += sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
        rank = path.name.split(".")[1]
        bytes_of[rank] = bytes_of.get(rank, 0) + path.stat().st_size
    assert held == sum(tensor.numel() for group in expected(10).values() for tensor in group.values())
    assert sorted(bytes_of) == [f"{rank:05d}-of-00004" for rank in (1, 2, 3, 4)], "both copies have turns"


def test_all_files_are_safetensors_or_json(saved):
    files = [path for path in (saved["root"] / "two" / "step-00000010").iterdir()]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with safe_open(path, "pt") as file:
                assert file.keys()
    assert sorted({path.suffix for path in files}) == [".json", ".safetensors"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_reader_of_torch_reads_it(saved):
    from torch.distributed.checkpoint import DefaultLoadPlanner, HuggingFaceStorageReader, load

    wanted = expected(10)
    found = {f"{name}/{key}": torch.zeros_like(one) for name, group in wanted.items() for key, one in group.items()}
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    folder = saved["root"] / "two" / "step-00000010"
    load(found, storage_reader=HuggingFaceStorageReader(str(folder)), planner=planner, no_dist=True)
    assert all(torch.equal(found[f"{n}/{key}"], one) for n, group in wanted.items() for key, one in group.items())


@pytest.mark.fault(7, "a file of one process of a checkpoint of two: a byte flipped, a byte cut off, or removed")
@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_a_damaged_shard_makes_the_checkpoint_before_it_count(saved, tmp_path, damage, happened):
    shutil.copytree(saved["root"] / "two", tmp_path / "run")
    path = tmp_path / "run" / "step-00000020" / "optimizer.00002-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:-1])
    if damage == "missing":
        path.unlink()
    newest, [(skipped, reason)] = checkpoint.newest(tmp_path / "run")
    assert newest == tmp_path / "run" / "step-00000010" and skipped.name == "step-00000020" and path.name in reason
    with pytest.raises(UserError, match=r"optimizer\.00002-of-00002\.safetensors"):
        checkpoint.read(skipped, ("student",))
    happened("the file is named; the step before is used, by all processes")


@pytest.mark.fault(8, "one process of two has no room for its part of a checkpoint, `when_disk_full: continue`")
def test_no_room_in_one_process_fails_the_save_in_all(saved, happened):
    for fact in saved["continue"]:
        assert fact["failure"] is None and fact["newest"] == "step-00000010" and not fact["has"]
        assert fact["there"] == ["retention.json", "step-00000010"], "nothing half-written is left"
        text, code = fact["waited"]
        assert code == 75 and "process 1: " in text and "File too large" in text and "step-00000020" in text
        assert fact["at last"] == "step-00000020"
    assert "Training goes on" in saved["continue"][0]["said"][0]
    assert the_same(saved["root"] / "continue" / "step-00000020", 20)
    happened("all processes learn which of them failed and why, train on, and save when there is room")


@pytest.mark.fault(8, "one process of two has no room for its part of a checkpoint, `when_disk_full: stop`")
def test_no_room_in_one_process_stops_all(saved, happened):
    for fact in saved["stop"]:
        assert "process 1: " in fact["failure"] and "the newest one is step-00000010" in fact["failure"]
    happened("exit 75 in all processes; the message names the process, path, bytes needed and free")


def test_disks_of_their_own_are_noticed_at_the_first_save(saved):
    if None in saved["apart"]:
        pytest.skip("only root can give a process a disk of its own")
    for text in saved["apart"]:
        assert "process 1: process 0 has made" in text and "storage that all machines share" in text


def test_agreement_is_asked_of_those_who_hold_the_same(saved):
    for shard, plain in saved["hsdp"]:
        assert "student 'even_float32' differs between process 1 and process 3" in shard
        assert "student 'number_float32' differs between process 0 and process 3" in plain
    for shard, plain in saved["fsdp"]:
        assert shard is None, "no other process holds this shard"
        assert "student 'number_float32' differs between process 0 and process 1" in plain


@pytest.mark.slow
@pytest.mark.fault(3, "kill -9 of one of two processes that save together, at 20 places of a save")
def test_a_process_killed_while_all_save_leaves_the_newest_whole_step(play, tmp_path, happened):
    (facts,) = play([0, "killed", [str(tmp_path), 20]])
    steps = [fact["step"] for fact in facts]
    assert all(fact["right"] and not fact["skipped"] for fact in facts), facts
    assert steps == sorted(steps) and len(set(steps)) > 5
    assert all(fact["exits"][fact["victim"]] == -9 for fact in facts)
    assert all(fact["exits"][1 - fact["victim"]] == 75 for fact in facts), "the other one ends by itself"
    assert not any(fact["left"] for fact in facts if fact["victim"] == 1), "process 0 removes what is half-written"
    assert sum(bool(fact["left"]) for fact in facts if fact["victim"] == 0) >= 7, "most kills must have hit a save"
    happened("the newest whole step loads each time, with the numbers of that step; the other process ends by itself")


@pytest.mark.parametrize(
    ("places", "twice"),
    [
        ([((0, 0), (2, 3)), ((2, 0), (2, 3))], False),
        ([((0, 0), (3, 3)), ((2, 0), (1, 3))], True),
        ([((0, 0), (2, 2)), ((0, 2), (2, 1)), ((2, 0), (2, 3))], False),
        ([((0, 0), (2, 2)), ((1, 1), (2, 2))], True),
    ],
)
def test_numbers_that_two_files_hold_are_noticed(places, twice):
    assert reader._overlap([reader._Piece("f", offsets, sizes) for offsets, sizes in places]) == twice
