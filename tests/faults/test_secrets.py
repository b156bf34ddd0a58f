"""Passwords, signatures and tokens of addresses: used, and written or shown nowhere."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation import config
from foundation.cli import main
from foundation.data.storages import storage_of
from foundation.errors import UserError
from foundation.redact import has_password, redact
from foundation.run.recipe import Recipe
from tests.data.remote.conftest import Handler, Web


class Guarded(Handler):
    """Serves whoever signs, or says who asks."""

    def do_GET(self) -> None:
        good = "X-Amz-Signature=hush" in self.path or self.headers.get("Authorization") == self.server.login
        if good:
            return super().do_GET()
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def web(tiny_shards: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    server = Web(Path(tiny_shards).parent)
    server.RequestHandlerClass = Guarded
    server.login = "Basic " + base64.b64encode(b"me:hush-by-netrc").decode()
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("NETRC", "/dev/null/nothing")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/a-{0..9}.tar?sig=hush&X=hush", "https://h/a-{0..9}.tar?sig=***&X=***"),
        ("https://h/a.tar?download=1&versionId=3&token=hush", "https://h/a.tar?download=1&versionId=3&token=***"),
        ("https://h/a.tar?download=1;sig=hush", "https://h/a.tar?download=***"),
        ("https://h/a.tar?raw=1#sig=hush", "https://h/a.tar?raw=1#***"),
        ("https://h/page#section.", "https://h/page#section."),
        ("https://me:hush@h/a.tar", "https://***@h/a.tar"),
        ("https://hush@h:80?sig=hush", "https://***@h:80?sig=***"),
        ("HTTPS://hush@h/a@b", "HTTPS://***@h/a@b"),
        ("s3://key:hush@bucket/a-?.tar", "s3://***@bucket/a-?.tar"),
        ("abfs://box@account.dfs.core.windows.net/a.tar", "abfs://box@account.dfs.core.windows.net/a.tar"),
        ("hf://datasets/org/name@main/a.tar", "hf://datasets/org/name@main/a.tar"),
        ("az://box/a.tar?sv=hush&sig=hush", "az://box/a.tar?sv=***&sig=***"),
        ("pipe:curl -H 'Authorization: Bearer hush' https://h/a", "pipe:curl -H 'Authorization: ***' https://h/a"),
        ("pipe:curl -s -u me:hush https://h/a?sig=hush", "pipe:curl -s -u *** https://h/a?sig=***"),
        ("pipe:curl -H 'PRIVATE-TOKEN: hush, hush' -b id=hush https://h/a", "pipe:curl -H 'PRIVATE-TOKEN: ***' -b *** https://h/a"),
        ('pipe:curl -H \'Authorization: Token token="hush"\' -sume:hush', "pipe:curl -H 'Authorization: ***' -su***"),
        ("pipe:wget --http-password=hush -U 'me:hush' -O -", "pipe:wget --http-password=*** -U '***' -O -"),
        ("pipe:env AWS_SESSION_TOKEN=hush aws s3 cp s3://b/a -", "pipe:env AWS_SESSION_TOKEN=*** aws s3 cp s3://b/a -"),
        ("pipe:sshpass -p hush ssh me@h cat a.tar", "pipe:sshpass -p *** ssh me@h cat a.tar"),
        ("pipe:tar -cf - --sort=name -b 20 data", "pipe:tar -cf - --sort=name -b 20 data"),
        ("https://h/a.tar?sig=a|hush^hush\\hush'hush&raw=1", "https://h/a.tar?sig=***&raw=1"),
        ("https://h/a.tar?hush", "https://h/a.tar?***"),
        ("https://me:hush/hush@h/a.tar and https://h:8080/a@b", "https://***@h/a.tar and https://h:8080/a@b"),
        ("s3://key:hush?hush#hush@bucket/a.tar", "s3://***@bucket/a.tar"),
        ("Max retries exceeded with url: /a.tar?sig=hush (no)", "Max retries exceeded with url: /a.tar?sig=*** (no)"),
        ("no run https:/h/a.tar?sig=hush, nor https:/me:hush@h/", "no run https:/h/a.tar?sig=***, nor https:/***@h/"),
        ("C:/data/a?b=1 and file:/data/a-?.tar", "C:/data/a?b=1 and file:/data/a-?.tar"),
        ("> Authorization: Bearer hush", "> Authorization: ***"),
        ("cannot read 'https://h/a?sig=hush': no, [https://h/b?sig=hush].", "cannot read 'https://h/a?sig=***': no, [https://h/b?sig=***]."),
        ("data/train-*.tar", "data/train-*.tar"),
        ("a note: 3 tokens, x-ray: fine", "a note: 3 tokens, x-ray: fine"),
    ],
)  # fmt: skip
def test_secrets_are_masked_and_all_else_is_left(text, shown):
    assert redact(text) == shown and redact(shown) == shown
    assert str(UserError(text)) == shown


def test_text_of_any_length_is_masked_in_linear_time():
    begun = time.process_time()
    for sign in (*".&=?@/:a'", "url:/", " -H 'a:", " -u", " --key", "x-", "'https://"):
        redact("pipe: https://" + (sign * 100_000)[:100_000] + "\n")
    assert time.process_time() - begun < 2


@pytest.mark.slow
@pytest.mark.fault(42, "signed addresses in a recipe: X-Amz-Signature, and a new signature for each start")
def test_a_signed_address_is_written_nowhere(web, tiny_recipe_file, foundation, tmp_path, capfd, happened):
    run, said = tmp_path / "run", ""

    def pretrain(signature: str, stop: int, *words: str) -> tuple[int, str]:
        shards = f"data.shards={web.url}/train-000000.tar?X-Amz-Signature={signature}&X-Amz-Date=hush-too"
        cache = f"data.cache={tmp_path / 'cache'}"
        where = ("--run", run, f"train.stop_after={stop} steps")
        command = ["pretrain", tiny_recipe_file, shards, cache, *where, *words]
        if not run.exists():
            done = foundation(*command)
            return done.returncode, done.stdout + done.stderr
        capfd.readouterr()
        code, said = main([str(word) for word in command]), capfd.readouterr()
        return code, said.out + said.err

    code, text = pretrain("hush1", 2)
    assert code == 0, text
    said += text
    code, text = pretrain("hush2", 4)  # the same command with the signature of another day
    assert code == 0 and "resuming from step-00000002" in text, text
    said += text
    for name in ("status.json", "recipe.yaml"):
        assert (run / name).exists()
    assert "train-000000.tar?X-Amz-Signature=***" in (run / "recipe.yaml").read_text()
    assert main(["export", str(run), "--out", str(tmp_path / "export")]) == 0
    assert main(["report", str(run)]) == 0
    assert main(["pretrain", str(run)]) == 2  # what was masked cannot be used, and says so
    captured = capfd.readouterr()
    assert "Give the address anew" in captured.err
    web.login = ""
    code, text = pretrain("wrong-but-secret", 6)
    assert code == 2 and "403" in text, text
    said += captured.out + captured.err + text
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert len(files) > 10 and (run / "report.html") in files
    for path in (*files, *(tmp_path / "cache").rglob("*.json")):
        assert b"hush" not in path.read_bytes(), path
    assert not any(word in said for word in ("hush", "wrong-but-secret"))
    happened("masked in recipe, state, card, report and messages; the run goes on with another signature")


@pytest.mark.fault(42, "a password in an address; the same in ~/.netrc")
def test_a_password_is_refused_in_an_address_and_taken_from_netrc(
    web, tiny_recipe_file, tmp_path, monkeypatch, capsys, happened
):
    place = web.url.removeprefix("http://")
    for address in (
        f"http://me:hush@{place}/train-000000.tar",
        f"http://hush@{place}/",
        "s3://key:hush/#hush@bucket/a.tar",
    ):
        assert has_password(address)
        command = ["pretrain", str(tiny_recipe_file), f"data.shards=[{address}]", "--run", str(tmp_path / "run")]
        assert main(command) == 2
        said = capsys.readouterr()
        assert "netrc" in said.err and "hush" not in said.out + said.err
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    assert not has_password("abfs://box@account.example/a") and not has_password("https://h/a@b:c")
    address = f"{web.url}/train-000000.tar"
    with pytest.raises(Exception, match="403"):
        storage_of(address).stat(address)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush-by-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert storage_of(address).stat(address).size
    happened("refused before anything is written, without repeating it, with a word on ~/.netrc, which works")


@pytest.mark.fault(42, "pipe: in the recipe of a run folder of someone else, with its own allow_pipes: true")
def test_the_recipe_of_a_run_folder_starts_no_program(tiny_recipe, tmp_path, capsys, happened):
    recipe = tiny_recipe("data.allow_pipes=true", f"data.shards=['pipe:touch {tmp_path / 'harm'}']")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(config.dump(recipe))
    assert config.load(Recipe, run / "recipe.yaml") == recipe
    for more in ((), ("--dry-run",)):
        assert main(["pretrain", str(run), *more]) == 2
        assert "add data.allow_pipes=true" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()
    main(["pretrain", str(run), "data.allow_pipes=true"])
    assert (tmp_path / "harm").exists()  # the user's own word
    happened("refused, exit 2, with the words that would allow it")
