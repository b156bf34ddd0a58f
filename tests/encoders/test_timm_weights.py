"""Where the weights of timm models come from, and that nobody waits for a server that does not answer."""

from __future__ import annotations

import importlib
import socket
import socketserver
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from foundation import hub_access
from foundation.cli import main
from foundation.encoders import timm as adapter
from foundation.encoders.timm_weights import fetching
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
        planned = adapter.Config(model=MODEL, weights=str(tmp_path / "absent.safetensors")).build()
    assert all(parameter.is_meta for parameter in planned.parameters()), "a plan takes no memory and reads no file"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol by which a file is fetched."""

    def do_GET(self):
        name = f"/timm/{MODEL}.r160_in1k/resolve/main/model.safetensors"
        data = self.server.file.read_bytes() if self.path == name else b""
        self.server.asked.append((self.command, self.path))
        self.send_response(200 if data or self.path == "/" else 404)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"1234"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if not data:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """``hub(address)``: where the hub's client asks from now on, with a cache of its own."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def point(address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        return constants

    return point


def test_a_name_alone_means_the_published_weights_which_are_then_on_this_machine(trained, file, hub):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.file, server.asked = file, []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub(f"http://127.0.0.1:{server.server_port}")
    loaded = load_encoder(f"timm:{MODEL}")
    server.shutdown()
    server.server_close()
    assert ("GET", f"/timm/{MODEL}.r160_in1k/resolve/main/model.safetensors") in server.asked
    for encoder in (loaded.encoder, load_encoder(f"timm:{MODEL},pretrained").encoder):  # the second without a server
        own = encoder.model.state_dict()
        assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in own.items())


def test_without_a_network_one_sentence_says_what_to_do_and_nothing_is_waited_for(hub, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)  # the hub's own attempts have 46 s of them
    with socket.socket() as nobody:  # listens on this port
        nobody.bind(("127.0.0.1", 0))
        constants = hub(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert main(["knn", "timm:resnet18", "--train", "x.tar", "--test", "x.tar"]) == 2
    assert sum(pauses) < 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    for said in ("'resnet18'", "Connection refused", "timm:resnet18,weights=FILE.safetensors", "timm:resnet18,random"):
        assert said in line
    assert not constants.HF_HUB_OFFLINE  # the next model is asked for again


@pytest.mark.parametrize("variable", ["FOUNDATION_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("model", ["timm:resnet18", "open_clip:ViT-B-32,pretrained=datacomp_xl_s13b_b90k"])
def test_where_the_network_is_forbidden_the_hub_is_not_asked(hub, monkeypatch, capsys, variable, model):
    if model.startswith("open_clip"):
        pytest.importorskip("open_clip")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.file, server.asked = None, []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    constants = hub(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv(variable, "1")
    assert main(["knn", model, "--train", "x.tar", "--test", "x.tar"]) == 2
    server.shutdown()
    server.server_close()
    assert f"({variable} is set)" in capsys.readouterr().err and not server.asked
    assert not constants.HF_HUB_OFFLINE


def test_where_the_network_is_forbidden_no_address_of_a_model_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("FOUNDATION_OFFLINE", "1")
    published = types.SimpleNamespace(has_weights=True, hf_hub_id=None, url="https://models.example.org/a.pth?v=1")
    with pytest.raises(UserError, match="FOUNDATION_OFFLINE is set"), fetching("a", published):
        pytest.fail("it is asked")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "a.pth").touch()
    with fetching("a", published):  # an earlier download is there
        pass


class Garbage(socketserver.BaseRequestHandler):
    """Answers, but not in HTTP, as a gateway that wants a login may."""

    def handle(self):
        self.request.recv(1000)
        self.request.sendall(b"what?\r\n\r\n")


@pytest.mark.parametrize("kind", ["garbage", "silence", "no address"])
def test_a_server_that_does_not_serve_ends_it_with_one_sentence(kind, hub, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(hub_access, "_SECONDS", 0.2)
    with socketserver.TCPServer(("127.0.0.1", 0), Garbage) as server:  # silent as long as nobody serves
        if kind == "garbage":
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        hub("nowhere" if kind == "no address" else f"http://127.0.0.1:{server.server_address[1]}")
        assert main(["knn", "timm:resnet18", "--train", "x.tar", "--test", "x.tar"]) == 2
        if kind == "garbage":
            server.shutdown()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot be fetched" in line and "timm:resnet18,weights=FILE.safetensors" in line
