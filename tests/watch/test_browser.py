"""The page in a real browser: it follows the files, and what the files say stays text."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.watch.browser import Browser
from tests.watch.folders import line, log, write_run

pytestmark = pytest.mark.slow


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path / "browser")
    yield found
    found.close()


def last_shown(key):
    """What the chart of a figure says to a screen reader."""
    return f"(document.querySelector('[data-key=\"{key}\"] svg')?.getAttribute('aria-label') ?? '')"


def test_curves_follow_the_files(tmp_path, serve, browser):
    run = write_run(tmp_path / "runs" / "a")
    server = serve(tmp_path / "runs")
    browser.open(server.address)
    browser.wait(f"{last_shown('loss')}.includes('4.6 at step 200')")
    assert browser.value("location.search") == "" and browser.value("document.cookie") == ""
    path = "document.querySelector('[data-key=\"loss\"] path.line').getAttribute('d')"
    before = browser.value(path)
    log(run, range(210, 310, 10))
    browser.wait(f"{last_shown('loss')}.includes('4.4 at step 300')")
    assert browser.value(path) != before
    assert browser.value(f"({path}.match(/[ML]/g) ?? []).length") == 30
    browser.wait(f"{last_shown('probe/knn_top1')}.includes('15 % at step 300')")
    # The file is written anew, a second run appears and is laid over the first, and the first one is deleted.
    (run / "metrics.jsonl").write_text(line(10) + line(20))
    write_run(tmp_path / "runs" / "b", range(10, 510, 10), seed=1)
    browser.wait(f"{last_shown('loss')}.includes('at step 500') && {last_shown('loss')}.includes('at step 20')")
    assert browser.value("document.querySelectorAll('[data-key=\"loss\"] path.line').length") == 2
    assert browser.wait("document.querySelector('#runs').innerText.includes('became shorter')")
    compared = "document.querySelector('#compared')"
    browser.wait(f"{compared}.innerText.includes('1 setting that differs') && {compared}.innerText.includes('seed')")
    # The keyboard moves along a curve and is told the value; so is the pointer.
    browser.value("document.querySelector('[data-key=\"loss\"] .plot').focus()")
    for key in ("End", "ArrowLeft"):
        browser.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert "step 490" in browser.value("document.querySelector('[data-key=\"loss\"] .said').textContent")
    plot = "document.querySelector('[data-key=\"loss\"] .plot')"
    browser.value(f"{plot}.blur(), {plot}.scrollIntoView()")
    box = browser.value(f"(({{right, top, height}}) => [right - 14, top + height / 2])({plot}.getBoundingClientRect())")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    assert "step 500" in browser.wait("document.querySelector('[data-key=\"loss\"] .tip:not([hidden])')?.innerText")
    browser.value("document.querySelector('#log').click()")
    browser.wait("!!document.querySelector('[data-key=\"loss\"] path.line')")
    browser.value("document.querySelector('#runs input').click()")
    browser.wait("document.querySelectorAll('[data-key=\"loss\"] path.line').length == 1")
    cut = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.send("Network.emulateNetworkConditions", offline=True, **cut)
    browser.wait("document.querySelector('#banner').innerText.includes('No answer')")
    browser.send("Network.emulateNetworkConditions", offline=False, **cut)
    browser.wait("document.querySelector('#banner').hidden")
    assert not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]


def test_nothing_that_a_file_says_is_run(tmp_path, serve, browser):
    evil = "<img src=x onerror='window.hurt=1'><script>window.hurt=2</script>\u202e"
    run = write_run(tmp_path / "runs" / "<img src=x onerror='window.hurt=3'>", name=evil)
    (run / "metrics.jsonl").write_text(line(1, **{f"probe/{evil[:-1]}": 1.0}) + line(2) + "x\n")
    (run / "status.json").write_text(json.dumps({"state": "failed", "time": 1.0, "step": 2, "reason": evil}))
    (run / "recipe.yaml").write_text(f"name: {json.dumps(evil)}\n{json.dumps(evil)}: {json.dumps(evil)}\n")
    browser.open(serve(tmp_path / "runs").address)
    browser.wait("!!document.querySelector('[data-key=\"loss\"] svg')")
    browser.wait("document.querySelector('#runs').innerText.includes('onerror')")
    browser.wait("document.querySelector('#compared').innerText.includes('onerror')")
    assert browser.value("document.querySelectorAll('main img, main script').length") == 0
    assert browser.value("window.hurt ?? 0") == 0
    assert "\u202e" not in browser.value("document.body.innerText")
    # What a script did that came in nevertheless would be stopped by the policy of the page.
    browser.value(
        "const made = document.createElement('script'); made.text = 'window.hurt = 4'; document.body.append(made)"
    )
    browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt=5\">')")
    assert browser.value("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'not sent')") == "not sent"
    assert browser.value("window.hurt ?? 0") == 0


def test_a_page_of_another_site_gets_nothing(tmp_path, serve, browser):
    """Not even one on another port of this machine, to which the browser gives the cookie."""
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "index.html").write_text('<link rel="icon" href="data:,"><p>evil')
    server, handler = serve(tmp_path / "runs"), partial(SimpleHTTPRequestHandler, directory=tmp_path / "evil")
    browser.open(server.address)
    browser.wait("!!document.querySelector('[data-key=\"loss\"] svg')")  # the cookie is there
    own = f"http://127.0.0.1:{server.access.port}"
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{other.server_port}/")
        browser.wait("document.body?.innerText == 'evil'")
        browser.events.clear()
        fetch = f"fetch('{own}/runs', {{credentials: 'include'}}).then((answer) => answer.text(), () => 'nothing')"
        assert browser.value(fetch) == "nothing"
        blind = f"fetch('{own}/runs', {{mode: 'no-cors', credentials: 'include'}}).then(() => 1, () => 0)"
        browser.value(blind)
        asked = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSentExtraInfo"]
        assert any(server.access.token in str(params["headers"]) for params in asked)
        answers = [
            event["params"] for event in browser.events if event["method"] == "Network.responseReceivedExtraInfo"
        ]
        assert answers and {params["statusCode"] for params in answers} == {403}
        frame = f"const f = document.createElement('iframe'); f.src = '{own}/'; document.body.append(f)"
        browser.events.clear()
        browser.value(f"new Promise((done) => {{ {frame}; f.onload = done; }}).then(() => 1)")
        answers = [
            event["params"] for event in browser.events if event["method"] == "Network.responseReceivedExtraInfo"
        ]
        assert {params["statusCode"] for params in answers} == {403}
        other.shutdown()
