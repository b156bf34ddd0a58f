"""What launches leave behind, read back."""

from __future__ import annotations

import json

import pytest

from foundation.cluster import records
from foundation.errors import UserError


def launch(root, job: str, stamp: str):
    folder = root / "jobs" / stamp
    content = {
        "on": "slurm", "time": 1.0, "host": "h", "command": [], "tasks": 1, "retries": 3, "code": {}, "environment": {},
        "jobs": [{"id": job, "run": str(root), "words": []}],
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text(json.dumps(content))
    return folder


def test_launches_are_found_below_a_folder_and_from_a_run_of_a_sweep(tmp_path):
    sweep = launch(tmp_path / "sweep", "7", "20300101-000000")
    single = launch(tmp_path / "single", "8", "20290101-000000")
    run = tmp_path / "sweep" / "seed=0"
    run.mkdir()
    (run / "recipe.yaml").write_text("{}")
    hidden = tmp_path / "single" / "checkpoints" / "jobs" / "x"
    hidden.mkdir(parents=True)
    (hidden / "launch.json").write_text("{}")
    assert list(records.launches(tmp_path)) == [single, sweep]
    assert list(records.launches(run)) == [sweep]


@pytest.mark.parametrize("job", ["--me", "7; rm", "../7", "", "7_", "7_0_1"])
def test_what_is_no_number_of_a_job_never_reaches_the_queue(job, tmp_path):
    with pytest.raises(UserError, match="no number of a job"):
        records.read_launch(launch(tmp_path, job, "x"))
    assert records.read_launch(launch(tmp_path / "good", "7_0", "x"))["jobs"][0]["id"] == "7_0"


def test_an_end_that_was_cut_off_counts_as_none(tmp_path):
    end = {"rank": 0, "host": "n1", "time": 2.0, "code": 75, "signal": None, "error": "x"}
    records.write_rank_end(tmp_path, "7", 0, end)
    records.write_rank_end(tmp_path, "7", 1, end | {"time": 1.0})
    records.write_rank_end(tmp_path, "7", 0, end | {"rank": 1, "time": 1.0})
    (tmp_path / "7_start0_rank2.json").write_text('{"rank": 2')
    assert [item["rank"] for item in records.rank_ends(tmp_path, "7", 0)] == [1, 0], "the earliest first"


def test_two_launches_in_one_second_have_folders_of_their_own(tmp_path):
    first = records.new_folder(tmp_path)
    first.mkdir(parents=True)
    assert records.new_folder(tmp_path) != first
