"""A model is pulled whole or not at all, over connections that break, from servers that lie, by several at once."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from foundation.cli import main
from foundation.errors import UserError
from foundation.zoo.entry import read
from foundation.zoo.home import Home
from foundation.zoo.registry import find, list_models, pull, require, troubles, weights_of
from tests.zoo.remote.conftest import SIZE, card, file_of, make_zoo, write_cards

NAME = "some-model"
WEIGHTS = f"{NAME}/{NAME}.safetensors"


@pytest.fixture
def zoo(tmp_path):
    make_zoo(tmp_path / "zoo")
    return tmp_path / "zoo"


def parts(home: Path) -> list[Path]:
    return sorted((home / "models" / NAME).glob(".*.part"))


def test_a_model_comes_from_a_web_server_once(zoo, serve, home):
    web = serve(zoo)
    pull(NAME, Home(), web.url)
    assert (home / "models" / WEIGHTS).read_bytes() == (zoo / WEIGHTS).read_bytes()
    assert not parts(home) and len(web.asked(WEIGHTS)) == 1
    pull(NAME, Home(), web.url)
    assert len(web.asked(WEIGHTS)) == 1
    assert weights_of(NAME) == home / "models" / WEIGHTS, "what was pulled is found without its zoo"


@pytest.mark.parametrize("fault", ["cut", "stalls"])
def test_a_connection_that_breaks_is_gone_on_with(zoo, serve, home, fault):
    web = serve(zoo)
    web.faults[WEIGHTS] = [fault, "500"]
    pull(NAME, Home(), web.url)
    assert web.asked(WEIGHTS) == [("", fault), (f"bytes={SIZE // 2}-", "500"), (f"bytes={SIZE // 2}-", "")]
    assert not troubles(require(NAME), Home())


def test_what_came_is_kept_for_the_next_attempt(zoo, serve, home):
    web = serve(zoo)
    web.faults[WEIGHTS] = ["cut", "500..."]
    with pytest.raises(UserError, match=r"HTTP 500 \(attempt 6 of 6\)[\s\S]*What came so far is kept"):
        pull(NAME, Home(), web.url)
    (part,) = parts(home)
    assert part.stat().st_size == SIZE // 2 and find(NAME) is None
    web.faults[WEIGHTS].clear()
    pull(NAME, Home(), web.url)
    assert web.asked(WEIGHTS)[-1] == (f"bytes={SIZE // 2}-", "") and not parts(home)
    assert (home / "models" / WEIGHTS).read_bytes() == (zoo / WEIGHTS).read_bytes()


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(zoo, serve, home):
    web = serve(zoo)
    web.faults[WEIGHTS] = ["cut", "ignores ranges"]
    pull(NAME, Home(), web.url)
    assert not troubles(require(NAME), Home())


def test_other_bytes_are_refused_and_thrown_away(zoo, serve, home):
    web = serve(zoo)
    web.faults[WEIGHTS] = ["wrong bytes..."]
    with pytest.raises(UserError, match=r"its SHA-256 is .*, its card says [\s\S]*thrown away"):
        pull(NAME, Home(), web.url)
    assert not parts(home) and not (home / "models" / WEIGHTS).exists()
    web.faults[WEIGHTS] = ["cut", "wrong bytes"]
    pull(NAME, Home(), web.url)
    assert not troubles(require(NAME), Home()), "a second download from the beginning mends it"


@pytest.mark.parametrize(("change", "said"), [(b"x", "more bytes than the"), (None, "299,999 of 300,000 bytes came")])
def test_a_file_larger_or_smaller_than_said_is_refused(zoo, serve, home, change, said):
    data = (zoo / WEIGHTS).read_bytes()
    (zoo / WEIGHTS).write_bytes(data + change if change else data[:-1])
    with pytest.raises(UserError, match=said):
        pull(NAME, Home(), serve(zoo).url)
    assert not (home / "models" / WEIGHTS).exists()


def test_a_stalled_server_is_named(zoo, serve, home, monkeypatch):
    monkeypatch.setattr("foundation.data.storages.READ_SECONDS", 0.1)
    web = serve(zoo)
    web.faults[WEIGHTS] = ["stalls..."]
    with pytest.raises(UserError, match=r"no data for 0.1 seconds"):
        pull(NAME, Home(), web.url)


def test_a_redirect_leads_to_another_server_but_not_to_a_file(zoo, serve, home):
    web, other = serve(zoo), serve(zoo)
    web.faults[WEIGHTS] = [f"to {other.url}/{WEIGHTS}"]
    pull(NAME, Home(), web.url)
    assert other.asked(WEIGHTS) == [("", "")]
    main(["zoo", "remove", NAME])
    web.faults[WEIGHTS] = [f"to file://{zoo}/{WEIGHTS}"]
    with pytest.raises(UserError, match=r"redirects to file://.* is not followed"):
        pull(NAME, Home(), web.url)
    assert web.asked(WEIGHTS)[-1] == ("", f"to file://{zoo}/{WEIGHTS}"), "and is not asked again"


def test_a_redirect_from_https_to_http_is_refused(zoo, serve, home, tmp_path, monkeypatch):
    plain, secure = serve(zoo), serve(zoo)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run(["openssl", *words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    address = secure.url.replace("http:", "https:")
    secure.faults[WEIGHTS] = [f"to {plain.url}/{WEIGHTS}"]
    with pytest.raises(UserError, match=r"redirects to http://.* is not followed"):
        pull(NAME, Home(), address)
    assert not plain.requests
    pull(NAME, Home(), address)
    assert not troubles(require(NAME), Home())


def test_two_processes_fetch_a_model_once(zoo, serve, home, command):
    web = serve(zoo)
    web.faults[WEIGHTS] = ["slow"]
    make_zoo(zoo, size=400_000)
    started = [command("zoo", "pull", NAME, "--from", web.url) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert len(web.asked(WEIGHTS)) == 1
    assert "another process is pulling it" in said[0][1] + said[1][1]
    assert not troubles(require(NAME), Home())


def test_a_killed_pull_is_gone_on_with_by_the_next(zoo, serve, home, command):
    web = serve(zoo)
    web.faults[WEIGHTS] = ["stalls"]
    process = command("zoo", "pull", NAME, "--from", web.url)
    while not [part for part in parts(home) if part.stat().st_size >= SIZE // 2]:
        assert process.poll() is None, process.communicate()
    process.kill()
    process.wait()
    pull(NAME, Home(), web.url)
    assert web.asked(WEIGHTS)[-1] == (f"bytes={SIZE // 2}-", "") and not parts(home)


def test_a_full_disk_is_said_and_what_came_is_kept(zoo, serve, home, command):
    web = serve(zoo)
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    process = command("zoo", "pull", NAME, "--from", web.url, before=limit)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and "no room in" in said and "FOUNDATION_HOME" in said, said
    assert [part.stat().st_size for part in parts(home)] == [200_000]
    pull(NAME, Home(), web.url)
    assert web.asked(WEIGHTS)[-1] == ("bytes=200000-", "")


def test_a_model_for_which_there_is_no_room_is_not_begun(zoo, serve, home, monkeypatch):
    monkeypatch.setattr("foundation.zoo.fetch._RESERVE", 2**60)
    web = serve(zoo)
    with pytest.raises(UserError, match=r"no room for some-model.safetensors \(300,000 bytes, 0 of them there\)"):
        pull(NAME, Home(), web.url)
    assert not web.asked(WEIGHTS)


def test_offline_nothing_is_asked_but_files_and_mirrors(zoo, serve, home, monkeypatch, capsys):
    web = serve(zoo)
    monkeypatch.setenv("FOUNDATION_ZOO", web.url)
    assert NAME in {entry.name for entry in list_models()}
    before = len(web.requests)
    monkeypatch.setenv("FOUNDATION_OFFLINE", "1")
    assert NAME in {entry.name for entry in list_models("random")}, "the index of the last time tells what there is"
    with pytest.raises(UserError, match="not asked, as FOUNDATION_OFFLINE is set"):
        pull(NAME, Home())
    assert len(web.requests) == before
    monkeypatch.setenv("FOUNDATION_MIRRORS", f"{web.url}/=file://{zoo}/")
    pull(NAME, Home())
    assert not troubles(require(NAME), Home()) and len(web.requests) == before


def test_a_zoo_out_of_reach_does_not_stand_before_the_others(zoo, home, monkeypatch, capsys):
    monkeypatch.setenv("FOUNDATION_ZOO", f"http://127.0.0.1:9/zoo {zoo}")
    assert {NAME, "dinov2-vits14-reg"} <= {entry.name for entry in list_models()}
    assert "left out: the zoo http://127.0.0.1:9/zoo cannot be read: the connection broke" in capsys.readouterr().err
    assert main(["zoo", "list", "--from", "http://127.0.0.1:9/zoo"]) == 2


def test_mirrors_are_asked_first_and_then_the_place_itself(zoo, serve, home, tmp_path):
    web, mirror = serve(zoo), serve(zoo)
    home.mkdir()
    (home / "mirrors.yaml").write_text(f"{web.url}: {mirror.url}\n")
    mirror.faults[WEIGHTS] = ["404..."]
    pull(NAME, Home(), web.url)
    assert mirror.asked(WEIGHTS) == [("", "404")] and web.asked(WEIGHTS) == [("", "")]
    assert not web.asked("index.json") and mirror.asked("index.json")
    (home / "mirrors.yaml").write_text("nowhere: /mnt\n")
    with pytest.raises(UserError, match=r"mirrors\.yaml.*a mirror is written BEGINNING=OTHER"):
        pull(NAME, Home(), web.url)


def test_without_a_network_every_place_and_the_ways_out_are_named(tmp_path, home):
    secret = "http://127.0.0.1:9/x.safetensors?token=abcdef"
    make_zoo(tmp_path / "zoo", sources=(secret,))
    (tmp_path / "zoo" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="connection broke") as caught:
        pull(NAME, Home(), str(tmp_path / "zoo"))
    said = str(caught.value)
    assert "not there" in said and "FOUNDATION_MIRRORS" in said
    assert "abcdef" not in said


def test_a_model_comes_out_of_a_bucket(zoo, bucket, home):
    pull(NAME, Home(), bucket(zoo))
    assert not troubles(require(NAME), Home())


def test_a_model_comes_from_the_hub(zoo, serve, home, command, tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(zoo, hub / "owner/repo/resolve/v1")
    entry = make_zoo(zoo)
    (zoo / WEIGHTS).unlink()
    file = file_of(hub / "owner/repo/resolve/v1" / WEIGHTS, f"hf://owner/repo/{WEIGHTS}@v1")
    write_cards(zoo, card(NAME, file, entry.files[1]))
    web = serve(hub)
    web.faults[f"owner/repo/resolve/v1/{WEIGHTS}"] = ["cut"]
    told = {"HF_ENDPOINT": web.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = command("zoo", "pull", NAME, "--from", str(zoo), HF_HUB_OFFLINE="1", **told)
    assert "as HF_HUB_OFFLINE is set" in process.communicate(timeout=60)[1] and not web.requests
    process = command("zoo", "pull", NAME, "--from", str(zoo), **told)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert web.asked(f"owner/repo/resolve/v1/{WEIGHTS}")[-1] == (f"bytes={SIZE // 2}-", "")
    assert not troubles(require(NAME), Home())


def test_a_changed_file_is_found_and_pulled_again(zoo, home, monkeypatch, capsys):
    monkeypatch.setenv("FOUNDATION_ZOO", str(zoo))
    pull(NAME, Home())
    there = home / "models" / WEIGHTS
    there.write_bytes(there.read_bytes()[:-1] + b"?")
    assert main(["zoo", "list", "--pulled"]) == 0
    listed = capsys.readouterr()
    assert " in doubt " in listed.out and "in doubt: pulled, and changed since" in "".join(listed)
    assert main(["zoo", "verify"]) == 2
    assert "its SHA-256 is" in capsys.readouterr().out
    assert weights_of(NAME).read_bytes() == (zoo / WEIGHTS).read_bytes()
    assert main(["zoo", "verify", NAME]) == 0 and "some-model: good, 2 files" in capsys.readouterr().out
    assert main(["zoo", "list", "--pulled"]) == 0 and " pulled " in capsys.readouterr().out
    there.write_bytes(b"?")
    monkeypatch.delenv("FOUNDATION_ZOO")
    with pytest.raises(UserError, match=f"is not whole .*came from {zoo}"):
        weights_of(NAME)


def test_a_newer_card_replaces_the_model_when_it_is_pulled_anew(zoo, home, monkeypatch):
    pull(NAME, Home(), str(zoo))
    old = require(NAME).entry
    make_zoo(zoo, size=1000)
    assert require(NAME).entry == old
    pull(NAME, Home(), str(zoo))
    assert require(NAME).entry.size == 1002 and not troubles(require(NAME), Home())


def test_names_and_addresses_of_others_lead_nowhere_else(zoo, serve, home, tmp_path):
    index = zoo / "index.json"
    good = index.read_text()
    for bad, said in {
        good.replace(f'"name": "{NAME}.json"', '"name": "../../x.json"'): "no plain name of a file",
        good.replace(f'"{NAME}/{NAME}.json"', '"../../../etc/passwd"'): "neither a path beside the card nor an address",
        good.replace(f'"{NAME}/{NAME}.json"', '"file:///etc/passwd"'): "must not name files of this machine",
        good.replace(f'"{NAME}/{NAME}.json"', '"pipe:touch x"'): "neither a path beside the card nor an address",
        good.replace(f'"name": "{NAME}",', '"name": "other",'): "is that of 'other'",
        good.replace(f'"name": "{NAME}",', '"name": "../../up",'): "is no name of a model",
        good.replace('"summary"', '"summery"'): "unknown key 'summery'; did you mean 'summary'",
        good[:-20]: "no JSON",
        good.replace('"format": 1', '"format": 2'): "has format 2",
        good.replace(f'"{NAME}/{NAME}.json"', '"https://me:x@h/f"'): "has a user name or password",
    }.items():
        index.write_text(bad)
        with pytest.raises(UserError, match=said):
            pull(NAME, Home(), serve(zoo).url)
    assert not (home / "models").exists() or not list((home / "models").rglob("*.json"))
    for name in ("..", "../x", "a/../b", "/etc", "", "."):
        with pytest.raises(UserError):
            Home().model(name)


def test_a_folder_that_is_a_link_keeps_what_is_not_of_the_model(zoo, home, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (home / "models").mkdir(parents=True)
    (home / "models" / NAME).symlink_to(mine)
    pull(NAME, Home(), str(zoo))
    assert sorted(path.name for path in mine.iterdir() if path.name[0] != ".") == [
        f"{NAME}.json", f"{NAME}.safetensors", "thesis.txt"
    ]  # fmt: skip


def test_a_card_that_cannot_be_read_is_left_out_and_said_where_it_is_wanted(zoo, serve, home, monkeypatch, capsys):
    make_zoo(zoo, "other", 1000)
    write_cards(zoo, read(zoo / f"{NAME}.yaml"), read(zoo / "other.yaml"))
    index, one = zoo / "index.json", zoo / f"{NAME}.yaml"
    before = index.read_text()
    index.write_text(before.replace('"summary"', '"newer_key"', 1))
    one.write_text(one.read_text().replace("summary:", "newer_key:"))
    for place in (serve(zoo).url, str(zoo)):
        monkeypatch.setenv("FOUNDATION_ZOO", place)
        assert {entry.name for entry in list_models("random")} == {"other"}
        assert "left out: 2 problems in" in capsys.readouterr().err
        with pytest.raises(UserError, match="unknown key 'newer_key'"):
            require(NAME)
        assert require("other").entry.name == "other" and not capsys.readouterr().err


def test_an_answer_that_is_no_index_does_not_take_the_place_of_the_last_one(zoo, serve, home, monkeypatch, capsys):
    web = serve(zoo)
    monkeypatch.setenv("FOUNDATION_ZOO", web.url)
    assert NAME in {entry.name for entry in list_models()}
    (zoo / "index.json").write_text("<html>please log in</html>")
    for _ in range(2):
        assert require(NAME).entry.name == NAME
        assert "its index of the last time is used" in capsys.readouterr().err
    shutil.rmtree(home)
    assert "dinov2-vits14-reg" in {entry.name for entry in list_models()}
    assert "left out: the zoo http://127.0.0.1" in capsys.readouterr().err


def test_a_damaged_note_of_a_pulled_model_stands_before_no_other(zoo, home, monkeypatch, capsys):
    pull(NAME, Home(), str(zoo))
    (home / "models" / NAME / ".pulled.json").write_text("{")
    assert main(["zoo", "list"]) == 0
    said = capsys.readouterr()
    assert f"foundation zoo remove {NAME}" in said.err and "hapt-dino-ibot-nano" in said.out
    pull(NAME, Home(), str(zoo))
    assert main(["zoo", "list", "--pulled"]) == 0 and NAME in capsys.readouterr().out
    monkeypatch.setenv("FOUNDATION_HOME", str(zoo / f"{NAME}.yaml"))
    assert main(["zoo", "show", NAME]) == 2 and "is no folder: set FOUNDATION_HOME to one" in capsys.readouterr().err


def test_removing_takes_the_folder_of_the_model_alone(zoo, home, tmp_path, capsys):
    pull(NAME, Home(), str(zoo))
    (tmp_path / "mine").mkdir()
    (home / "models" / "linked").symlink_to(tmp_path / "mine")
    assert main(["zoo", "remove", NAME, "linked"]) == 0
    assert not (home / "models" / NAME).exists() and (tmp_path / "mine").is_dir() and (zoo / WEIGHTS).exists()
    assert main(["zoo", "remove", NAME]) == 2
    assert main(["zoo", "remove", "dinov2-vits14-reg"]) == 2 and "comes with the package" in capsys.readouterr().err


def test_unknown_names_are_told_the_nearest(zoo, home, capsys, monkeypatch):
    monkeypatch.setenv("FOUNDATION_ZOO", str(zoo))
    assert main(["zoo", "show", "sone-model"]) == 2
    assert "did you mean 'some-model'?" in capsys.readouterr().err
    monkeypatch.setenv("FOUNDATION_ZOO", str(zoo / "nowhere"))
    assert main(["zoo", "list"]) == 2
    assert "no such folder (named by FOUNDATION_ZOO or --from)" in capsys.readouterr().err
