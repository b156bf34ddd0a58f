"""The page: valid, self-contained, escaped, and there for any part of a run that exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from foundation.errors import UserError
from foundation.report.build import write_report

VOID = {"meta", "link", "img", "br"}


class Checker(HTMLParser):
    """Balanced tags, no request to anywhere, and what the page holds."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.headings, self.images, self.charts, self.text = [], [], 0, 0, []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert value.startswith(("data:", "#")), f"{tag} asks for {value[:80]}"
            assert not name.startswith("on"), f"{tag} has a handler {name}"
        assert tag != "script"
        self.images += tag == "img"
        self.charts += tag == "polyline"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def check(page):
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert not re.search(r"@import|url\(", text)
    return checker


@pytest.fixture(scope="module")
def complete(tmp_path_factory, sample_run):
    run = sample_run.write_run(tmp_path_factory.mktemp("complete"))
    sample_run.write_metrics(run)
    return run


def test_a_whole_run_shows_curves_pictures_neighbours_and_confusions(complete):
    page = write_report(complete, samples=3)
    assert page == complete / "report.html"
    assert page.stat().st_size < 3_000_000
    found = check(page)
    expected = [
        "Training",
        "Schedules",
        "What it looks at",
        "Nearest neighbours",
        "Which classes it confuses",
        "Recipe",
    ]
    assert [heading for heading in found.headings if heading in expected] == expected
    assert found.charts >= 10
    assert found.images >= 3 * (1 + 1 + 3 + 1) + 6 * 5  # samples with mean, heads and components; neighbours
    assert "sample <run> & co" in found.headings  # escaped in the file, itself on the page
    assert "<run>" not in page.read_text()
    assert any("learning_rate" in text for text in found.text)


def test_a_run_that_has_only_a_recipe_says_what_is_missing(tmp_path, complete):
    run = tmp_path / "young"
    run.mkdir()
    shutil.copy(complete / "recipe.yaml", run)
    found = check(write_report(run))
    said = " ".join(found.text)
    assert "No metrics have been written yet." in said
    assert "No probe has been run yet" in said
    assert "No pictures" in said
    assert found.images == 0


def test_metrics_alone_are_enough(tmp_path, complete):
    run = tmp_path / "metrics"
    run.mkdir()
    shutil.copy(complete / "metrics.jsonl", run)
    found = check(write_report(run, tmp_path / "elsewhere" / "page.html"))
    assert found.charts >= 10
    assert (tmp_path / "elsewhere" / "page.html").exists()


def test_without_labels_neighbours_are_shown_and_confusions_are_not(tmp_path, sample_run):
    run = sample_run.write_run(tmp_path, labels=False)
    found = check(write_report(run, samples=2))
    assert "Nearest neighbours" in found.headings
    assert "Which classes it confuses" not in found.headings
    assert "have no labels" in " ".join(found.text)


def test_vanished_data_is_a_note_but_wrong_shards_are_an_error(tmp_path, sample_run):
    run = sample_run.write_run(tmp_path)
    shutil.rmtree(tmp_path / "shards")
    said = " ".join(check(write_report(run)).text)
    assert "No pictures" in said
    assert "--shards" in said
    with pytest.raises(UserError):
        write_report(run, shards=[str(tmp_path / "none-*.tar")])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "nowhere")


def test_a_hostile_recipe_stays_text(tmp_path):
    (tmp_path / "recipe.yaml").write_text('name: "</title><script>alert(1)</script>"\nencoder: {name: "<img src=x>"}\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "<script>x/y": 1}\n{"step": 2, "<script>x/y": 2}\nnull\n[]\n')
    check(write_report(tmp_path))


@pytest.mark.slow
def test_it_renders_in_a_browser(complete, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    page = write_report(complete, samples=2)
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,3200",
    ]  # fmt: skip
    picture = tmp_path / "page.png"
    shot = subprocess.run(
        [browser, *options, f"--screenshot={picture}", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert picture.exists(), shot.stderr[-2000:]
    assert "CONSOLE" not in shot.stderr
    from PIL import Image

    with Image.open(picture) as image:
        assert image.size == (1280, 3200)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200  # neither blank nor an error page
    dumped = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    for heading in ("Training", "What it looks at", "Nearest neighbours", "Recipe"):
        assert f"<h2>{heading}</h2>" in dumped.stdout
