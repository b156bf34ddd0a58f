"""Files of weights that are wrong: damaged, dangerous, of something else, cut off, with numbers that are none."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foundation.encoders import vit
from foundation.errors import UserError
from foundation.zoo.convert.read import levels
from foundation.zoo.load import load_encoder

WIDTH, DEPTH = 64, 2


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Weights of DINOv2 as its file has them, of a small shape."""
    generator, found = torch.Generator().manual_seed(0), {}
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "pos_embed": (1, 17, WIDTH), "mask_token": (1, WIDTH), "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,), "patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,),
    }  # fmt: skip
    for number in range(DEPTH):
        start = f"blocks.{number}"
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"{start}.{name}"] = (WIDTH,)
        for layer, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"{start}.{layer}.weight"], shapes[f"{start}.{layer}.bias"] = (
                (out * WIDTH, into * WIDTH),
                (out * WIDTH,),
            )
    for name, shape in shapes.items():
        found[name] = torch.randn(shape, generator=generator) * 0.1
    return found


def test_the_same_weights_in_every_wrapping_and_form(state, tmp_path):
    wrapped = {
        "plain.pth": state,
        "pack.pt": {"model": state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        "train.pth": {
            "student": {f"module.backbone.{name}": value + 1 for name, value in state.items()},
            "teacher": {f"backbone.{name}": value for name, value in state.items()}
            | {"head.last.weight": torch.ones(2)},
        },
        "lightning.ckpt": {"state_dict": {f"model.teacher.encoder.{name}": value for name, value in state.items()}},
    }
    for name, content in wrapped.items():
        torch.save(content, tmp_path / name)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "hub.safetensors")
    view = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    found = [load_encoder(file).encoder([view])[0].cls for file in sorted(tmp_path.iterdir())]
    assert len(found) == 6 and all(torch.equal(one, found[0]) for one in found)
    student = load_encoder(tmp_path / "train.pth", branch="student")
    assert not torch.equal(student.encoder([view])[0].cls, found[0])
    assert isinstance(student.encoder, vit.Encoder) and not student.encoder.training


def test_what_was_left_out_is_told():
    content = {
        "teacher": {"backbone.a": torch.ones(1), "head.b": torch.ones(1), "head.c": torch.ones(1)},
        "student": {"x": torch.ones(1)},
    }
    *_, last = levels(content)
    assert last.path == ("teacher", "backbone") and [*last.state] == ["a"]
    assert last.left_out == {"student": "not taken", "head.": "not of the backbone (2 tensors)"}


class Evil:
    """Leaves a trace where it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(new, state, tmp_path):
    file = tmp_path / "evil.pth"
    torch.save({"model": state, "hook": Evil(tmp_path / "trace")}, file, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=r"evil.pth holds more than tensors \(.*mkdir.*refused.*weights_only=False"):
        load_encoder(file)
    assert not (tmp_path / "trace").exists()
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Evil(tmp_path / "trace")))
    with pytest.raises(UserError, match=r"plain\.pt"):
        load_encoder(plain)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no file of weights: it is empty"),
        (b"<!DOCTYPE html><html>", "no file of weights: it begins with '<!DOCTYPE html><html>'"),
        (b"version https://git-lfs.github.com/spec/v1", "it begins with 'version https://git-lfs.'"),
        (b"\x80\x02junk", "damaged or cut off: unpack requires"),
        (b"PK\x03\x04" + bytes(40), "damaged or cut off"),
    ],
)
def test_what_is_no_file_of_weights_is_said(content, words, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_encoder(tmp_path / "w.pth")
    (tmp_path / "pipe.pth").symlink_to("/dev/null")
    with pytest.raises(UserError, match="no regular file"):
        load_encoder(tmp_path / "pipe.pth")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_that_is_cut_off_is_named(share, new, state, tmp_path):
    file = tmp_path / "half.pth"
    torch.save(state, file, _use_new_zipfile_serialization=new)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"half\.pth"):
        load_encoder(file)


def test_tensors_that_claim_more_than_the_file_holds(state, tmp_path):
    """One number repeated without end takes no room in a file, and all the memory when it is copied."""
    state["pos_embed"] = torch.zeros(1).expand(1, 10**7, WIDTH)
    torch.save(state, tmp_path / "bomb.pth")
    assert (tmp_path / "bomb.pth").stat().st_size < 10**7
    with pytest.raises(UserError, match="its tensors claim"):
        load_encoder(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.mlp.fc2.bias"), "'blocks.1.mlp.fc2.bias' is missing"),
        (lambda s: [s.pop(name) for name in [*s] if name.startswith("blocks.0.")], "no weights that are known"),
        (lambda s: s.update({"blocks.4.norm1.weight": torch.ones(WIDTH)}), "'blocks.2.norm1.weight'"),
        (lambda s: s.update({"blocks.1.attn.rel_pos": torch.ones(4)}), "do not have the tensors blocks.1.attn.rel_pos"),
        (lambda s: s.update({"blocks.1.mlp.fc1.weight": torch.ones(9, WIDTH)}), "'trunk.blocks.1.ffn.hidden"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 18, WIDTH)}), "17 positions are no square grid"),
        (lambda s: s["norm.weight"].fill_(float("nan")), "64 of the 64 numbers of 'trunk.norm.weight' are NaN"),
        (lambda s: s.update({"patch_embed.proj.weight": torch.ones(WIDTH, 3, 14, 7)}), "are no squares"),
    ],
)  # fmt: skip
def test_weights_that_are_wrong_name_what_is(change, words, state, tmp_path):
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match=words) as caught:
        load_encoder(tmp_path / "wrong.pth")
    assert "wrong.pth" in str(caught.value)


def test_other_networks_and_words_are_refused(state, tmp_path):
    resnet = {"conv1.weight": torch.ones(4, 3, 7, 7), "layer1.0.conv1.weight": torch.ones(4, 4, 3, 3)}
    torch.save(resnet, tmp_path / "resnet50.pth")
    with pytest.raises(
        UserError, match=r"resnet50.pth holds no weights that are known here; there are: conv1.weight, "
    ):
        load_encoder(tmp_path / "resnet50.pth")
    with pytest.raises(UserError, match=r"resnet50.pth holds no weights of DINOv2"):
        load_encoder(f"{tmp_path / 'resnet50.pth'},as=dinov2")
    torch.save(state, tmp_path / "v2.pth")
    file = tmp_path / "v2.pth"
    for text, words in {
        f"{file},as=mae": r"no weights of MAE .*, but such as \S+v2.pth,as=dinov2 takes",
        f"{file},as=dinov9": "no source called 'dinov9'.*did you mean 'dinov",
        f"{file},as=dinov2,heads=7": "width 64 cannot be cut into 7",
        f"{file},as=dinov2,depth=7": "depth",
        f"{file},heads=2": "say whose weights they are",
        f"{tmp_path / 'v3.pth'}": "do not exist; did you mean",
        f"{tmp_path / 'resnet50.pth'},as=vjepa2": "no weights of V-JEPA 2",
    }.items():
        with pytest.raises(UserError, match=words):
            load_encoder(text)
    torch.save(torch.ones(3), tmp_path / "one.pth")
    with pytest.raises(UserError, match="no weights by name, but one Tensor"):
        load_encoder(tmp_path / "one.pth")
    save_file(resnet, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"its card bare.json is missing"):
        load_encoder(tmp_path / "bare.safetensors")
