"""The page: valid, self-contained, escaped, and there for any part of a run that exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from foundation import config
from foundation.errors import UserError
from foundation.report.build import write_report
from foundation.run.origin import code, record_start
from foundation.run.recipe import Recipe
from foundation.run.run_folder import RunFolder
from foundation.zoo.export import write_export

VOID = {"meta", "link", "img", "br"}


class Checker(HTMLParser):
    """Balanced tags, no request to anywhere, and what the page holds."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.headings, self.images, self.charts, self.text = [], [], 0, 0, []
        self.words, self.cards = [], []  # all text but that of the recipe; headings of cards

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
        if self.open and self.open[-1] == "h3":
            self.cards.append(data)
        if not {"pre", "style", "summary"} & set(self.open):
            self.words.append(data)


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
        "What training saw",
        "What the encoder looks at",
        "Nearest neighbours",
        "Which classes it confuses",
        "Training",
        "Schedules",
        "Recipe",
    ]
    assert [heading for heading in found.headings if heading in expected] == expected
    assert found.charts >= 10
    assert found.images >= 3 * (1 + 1 + 3 + 1) + 6 * 5  # samples with mean, heads and components; neighbours
    assert "sample <run> & co" in found.headings  # escaped in the file, itself on the page
    assert "<run>" not in page.read_text()
    assert any("learning_rate" in text for text in found.text)  # of the recipe
    words = " ".join(found.words)
    assert re.findall(r"\b[a-z]+_[a-z_]+\b|\b(?:loss|dino|koleo|probe|data|schedule)/\w+", words) == []  # no raw keys
    assert "Entropy of the teacher's assignments" in words and "entropy (nats)" in words
    assert "Divergence" not in found.cards and "Prototypes in use" not in found.cards  # they never change
    assert "DINO: divergence of the student from the teacher 0.5; DINO: prototypes in use 70 %" in words
    assert "Learning rate" in found.cards and "Teacher momentum" not in found.cards and "teacher momentum 0.99" in words


def test_the_page_tells_of_the_export_that_the_run_was_measured_by_and_of_its_stage(sample_run, tmp_path):
    folder = sample_run.write_run(tmp_path)
    recipe = config.load(Recipe, (folder / "recipe.yaml").read_text(), name="sample")
    weights = recipe.encoder.build().state_dict()
    write_export(folder / "export" / "teacher.safetensors", weights, recipe, "teacher", 80, measured=False)
    write_export(folder / "export" / "averaged.safetensors", weights, recipe, "averaged", 80, measured=True)
    (folder / "status.json").write_text(
        json.dumps({"state": "done", "time": 0.0, "step": 4, "total": 4, "stage": "distil"})
    )
    lines = [{"step": step, "loss": 9.0 / step, "stage": float(step > 2)} for step in range(1, 5)]
    text, stages = (folder / "recipe.yaml").read_text(), "stages: [{name: first}, {name: distil}]\n"
    (folder / "recipe.yaml").write_text(text.replace("stages: []\n", stages))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = check(write_report(folder, samples=0))
    words = " ".join(found.words)
    assert "averaged.safetensors, SHA-256" in words and "teacher.safetensors" not in words
    assert "stage distil" in words and "of 4 steps" in words
    assert "3.000 at step 3" in words and "Samples seen" not in words, "losses of two stages are no curve"


def test_the_views_of_the_page_are_those_of_the_first_training_step(complete):
    from foundation.data.stream import build_loader, build_stream, open_sources
    from foundation.modalities.drawing import photo
    from foundation.report.views import training_views
    from foundation.run import build

    recipe = config.load(Recipe, (complete / "recipe.yaml").read_text(), name="recipe")
    sheet = training_views(recipe, samples=3)
    sources = open_sources(recipe.data)
    clock = recipe.clock(sum(int(shards.num_samples) for shards in sources.values()))
    stream = build_stream(recipe.data, sources, seed=recipe.seed, global_batch=8, clock=clock)
    pipeline = build.pipeline(recipe, recipe.views.build(), True)
    with build_loader(stream, pipeline, batch_size=8, global_batch=8, workers=0) as loader:
        batch = next(iter(loader))
    assert [seen.name for seen in sheet.samples] == list(batch.keys[:3])
    room = __import__("foundation.modalities.image.picture", fromlist=["picture"])
    masked = batch.masks["global", "masking"].masked
    for row, seen in enumerate(sheet.samples):
        titles = [drawn.title for drawn in seen.pictures]
        hidden = [f"global {view + 1}, masked" for view in range(2) if masked[view * 8 + row].any()]
        assert [title for title in titles if title.endswith("masked")] == hidden
        assert titles[0] == "whole sample" and titles[-2:] == ["local 1", "local 2"]
        second = seen.pictures[titles.index("global 2")].picture
        assert second == photo(room.to_rgb(batch.views["global"].data[8 + row]))
    assert sheet.own and sheet.kinds[1] == "2 local views of 3 × 8 × 8"
    assert sheet.samples[0].pictures[0].width == 2 * sheet.samples[0].pictures[-1].width  # local ones are smaller


@pytest.mark.parametrize(
    "names",
    [("苹果树", "منزل", "дом"), ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "<script>", "\u202eevil\x1b[31m")],
)
def test_verdict_chance_hardware_code_and_names_of_any_script_stand_on_the_page(tmp_path, complete, names):
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    row = {"n": 24, "interval": [0.5, 0.8], "k": 5}
    rows = [{"name": "model", "features": "x", "top1": 0.7}, {"name": "simple", "features": "HOG", "top1": 0.25}]
    rows.append({"name": "simple", "features": names[0], "top1": 0.2, "treatment": "whitened", "balanced": 0.21})
    (run / "probes").mkdir(exist_ok=True)
    content = {
        "format": 1, "probe": "knn", "model": "sample teacher at step 80 (/a/b/step-80)", "metric": "top1",
        "results": [row | values | {"interval": [values["top1"] - 0.1, values["top1"] + 0.1]} for values in rows],
        "confusion": {"counts": [[7, 1, 0], [2, 5, 1], [0, 0, 8]], "k": 5, "classes": list(names)},
        "data": {"test": {"shards": ["/some/where/bridges/test-*.tar"], "samples": 24}},
    }  # fmt: skip
    (run / "probes" / "knn.json").write_text(json.dumps(content))
    record_start(RunFolder(run), 0, {"device": "cpu", "processor": "Model 7", "precision": "float32"})
    page = write_report(run, samples=0)
    found = check(page)
    said = " ".join(found.words)
    assert "above every other feature tested by 45.0 points in kNN (next best: HOG); chance is 33.3 %." in said
    assert "scored on bridges (test), 24 samples" in said and "*.tar" not in said.replace(str(run), "")
    assert "sample teacher at step 80 ·" in said  # without its path
    assert "whitened" in said and "balanced %" in said and "21.0" in said
    assert "Model 7" in said and "float32" in said
    commit, _ = code()
    assert commit is None or f"git commit {commit}" in said
    shown = [name if name.isprintable() or "\u200d" in name else "\\u202eevil\\x1b[31m" for name in names]
    assert all(any(name in text for text in found.text) for name in shown)
    assert "<script>" not in page.read_text()


def test_a_damaged_start_is_named_and_the_duration_adds_up_over_starts(tmp_path):
    lines = [
        {"step": step, "loss": 1.0 / step, "time/seconds": time} for step, time in ((1, 5.0), (2, 65.0), (3, 10.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "starts.jsonl").write_text(
        '{"device": "cuda", "processor": "<GPU>", "processes": 2}\n{"cores": "x"}\n[\n'
    )
    said = " ".join(check(write_report(tmp_path)).words)
    assert "75 s" in said and "2 × GPU" in said and "<GPU>" in said
    assert "starts.jsonl: line 2 is damaged" in said and "starts.jsonl: line 3 is damaged" in said


def test_a_run_that_has_only_a_recipe_says_what_is_missing(tmp_path, complete):
    run = tmp_path / "young"
    run.mkdir()
    shutil.copy(complete / "recipe.yaml", run)
    found = check(write_report(run))
    said = " ".join(found.text)
    assert "No metrics have been written yet." in said
    assert "No probe has been run yet" in said
    assert "No pictures" in said
    assert "What training saw" in found.headings  # the recipe and its shards are enough for that
    assert found.images == 4 * 5 + sum(text.endswith(", masked") for text in found.text)


def test_metrics_alone_are_enough(tmp_path, complete):
    run = tmp_path / "metrics"
    run.mkdir()
    shutil.copy(complete / "metrics.jsonl", run)
    found = check(write_report(run, tmp_path / "elsewhere" / "page.html"))
    assert found.charts >= 10
    assert (tmp_path / "elsewhere" / "page.html").exists()


def test_what_a_fine_tuned_model_scored_stands_first(tmp_path, complete):
    run = tmp_path / "tuned"
    run.mkdir()
    shutil.copy(complete / "metrics.jsonl", run)
    scored = {
        "metric": "top1", "value": 0.915, "interval": [0.9, 0.928], "n": 1558, "task": "classification",
        "figures": {"top1": 0.915, "loss": None, "<b>": 1.0}, "test": ["data/phones/test-*.tar"],
    }  # fmt: skip
    (run / "finetune.json").write_text(json.dumps(scored))
    words = " ".join(check(write_report(run, tmp_path / "page.html")).words)
    assert "Test top1 91.5 % 1,558 samples" in " ".join(words.split())
    assert "91.5 % (90.0 % to 92.8 %)" in words and "not defined" in words and "No probe" not in words
    (run / "finetune.json").write_text("{}")
    words = " ".join(check(write_report(run, tmp_path / "page.html")).words)
    assert "finetune.json" in words and "No probe" in words


def test_without_labels_neighbours_are_shown_and_confusions_are_not(tmp_path, sample_run):
    run = sample_run.write_run(tmp_path, labels=False)
    found = check(write_report(run, samples=2))
    assert "Nearest neighbours" in found.headings
    assert "Which classes it confuses" not in found.headings
    assert "have no labels: there is no confusion matrix" in " ".join(found.text)


def test_vanished_data_is_a_note_but_wrong_shards_are_an_error(tmp_path, sample_run):
    run = sample_run.write_run(tmp_path)
    shutil.rmtree(tmp_path / "shards")
    said = " ".join(check(write_report(run)).text)
    assert "No pictures" in said
    assert "--shards" in said
    with pytest.raises(UserError):
        write_report(run, shards=[str(tmp_path / "none-*.tar")])


def test_a_report_starts_no_program_that_the_recipe_of_a_run_names(tmp_path, complete):
    run = tmp_path / "of someone else"
    run.mkdir()
    recipe = (complete / "recipe.yaml").read_text()
    start, end = recipe.index("data:"), recipe.index("\nviews:")
    harm = f"data:\n  shards: ['pipe:touch {tmp_path / 'harm'}']\n  allow_pipes: true\n  samples_per_epoch: 45"
    (run / "recipe.yaml").write_text(recipe[:start] + harm + recipe[end:])
    assert "which a report does not start" in " ".join(check(write_report(run)).words)
    assert not (tmp_path / "harm").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "nowhere")


def test_a_hostile_recipe_stays_text(tmp_path):
    (tmp_path / "recipe.yaml").write_text('name: "</title><script>alert(1)</script>"\nencoder: {name: "<img src=x>"}\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "<script>x/y": 1}\n{"step": 2, "<script>x/y": 2}\nnull\n[]\n')
    check(write_report(tmp_path))


HEBREW = "מאפיינים 12"
SETS = "גשרים 7"


def run_with_names_from_right_to_left(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder)
    row = {"n": 24, "interval": [0.5, 0.8], "k": 5}
    rows = [{"name": "model", "features": "x", "top1": 0.71}, {"name": "simple", "features": HEBREW, "top1": 0.7}]
    content = {
        "format": 1, "probe": "knn", "model": f"{SETS} teacher at step 80 (/a/b/step-80)", "metric": "top1",
        "results": [row | values for values in rows],
        "data": {"test": {"shards": [f"/some/where/{SETS}/test-*.tar"], "samples": 24}},
    }  # fmt: skip
    (folder / "probes").mkdir(exist_ok=True)
    (folder / "probes" / "knn.json").write_text(json.dumps(content))
    return write_report(folder, samples=0)


def test_names_from_right_to_left_are_isolated_on_the_page(complete, tmp_path):
    page = run_with_names_from_right_to_left(tmp_path / "run", complete)
    check(page)
    text = page.read_text()
    assert f"level with <bdi>{HEBREW}</bdi>: +1.0 points" in text and f"next best: <bdi>{HEBREW}</bdi>,\n70.0 %" in text
    assert f"scored on <bdi>{SETS}</bdi> (test), 24 samples" in text
    assert re.sub(r"<bdi>.*?</bdi>|<pre.*?</pre>", "", text, flags=re.S).count(HEBREW) == 0


@pytest.mark.slow
def test_a_browser_draws_the_numbers_behind_a_name_from_right_to_left_behind_it(complete, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    page = run_with_names_from_right_to_left(tmp_path / "run", complete)
    measure = """<script>
      const place = (text) => {
        const all = document.createTreeWalker(document.querySelector(".verdict"), NodeFilter.SHOW_TEXT);
        for (let node; (node = all.nextNode()); ) {
          const at = node.data.indexOf(text);
          if (at >= 0) {
            const range = document.createRange();
            range.setStart(node, at); range.setEnd(node, at + text.length);
            return range.getBoundingClientRect().left;
          }
        }
      };
      document.title = "places " + ["level", "NAME", "+1.0", "points"].map(place).join(" ");
    </script>""".replace("NAME", HEBREW)
    page.write_text(page.read_text().replace("</body>", f"{measure}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    words = [
        browser,
        *options,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1800,1200",
        "--dump-dom",
        page.as_uri(),
    ]
    dumped = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>places (.*?)</title>", dumped.stdout)
    assert found, dumped.stderr[-2000:]
    places = [float(place) for place in found[1].split()]
    assert places == sorted(places) and len(set(places)) == 4, "each stands to the right of the one before it"


@pytest.mark.slow
def test_it_renders_in_a_browser(complete, tmp_path):
    from foundation.report.screenshot import screenshot

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
    with Image.open(screenshot(page, tmp_path / "top.png", 400, 900)) as image:
        assert image.size == (400, 900) and len(image.convert("RGB").getcolors(1 << 24)) > 100
    dumped = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    for heading in ("Training", "What the encoder looks at", "Nearest neighbours", "Recipe"):
        assert f"<h2>{heading}</h2>" in dumped.stdout


def test_without_a_browser_the_picture_is_refused_in_a_sentence(tmp_path, monkeypatch):
    from foundation.report.screenshot import screenshot

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Chromium or Chrome"):
        screenshot(tmp_path / "page.html", tmp_path / "page.png")
