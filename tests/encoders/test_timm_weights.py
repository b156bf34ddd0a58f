"""Where the weights of timm models come from, and that nobody waits for a server that does not answer."""

from __future__ import annotations

import importlib
import socket
import time

import pytest
import torch
from safetensors.torch import save_file

from foundation.cli import main
from foundation.encoders import timm as adapter
from foundation.errors import UserError
from foundation.zoo.load import load_encoder

timm = pytest.importorskip("timm", exc_type=Exception)
MODEL = "test_vit"  # a network of a few thousand parameters that timm publishes for tests


@pytest.fixture
def trained():
    """timm's own model with its classifier, as it would be published."""
    torch.manual_seed(7)
    return timm.create_model(MODEL)


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(trained.state_dict(), path)
    return path


def features(encoder):
    with torch.no_grad():
        return encoder.eval()([torch.full((1, 3, 160, 160), 0.5)])[0].patches


def test_a_file_gives_the_weights_that_are_in_it(trained, file):
    loaded = load_encoder(f"timm:{MODEL},weights={file}")
    assert str(file) in loaded.description
    own = loaded.encoder.model.state_dict()
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in own.items())
    with torch.no_grad():
        wanted = trained.eval().forward_features(torch.full((1, 3, 160, 160), 0.5))[:, 1:]
    assert torch.equal(features(loaded.encoder), wanted)
    assert not torch.equal(features(loaded.untrained(seed=3)), wanted)
    assert torch.equal(features(adapter.Config(model=MODEL, weights=str(file)).build()), wanted)  # as a recipe says it


def test_files_that_do_not_fit_or_are_not_safe_are_refused(trained, tmp_path):
    part = dict(trained.state_dict())
    part.pop("blocks.0.attn.qkv.weight")
    save_file(part, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"part\.safetensors does not fit timm's 'test_vit': .*blocks\.0\.attn\.qkv"):
        load_encoder(f"timm:{MODEL},weights={tmp_path / 'part.safetensors'}")
    wide = {name: torch.zeros(3, *tensor.shape) for name, tensor in trained.state_dict().items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"wide\.safetensors does not fit timm's 'test_vit'"):
        load_encoder(f"timm:{MODEL},weights={tmp_path / 'wide.safetensors'}")
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth is not read: .*\.safetensors"):
        load_encoder(f"timm:{MODEL},weights={tmp_path / 'model.pth'}")
    with pytest.raises(UserError, match=r"absent\.safetensors does not exist"):
        load_encoder(f"timm:{MODEL},weights={tmp_path / 'absent.safetensors'}")


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (load_encoder(f"timm:{MODEL},random").encoder for _ in range(2))
    assert torch.equal(features(first), features(second)) and torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UserError, match="after the comma stands 'random' or 'weights=FILE"):
        load_encoder(f"timm:{MODEL},rnadom")


def test_names_that_are_near_are_said():
    with pytest.raises(UserError, match=r"timm has no model 'resnet81'; similar: .*resnet18"):
        load_encoder("timm:resnet81")
    with pytest.raises(UserError, match=r"timm has no model 'resnet18\.a1_in2k'; there are: resnet18\.a1_in1k"):
        load_encoder("timm:resnet18.a1_in2k")


def test_a_plan_needs_no_weights(tmp_path):
    with torch.device("meta"):
        adapter.Config(model=MODEL, weights=str(tmp_path / "absent.safetensors")).build()


def test_without_a_network_one_sentence_says_what_to_do_and_nothing_is_waited_for(tmp_path, monkeypatch, capsys):
    hub = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as nobody:  # listens on this port
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        begun = time.monotonic()
        assert main(["knn", "timm:resnet18", "--train", "x.tar", "--test", "x.tar"]) == 2
        assert time.monotonic() - begun < 30  # the hub's own attempts take 50 s and more
    (line,) = capsys.readouterr().err.strip().splitlines()
    for said in ("'resnet18'", "Connection refused", "timm:resnet18,weights=FILE.safetensors", "timm:resnet18,random"):
        assert said in line
    assert not hub.HF_HUB_OFFLINE  # the next model is asked for again
