"""What processes tell each other."""

from __future__ import annotations

import json

from foundation.parallel.collective import gather_json, gather_to_first, on_first_rank, sums_over_ranks

CODE = """
import json, torch
from foundation.errors import UserError
from foundation.parallel import collective as c
from foundation.parallel.process_group import process_group

with process_group("cpu"):
    r = c.rank()
    found = {"sums": c.sums_over_ranks({"a": r + 1, "b": 0.5, "nan": float("nan") if r else 0.0})}
    found["json"] = c.gather_json({"rank": r, "text": "x" * (10 * r)})
    tensors = {"bytes": torch.arange(3 + r, dtype=torch.uint8), "number": torch.tensor(r + 0.5, dtype=torch.float64)}
    found["tensors"] = [{k: v.tolist() for k, v in part.items()} for part in c.gather_to_first(tensors)]
    asked = []
    found["first"] = c.on_first_rank(lambda: asked.append(r) or "from the first")
    found["asked"] = asked
    def fail():
        raise UserError("no such shards")
    try:
        c.on_first_rank(fail)
    except Exception as error:
        found["error"] = [str(error), error.exit_code]
    print(json.dumps(found))
"""


def test_three_processes(together):
    first, *others = [json.loads(done.stdout) for done in together(CODE, 3)]
    for found in (first, *others):
        assert found["sums"]["a"] == 6 and found["sums"]["b"] == 1.5
        assert found["sums"]["nan"] != found["sums"]["nan"]
        assert found["json"] == [{"rank": r, "text": "x" * (10 * r)} for r in range(3)]
        assert found["first"] == "from the first"
        assert found["error"] == ["no such shards", 2]
    assert first["tensors"] == [{"bytes": list(range(3 + r)), "number": r + 0.5} for r in range(3)]
    assert [found["tensors"] for found in others] == [[], []]
    assert [found["asked"] for found in (first, *others)] == [[0], [], []]


def test_one_process_needs_no_group():
    assert sums_over_ranks({"a": 2}) == {"a": 2}
    assert gather_json([1]) == [[1]]
    assert gather_to_first({}) == [{}]
    assert on_first_rank(lambda: 3) == 3
