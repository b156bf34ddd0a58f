"""The bench of attention: every way that a machine has, on the same numbers, and the rule that follows."""

from __future__ import annotations

import json

import torch

from foundation.cli import main
from foundation.measure.attention import Result, Work, compare, multi_crop, quickest, rule
from foundation.measure.timing import Speed

CPU = torch.device("cpu")


def test_ways_are_compared_on_the_same_numbers():
    work = Work("small", 32, 2, ((2, 17), (8, 5)), torch.float32)
    found = {one.way: one for one in compare(work, CPU, rounds=1)}
    assert set(found) == {"sdpa", "explicit", "xformers", "varlen", "flex"}
    for way in ("sdpa", "explicit"):
        assert found[way].speed is not None and found[way].error < 1e-5 and not found[way].problem
    assert "no backward pass on a CPU" in found["flex"].problem and found["flex"].speed is None
    assert found["varlen"].problem == "half precision only" and "needs a CUDA GPU" in found["xformers"].problem


def test_rows_are_those_of_two_global_and_eight_local_views():
    (work,) = multi_crop(["ViT-L"], 3, [torch.bfloat16])
    assert work.lengths == ((6, 197), (24, 37)) and (work.width, work.heads) == (1024, 16)


def test_the_rule_is_the_order_of_mean_times():
    def result(name, way, seconds):
        work = Work(name, 32, 2, ((1, 1),), torch.bfloat16)
        speed = None if seconds is None else Speed(seconds, seconds, seconds, None)
        return Result(work, way, speed, error=0.0)

    found = [result("a", "sdpa", 4.0), result("b", "sdpa", 1.0), result("a", "flex", 1.0), result("b", "flex", 1.0)]
    found.append(result("a", "varlen", None))
    assert rule(found) == "bfloat16: flex (1.00), sdpa (2.00)"
    assert [one.way for one in quickest(found[:1] + found[2:3] + found[4:])] == ["flex", "sdpa"]


def test_the_command_prints_a_table_and_the_rule(tmp_path, capsys):
    words = ["--batch", "1", "--shapes", "ViT-S", "--tokens", "17", "5", "--rounds", "1"]
    assert main(["bench", "attention", *words, "--json", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    assert "the order that follows" in printed and "auto on" in printed
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["rule"].startswith("bfloat16: ") and found["machine"]["versions"]["torch"] and found["batch"] == 1
    assert {row["way"] for row in found["rows"]} == {"sdpa", "explicit", "xformers", "varlen", "flex"}
