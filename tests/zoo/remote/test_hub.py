"""Weights by their address on the hub: fetched once from a server that answers as the hub does, then from its cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from foundation.errors import UserError
from foundation.zoo import hub

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "a" * 40
FILE = "owner/repo/resolve/{}/model.pth"


@pytest.fixture
def served(tmp_path):
    """Address of a hub with ``owner/repo``, the requests that it was asked, and its weights."""
    weights = tmp_path / "model.pth"
    torch.save({"a": torch.arange(4.0)}, weights)
    content, asked = weights.read_bytes(), []

    class Hub(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append((self.command, self.path))
            there = self.path.strip("/") in (FILE.format("main"), FILE.format("v1"), FILE.format(COMMIT))
            self.send_response(200 if there else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if not there:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content) if there else 0))
            self.end_headers()
            if there and self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = answer

        def log_message(self, *words) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked, weights
    server.shutdown()


def test_a_file_is_asked_for_once_and_kept(served, tmp_path):
    url, asked, weights = served
    code = """
        import sys, json
        from foundation.errors import UserError
        from foundation.zoo import hub
        said = []
        for text, fetch in json.loads(sys.argv[1]):
            try:
                said.append(hub.on_this_machine(text, fetch))
            except UserError as error:
                said.append(f"refused: {error}")
        print(json.dumps(said))
    """

    def ask(*wanted: tuple[str, bool], **more: str) -> list[str]:
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"} | more
        words = [sys.executable, "-c", "\n".join(line[8:] for line in code.splitlines()), json.dumps(wanted)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    name = "hf://owner/repo/model.pth"
    planned, forbidden = *ask((name, False)), *ask((name, True), FOUNDATION_OFFLINE="1")
    assert "a plan fetches nothing: hf download owner/repo model.pth" in planned
    assert "FOUNDATION_OFFLINE is set" in forbidden and not asked
    path, wrong = ask((name + ",as=dino", True), ("hf://owner/repo/none.pth", True))
    assert path.endswith(",as=dino") and Path(path.removesuffix(",as=dino")).read_bytes() == weights.read_bytes()
    assert wrong.startswith("refused: hf://owner/repo/none.pth cannot be had") and "404" in wrong
    before = len(asked)
    again, planned, offline = ask((name, True), (name, False), (name + ",as=mae", True), FOUNDATION_OFFLINE="1")
    assert again == planned == path.removesuffix(",as=dino") and offline == again + ",as=mae"
    assert len(asked) == before, "what is there is not asked for again"
    assert ask((f"{name}@v1", True))[0].endswith("model.pth") and f"/{FILE.format('v1')}" in [p for _, p in asked]


@pytest.mark.parametrize(
    "text", ["hf://model.pth", "hf://owner/model.pth", "hf://owner/repo/", "hf://../../etc/passwd,x"]
)
def test_what_is_no_address_of_a_file_is_told_how_to_write_it(text):
    with pytest.raises(UserError, match="hf://OWNER/REPO/FILE"):
        hub.on_this_machine(text)
