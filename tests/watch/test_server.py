"""Who gets an answer, and which."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import urlencode, urlsplit

import pytest

from foundation.errors import UserError
from foundation.watch.access import Access
from foundation.watch.board import Board
from foundation.watch.server import Server, refuse_other_addresses
from tests.watch.folders import line, log, write_run


def ask(server, target, method="GET", **headers):
    """Status, headers and body of an answer; ``Host`` and the cookie are right unless given otherwise."""
    port, token = server.access.port, server.access.token
    told = {"Host": f"127.0.0.1:{port}", "Cookie": f"{server.access.cookie}={token}"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in told.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def runs_of(server):
    return json.loads(ask(server, "/runs")[2])["runs"]


def test_other_hosts_sites_and_people_are_refused(tmp_path, serve):
    write_run(tmp_path / "runs" / "a")
    server = serve(tmp_path / "runs")
    port, token = server.access.port, server.access.token
    own = f"http://127.0.0.1:{port}"
    for target in ("/", "/runs", "/curves?run=x", "/samples?run=x", "/compare", "/nothing"):
        for headers in (
            {"Host": "evil.example"}, {"Host": f"evil.example:{port}"}, {"Host": "127.0.0.1"}, {"Host": None},
            {"Host": f"127.0.0.1:{port + 1}"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{port + 1}"}, {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"}, {"Cookie": None}, {"Cookie": f"{server.access.cookie}=x"},
            {"Cookie": f"{server.access.cookie}="}, {"Cookie": "\x80;;=,"},
        ):  # fmt: skip
            status, answer, body = ask(server, target, **headers)
            assert status == 403, (target, headers)
            assert b"tiny" not in body and token.encode() not in body and "Set-Cookie" not in answer
    assert ask(server, "/?token=wrong", Cookie=None)[0] == 403
    for headers in ({}, {"Host": f"localhost:{port}"}, {"Origin": own}, {"Sec_Fetch_Site": "same-origin"}):
        assert ask(server, "/runs", **headers)[0] == 200
    ticket = urlsplit(server.address_once()).query
    status, headers, _ = ask(server, f"/?{ticket}", Cookie=None)
    assert status == 200 and token in headers["Set-Cookie"]
    assert ask(server, f"/?{ticket}", Cookie=None)[0] == 403  # it opens the page once
    # A page of another site may be the one with the link, but neither frame nor fetch the page, even with the token.
    link = {"Sec_Fetch_Site": "cross-site", "Cookie": None}
    assert ask(server, f"/?token={token}", Sec_Fetch_Dest="document", **link)[0] == 200
    assert ask(server, f"/?token={token}", Sec_Fetch_Dest="iframe", **link)[0] == 403
    assert ask(server, f"/?token={token}", Sec_Fetch_Dest="empty", **link)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH"])
def test_nothing_can_be_written(tmp_path, serve, method):
    assert ask(serve(tmp_path), "/runs", method)[0] == 405


def test_headers_keep_the_page_to_itself(tmp_path, serve):
    server = serve(tmp_path)
    status, headers, body = ask(server, f"/?token={server.access.token}", Cookie=None)
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert server.access.token in cookie and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    policy = headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert body.count(f'nonce="{nonce}"'.encode()) == 2 and server.access.token.encode() not in body
    assert nonce not in ask(server, "/")[1]["Content-Security-Policy"]
    assert not re.search(rb"(?:src|href)=\"?(?!\"?data:)", body.replace(script_of(body), b""))
    for target in ("/", "/runs", "/nothing"):
        headers = ask(server, target)[1]
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert not [name for name in headers if name.lower().startswith("access-control")]
    status, headers, body = ask(server, "/runs", "HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0


def script_of(body):
    return re.search(rb"<script.*</script>", body, re.S)[0]


def test_what_has_not_changed_is_not_sent_again(tmp_path, serve):
    write_run(tmp_path / "a")
    server = serve(tmp_path)
    mark = ask(server, "/runs")[1]["ETag"]
    status, headers, body = ask(server, "/runs", If_None_Match=mark)
    assert status == 304 and body == b"" and headers["ETag"] == mark
    log(tmp_path / "a", [300])
    server.board.refresh()
    assert ask(server, "/runs", If_None_Match=mark)[0] == 200


def test_a_page_gets_the_points_that_it_lacks(tmp_path, serve):
    write_run(tmp_path / "a")
    server = serve(tmp_path)
    identifier = runs_of(server)[0]["id"]

    def curves(*have):
        query = urlencode(
            [("run", identifier), *(pair for key, text in have for pair in (("key", key), ("have", text)))]
        )
        return json.loads(ask(server, f"/curves?{query}")[2])["curves"]

    first = curves(("loss", "-1.0"), ("probe/knn_top1", "-1.0"), ("unknown", "-1.0"))
    assert first["loss"]["x"] == list(range(10, 210, 10)) and first["probe/knn_top1"]["x"] == [100, 200]
    assert "unknown" not in first
    log(tmp_path / "a", [210, 220])
    server.board.refresh()
    assert curves(("loss", f"{first['loss']['generation']}.19"))["loss"]["x"] == [200, 210, 220]
    assert ask(server, f"/curves?run={identifier}&key=loss&have=x")[0] == 400
    assert ask(server, f"/curves?run={identifier}" + "&key=loss&have=0.0" * 600)[0] == 400
    assert ask(server, "/curves?run=../../etc&key=loss&have=-1.0")[0] == 404


def test_words_of_a_request_never_name_a_file(tmp_path, serve):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "secret").write_text("xyzzy")
    server = serve(tmp_path / "runs")
    for target in (
        "/../secret", "/%2e%2e/secret", "//etc/passwd", "/a/recipe.yaml", "/watch.js", "/samples?run=a",
        "/curves?run=a&key=loss&have=-1.0", "/samples?run=%2e%2e%2fsecret", "/curves?run=..", "file:///etc/passwd",
    ):  # fmt: skip
        assert ask(server, target)[0] == 404, target


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path, serve):
    outside = write_run(tmp_path / "outside", name="outside-name")
    (outside / "metrics.jsonl").write_text(line(77, **{"out/side": 1.0}))
    root = tmp_path / "runs"
    for part in ("recipe.yaml", "metrics.jsonl", "status.json"):
        run = write_run(root / part.partition(".")[0])
        (run / part).unlink()
        (run / part).symlink_to(outside / part)
    (root / "whole").symlink_to(outside)
    inside = write_run(root / "inside")
    (inside / "metrics.jsonl").rename(root / "elsewhere.jsonl")
    (inside / "metrics.jsonl").symlink_to("../elsewhere.jsonl")
    server = serve(root)
    found = {run["place"]: run for run in runs_of(server)}
    assert sorted(found) == ["inside", "metrics", "recipe", "status"]
    for part in ("metrics", "recipe", "status"):
        assert found[part]["state"] == "unreadable" and "leads out of the watched folder" in found[part]["problems"][0]
    assert found["inside"]["state"] == "stopped" and "loss" in found["inside"]["series"]
    for target in ("/runs", "/"):
        assert b"outside-name" not in ask(server, target)[2] and b"out/side" not in ask(server, target)[2]


def test_names_with_html_and_signs_that_turn_the_writing_are_text(tmp_path, serve):
    evil = "<img src=x onerror=alert(1)>\u202e"
    write_run(tmp_path / "<script>alert(2)<\u2215script>\u202e", name=evil)
    run = write_run(tmp_path / "b")
    (run / "status.json").write_text(json.dumps({"state": "failed", "time": 1.0, "reason": f"</script>{evil}"}))
    (run / "recipe.yaml").write_text("name: b\nx: '<script>alert(3)</script>'\n")
    (run / "metrics.jsonl").write_text(line(1, **{"<b>": 1.0, "probe/<i>": 0.5}))
    server = serve(tmp_path)
    page = ask(server, "/")[2]
    shown = page.replace(script_of(page), b"").decode()
    for text in ("<img", "<script", "<b>", "<i>", "\u202e"):
        assert text not in shown.replace("<script nonce", "")
    assert "\u202e" not in json.dumps(runs_of(server), ensure_ascii=False)
    assert ask(server, "/runs")[1]["Content-Type"] == "application/json"


def test_a_run_that_is_damaged_deleted_or_new_leaves_the_others_alone(tmp_path, serve):
    good, gone, bad = (write_run(tmp_path / name) for name in ("good", "gone", "bad"))
    server = serve(tmp_path)
    shutil.rmtree(gone)
    for name in ("status.json", "recipe.yaml", "metrics.jsonl"):
        (bad / name).write_bytes(b"\xff\0{")
    write_run(tmp_path / "deep" / "er" / "new")
    server.board._next_scan = 0.0
    server.board.refresh()
    found = {run["place"]: run for run in runs_of(server)}
    assert sorted(found) == ["bad", "deep/er/new", "good"]
    assert found["good"]["problems"] == [] and len(found["bad"]["problems"]) >= 2
    assert ask(server, "/")[0] == 200
    assert good.is_dir()


def test_a_comparison_shows_settings_that_differ_and_hides_secrets(tmp_path, serve):
    write_run(tmp_path / "a", seed=1)
    other = write_run(tmp_path / "b", seed=2)
    with open(other / "recipe.yaml", "a") as file:
        file.write("objectives: [{name: dino, weight: 1}, {name: koleo}, {name: dino, weight: 2}]\n")
        file.write('data: {shards: ["https://me:hunter2@example.org/a.tar?sig=hunter3"]}\n')
    server = serve(tmp_path)
    ids = {run["place"]: run["id"] for run in runs_of(server)}
    body = ask(server, f"/compare?{urlencode([('run', ids['a']), ('run', ids['b']), ('run', 'unknown')])}")[2]
    found = json.loads(body)
    assert found["runs"] == [ids["a"], ids["b"]] and b"hunter" not in body
    settings = {name: cells for name, *cells in found["settings"]}
    assert settings["seed"] == ["1", "2"] and settings["objectives.dino-2.weight"] == ["", "2"]
    assert "objectives.dino.weight" in settings and "data.shards" in settings and "name" not in settings
    figures = {name: cells for name, *cells in found["figures"]}
    assert figures["step"] == ["200", "200"] and figures["kNN, while training"] == ["10.0 %", "10.0 %"]


def test_only_the_loopback_interface_is_served(tmp_path):
    with pytest.raises(UserError, match="ssh -L"):
        refuse_other_addresses("0.0.0.0")
    server = Server(Board(tmp_path))
    try:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(UserError, match="Leave --port out"):
            Server(Board(tmp_path), server.access.port)
    finally:
        server.server_close()
    assert Access(1).token != Access(1).token and len(Access(1).token) >= 32


def test_ctrl_c_ends_the_command_quietly(tmp_path):
    write_run(tmp_path / "runs" / "a")
    words = [sys.executable, "-m", "foundation", "watch", str(tmp_path / "runs")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    finally:
        signal.signal(signal.SIGINT, before)
    address = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline())
    idle = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=20)
    idle.request("GET", f"/?token={address[2]}")
    assert idle.getresponse().read().startswith(b"<!doctype html>")  # and the connection stays open
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    idle.close()
    assert process.returncode == 130 and said == ""


def test_files_are_not_looked_at_while_nobody_looks(tmp_path, monkeypatch):
    write_run(tmp_path / "a")
    board = Board(tmp_path)
    board.refresh()
    now = time.monotonic()
    monkeypatch.setattr("foundation.watch.board.time.monotonic", lambda: now + 3600)
    looked = []
    monkeypatch.setattr(Board, "refresh", lambda self: looked.append(1) or True)
    board.start()
    time.sleep(0.3)
    assert not looked
    board.asked()
    assert looked


def test_of_a_probe_the_best_treatment_of_the_newest_file_is_shown(tmp_path):
    folder = write_run(tmp_path / "a") / "probes"
    folder.mkdir()
    for age, name, scores in ((20, "old", (0.9, 0.8)), (10, "new", (0.7, 0.6))):
        rows = [
            {"name": "model", "treatment": t, "top1": s} for t, s in zip(("as is", "whitened"), scores, strict=True)
        ]
        rows.append({"name": "raw", "treatment": "as is", "top1": 0.99})
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"format": 1, "probe": "knn", "metric": "top1", "results": rows}))
        os.utime(path, (time.time() - age,) * 2)
    board = Board(tmp_path)
    board.refresh()
    (run,) = board.runs()
    assert run.results["knn/top1"] == 0.7
