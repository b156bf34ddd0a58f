"""A metrics file that grows, shrinks, is replaced, damaged or goes away."""

from __future__ import annotations

import os

import pytest

from foundation.watch import tail as module
from foundation.watch.tail import MetricsTail
from tests.watch.folders import line


def steps(tail: MetricsTail) -> list[int]:
    return tail.series["loss"].points()["x"] if "loss" in tail.series else []


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(1, 2001))))
    tail = MetricsTail(path)
    while not tail.read():
        pass
    taken = []
    take = MetricsTail._take
    monkeypatch.setattr(MetricsTail, "_take", lambda self, text: (taken.append(text), take(self, text)))
    with open(path, "a") as file:
        file.write(line(2001) + line(2002)[:30])
    tail.read()
    assert len(taken) == 1 and steps(tail)[-1] == 2001
    with open(path, "a") as file:
        file.write(line(2002)[30:])
    tail.read()
    assert len(taken) == 2 and steps(tail)[-1] == 2002 and not tail.problems


def test_a_large_file_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(1, 101))))
    tail, seen = MetricsTail(path), []
    while not tail.read():
        seen.append(tail.progress)
    assert seen == sorted(seen) and seen[0] < 0.5 and len(seen) > 5
    assert steps(tail) == list(range(1, 101)) and tail.progress == 1


@pytest.mark.parametrize("how", ["shorter", "replaced", "written anew in place"])
def test_a_file_that_was_written_anew_is_read_anew(tmp_path, how):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(10, 100))))
    tail = MetricsTail(path)
    tail.read()
    if how == "replaced":
        other = tmp_path / "other"
        other.write_text("".join(map(line, range(1000, 1200))))
        os.replace(other, path)
        expected = list(range(1000, 1200))
    else:
        expected = list(range(3)) if how == "shorter" else list(range(2000, 2400))
        path.write_text("".join(map(line, expected)))
    tail.read()
    assert steps(tail) == expected
    assert tail.problems == [
        f"metrics.jsonl {'became shorter' if how == 'shorter' else 'was replaced'}, and is read anew"
    ]


def test_a_file_that_is_gone_has_no_curves_and_says_so(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() and not tail.problems
    path.write_text(line(1))
    tail.read()
    path.unlink()
    assert tail.read() and steps(tail) == [] and tail.problems == ["metrics.jsonl is gone"]
    path.mkdir()
    assert tail.read() and "a folder, not a file" in tail.problems[0]
    path.rmdir()
    path.write_text(line(1) + line(2))
    tail.read()
    assert steps(tail) == [1, 2]


def test_damaged_lines_are_counted_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 4096)
    path = tmp_path / "metrics.jsonl"
    bad = ["[" * 100_000, "{}", '{"step": -1}', '{"step": 3, "a": {"b": 1}}', "\0\0\0", '{"step": 4, "\\u202e": 1}']
    text = line(1) + "\n".join(bad) + "\n" + line(2) + line(3, loss=None)
    path.write_bytes(text.encode() + b"\xff\xfe\n" + line(5).encode())
    tail = MetricsTail(path)
    while not tail.read():
        pass
    assert steps(tail) == [1, 2, 5] and list(tail.series) == [
        "loss", "schedule/learning_rate", "throughput/samples_per_second",
    ]  # fmt: skip
    assert any("damaged lines left out" in text for text in tail.problems)
    assert any("1 value of the loss not finite" in text for text in tail.problems)


def test_figures_without_end_are_not_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, **{f"made-up/{step}": 1.0}) for step in range(1, 1000)))
    tail = MetricsTail(path)
    while not tail.read():
        pass
    assert len(tail.series) == module.MOST_SERIES and "more than 400 figures" in tail.problems[0]


def test_of_a_very_large_file_some_lines_are_read_and_all_probes(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    text = "".join(line(step) for step in range(1, 1000)) + '{"step": 1000, "probe/knn_top1": 0.5}\n'
    path.write_text(text)
    monkeypatch.setattr(module, "WHOLE", len(text) // 10 + 1)
    tail = MetricsTail(path)
    tail.read()
    assert steps(tail) == list(range(1, 1000, 10)) and tail.series["probe/knn_top1"].last == 0.5
    assert "one line in 10 is read" in tail.problems[0]
    with open(path, "a") as file:
        file.write("".join(map(line, range(1001, 1011))))
    tail.read()
    assert steps(tail)[-10:] == list(range(1001, 1011))
