"""Targets are there whole and checked, or not at all; nothing is replaced that was not asked for."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import foundation
from foundation.cli import main
from foundation.errors import UserError
from foundation.zoo.targets import export
from foundation.zoo.targets.base import Source, deviation, find, names
from foundation.zoo.targets.timm import Timm
from foundation.zoo.targets.writing import source_of, write_checked

pytestmark = pytest.mark.usefixtures("timm_itself")


class Wrong(Timm):
    """One layer is not as the encoder's."""

    factor = 1.01

    def write(self, source: Source, path: Path) -> Sequence[str]:
        notes = super().write(source, path)
        tensors = load_file(path / "model.safetensors")
        tensors["blocks.0.norm1.weight"] *= self.factor
        save_file(tensors, path / "model.safetensors")
        return notes


def test_what_does_not_agree_is_not_left_behind(image_encoder, tmp_path):
    source, out = source_of(image_encoder()), tmp_path / "out"
    for factor in (1.01, float("nan")):
        wrong = Wrong()
        wrong.factor = factor
        with pytest.raises(
            UserError, match=r"does not agree with the encoder: features differ by .* allowed are 1e-05"
        ):
            write_checked(wrong, source, out)
        assert not list(tmp_path.iterdir())
    write_checked(Timm(), source, out)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="was not written"):
        write_checked(Wrong(), source, out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", ["timm", "torch-export", "safetensors"])
def test_a_full_disk_is_one_line_and_leaves_nothing(to, image_encoder, tmp_path):
    out = tmp_path / f"out{find(to).ending}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(UserError, match=rf"cannot write {out}: .*File too large"):
            export(image_encoder(), to=to, out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unasked(image_encoder, tmp_path):
    out, file = tmp_path / "out", tmp_path / "a.safetensors"
    first, second = image_encoder(), image_encoder(registers=1)
    for path, to in ((out, "timm"), (file, "safetensors")):
        export(first, to=to, out=path)
        with pytest.raises(UserError, match=r"exists already: name another, or add --overwrite"):
            export(second, to=to, out=path)
        export(second, to=to, out=path, overwrite=True)
    assert "reg_token" in load_file(out / "model.safetensors") and "register_tokens" in load_file(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors", "out"]


def test_what_is_no_earlier_export_stays(image_encoder, tmp_path):
    home, link, loaded = tmp_path / "home", tmp_path / "link", image_encoder()
    home.mkdir()
    (home / "letters.txt").write_text("mine")
    link.symlink_to(home)
    (tmp_path / "file").write_text("mine")
    wrong = [
        (home, "timm", r"home is not replaced: it has letters\.txt"),
        (link, "timm", "is a link"),
        (tmp_path / "file", "timm", "is no folder"),
        (home, "safetensors", r"ends in \.safetensors"),
        (tmp_path / "file" / "below.safetensors", "safetensors", "cannot write"),
    ]
    for path, to, said in wrong:
        with pytest.raises(UserError, match=said):
            export(loaded, to=to, out=path, overwrite=True)
    assert (home / "letters.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "link"]


def test_unknown_targets_and_missing_packages_are_named(image_encoder, monkeypatch, tmp_path):
    assert names() == ["onnx", "safetensors", "timm", "torch-export", "transformers"]
    with pytest.raises(UserError, match=r"no target called 'onyx'; did you mean 'onnx'\? \(there are: onnx, safe"):
        find("onyx")
    for to, package in (("onnx", "onnxruntime"), ("transformers", "transformers")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            UserError, match=rf"needs the package.* {package}.*pip install 'foundation-pretrain\[convert"
        ):
            export(image_encoder(), to=to, out=tmp_path / "out")


def test_results_that_are_no_numbers_or_of_another_shape_never_agree():
    one = {"cls": torch.ones(2, 3), "patches": torch.zeros(2, 0, 3)}
    assert deviation(one, one) == 0.0
    assert deviation(one, {**one, "cls": one["cls"] * 1.5}) == 0.5
    for other in (
        {"cls": one["cls"]},
        {**one, "cls": torch.ones(1, 3)},
        {**one, "cls": torch.full((2, 3), float("nan"))},
        {**one, "registers": torch.ones(2, 1, 3)},
    ):
        assert deviation(one, other) == float("inf")


def test_an_export_of_ours_is_read_as_the_first(exported, tmp_path):
    path = exported("quickstart-imu", "encoder.depth=1")
    again = export(path, to="safetensors", out=tmp_path / "again.safetensors").path
    one, other = foundation.load(path), foundation.load(again)
    view = torch.randn(2, 6, 192)
    assert torch.equal(one(view), other(view))


def test_the_command(exported, tmp_path, capsys):
    path = exported("quickstart", "encoder.depth=1", "encoder.tokenizer.stem=patch")
    out = tmp_path / "out"
    assert main(["export", str(path), "--to", "timm", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"wrote {out}" in said and "checked on random numbers [3, 3, 48, 48]: its features differ" in said
    for arguments, wrong in (
        (["--to", "timm", "--out", str(out)], "exists already"),
        (["--to", "timm"], "say where to write it, --out FOLDER"),
        ([], "say where to write it, --out FILE.safetensors"),
        (["--to", "nothing"], "no target called 'nothing'"),
    ):
        assert main(["export", str(path), *arguments]) == 2
        assert wrong in " ".join(capsys.readouterr().err.split())
    assert main(["export", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["export", str(path), "--out", str(tmp_path / "again.safetensors")]) == 0
    assert foundation.load(tmp_path / "again.safetensors").width == foundation.load(path).width
