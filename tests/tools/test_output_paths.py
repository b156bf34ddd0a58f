"""Where figures cannot be written, that is said before the work, not after it."""

from __future__ import annotations

import argparse

import pytest

from foundation.cli import main
from foundation.errors import UserError
from foundation.files import output_file, require_writable, write_output

PLAN = ("plan", "dinov2-vits14", "--gpus", "8", "--gpu", "h100")


@pytest.mark.parametrize(
    "words",
    [(*PLAN, "--json"), (*PLAN, "--svg"), ("bench", "attention", "--json"), ("bench", "memory", "--json")],
    ids=lambda words: words[-1] + " of " + words[0] + " " + words[1],
)
@pytest.mark.parametrize("place", ["folder", "below a file", "/proc/x/a.json"])
def test_a_place_that_cannot_be_written_is_refused_first(words, place, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("x")
    path = {"folder": str(tmp_path), "below a file": str(tmp_path / "file" / "a.json")}.get(place, place)
    monkeypatch.setattr("foundation.run.gpus.card", lambda *_: pytest.fail("work was begun"))
    monkeypatch.setattr("torch.set_num_threads", lambda *_: pytest.fail("work was begun"))
    try:
        code = main([*words, path])
    except SystemExit as end:
        code = end.code
    assert code == 2
    said = capsys.readouterr().err
    assert path in said and "Traceback" not in said
    assert not list(tmp_path.glob("*/*")) and (tmp_path / "file").read_text() == "x"


def test_a_folder_for_the_figures_of_the_gpu_is_tried_first(capsys):
    assert main(["bench", "gpu", "--out", "/proc/x"]) == 2
    assert "cannot write /proc/x/gpu.json" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_made_when_there_is_something_to_write(tmp_path):
    path = output_file(str(tmp_path / "a" / "b.json"))
    assert not path.parent.exists()
    write_output(path, "1\n")
    assert path.read_text() == "1\n"


def test_a_device_is_written_into_and_never_replaced():
    path = output_file("/dev/null")
    write_output(path, "1\n")
    assert path.is_char_device()
    with pytest.raises(UserError, match="a pipe or a device"):
        require_writable(path)


def test_a_folder_is_no_file_for_output(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder"):
        output_file(str(tmp_path))
