"""The pictures of what training saw, from another process."""

from __future__ import annotations

import json
import time

import pytest

from foundation.errors import UserError
from foundation.watch.board import Board
from foundation.watch.samples import Samples, drawn, pictures
from tests.watch.folders import write_run


@pytest.mark.slow
def test_the_first_samples_of_a_run_are_drawn_once(tmp_path, tiny_recipe_file):
    run = write_run(tmp_path / "runs" / "a")
    (run / "recipe.yaml").write_text(tiny_recipe_file.read_text())
    board, samples = Board(tmp_path / "runs"), Samples()
    board.refresh()
    watched = board.runs()[0]
    end = time.monotonic() + 100
    while (answer := samples.of(watched))["state"] == "making":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert answer["state"] == "ready", answer
    titles = [picture["title"] for picture in answer["samples"][0]["pictures"]]
    assert len(answer["samples"]) == 4 and titles[0] == "whole sample" and "global 2" in titles and "local 1" in titles
    assert all(picture["uri"].startswith("data:image/") for picture in answer["samples"][3]["pictures"])
    assert samples.of(watched) is answer
    assert json.loads(json.dumps(answer)) == answer


def test_pictures_that_take_too_long_are_given_up(tmp_path):
    answer = drawn(write_run(tmp_path / "a"), seconds=0.01)
    assert answer["state"] == "problem" and "longer than 0.01 s" in answer["text"]


def test_nothing_is_fetched_and_no_program_is_started_for_a_page(tmp_path, tiny_recipe_file):
    for shards, said in (
        ("https://127.0.0.1:9/a.tar", "on another machine"),
        ("pipe:touch ran", "output of a program"),
    ):
        run = write_run(tmp_path / said)
        text = tiny_recipe_file.read_text()
        place = text.index("shards: [") + len("shards: [")
        (run / "recipe.yaml").write_text(f'{text[:place]}"{shards}"{text[text.index("]", place) :]}')
        with pytest.raises(UserError, match=said):
            pictures(run)
