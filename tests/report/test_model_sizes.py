"""Accuracy against size, from the files that probes leave."""

from __future__ import annotations

import json
import re

import pytest

from foundation.cli import main
from foundation.errors import UserError
from foundation.report.model_sizes import charts, draw, scored, sizes_of
from foundation.report.scatter import Point, scatter
from foundation.zoo.load import load_encoder
from tests.report.sample_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def result(path, top1=0.5, **more):
    """A result as foundation knn writes it, with two settings of the model and a baseline."""
    rows = [
        {"name": "model", "features": "x", "k": 10, "top1": top1 - 0.1, "interval": None},
        {"name": "model", "features": "x", "k": 20, "top1": top1, "interval": [top1 - 0.05, top1 + 0.05], "n": 24},
        {"name": "raw", "features": "raw", "k": 20, "top1": 0.99},
    ]
    content = {"format": 1, "probe": "knn", "model": "mine teacher at step 80 (somewhere)", "results": rows, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_a_result_beside_its_model_knows_its_size(run):
    word = result(run / "probes" / "knn-a.json")
    (row,) = scored([word])
    encoder = load_encoder(run).encoder
    assert row.sizes["parameters"] == sum(one.numel() for one in encoder.parameters())
    assert row.sizes["flops"] == encoder.flops([(1, 3, 16, 16)])
    assert (row.name, row.top1, row.interval, row.n) == ("mine", 0.5, (0.45, 0.55), 24)  # the best of its settings
    (again,) = scored([str(run)])  # a model by itself: its newest results
    assert (again.name, again.top1, again.sizes) == (row.name, row.top1, row.sizes)


def test_models_of_one_name_stay_apart(run, tmp_path):
    words = [f"{run}={result(tmp_path / f'{number}.json', top1=0.1 * number)}" for number in (4, 6)]
    rows = scored(words)
    assert len({row.name for row in rows}) == 2
    ((_, svg),) = charts(rows)
    assert len(circles(svg)) == 2 and "<polyline" not in svg


def test_operations_are_counted_at_the_size_that_was_scored(run):
    loaded = load_encoder(run)
    assert sizes_of(loaded, {"size": 32})["flops"] == loaded.encoder.flops([(1, 3, 32, 32)])


def test_a_result_elsewhere_needs_its_model(run, tmp_path):
    word = result(tmp_path / "knn.json")
    with pytest.raises(UserError, match="MODEL="):
        scored([word])
    assert scored([f"{run}={word}"])[0].sizes["parameters"] > 0
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="no result of a probe"):
        scored([f"{run}={tmp_path / 'other.json'}"])


def test_sub_networks_are_one_family(tmp_path):
    rows = [
        {"name": "model", "features": f"w{width}-d2", "probe": probe, "top1": width / 100, "parameters": 1000 * width}
        for width in (16, 32) for probe in ("knn", "linear")
    ]  # fmt: skip
    word = result(tmp_path / "sizes.json", probe="sizes", results=rows)
    found = scored([word])
    assert {(row.name, row.probe) for row in found} == {(f"w{w}-d2", p) for w in (16, 32) for p in ("knn", "linear")}
    made = dict(charts(found))
    assert list(made) == ["k nearest neighbours", "Linear probe"]
    assert all(svg.count("<polyline") == 1 and len(circles(svg)) == 2 for svg in made.values())


def test_larger_is_to_the_right_and_better_is_above(run, tmp_path):
    points = [Point("small", 1e4, 0.2), Point("middle", 1e6, 0.5, (0.4, 0.6)), Point("large", 1e8, 0.4)]
    (x0, y0), (x1, y1), (x2, y2) = circles(scatter(points, x_label="size", y_label="accuracy"))
    assert x0 < x1 < x2 and abs((x1 - x0) - (x2 - x1)) < 0.2  # logarithmic
    assert y1 < y2 < y0
    assert scatter([Point("x", 0.0, 0.5)], x_label="", y_label="") == ""


def test_names_do_not_cover_one_another():
    points = [Point(f"a model called {number}", 1e6 * (1 + 0.02 * number), 0.5 + 0.004 * number) for number in range(6)]
    svg = scatter(points, x_label="", y_label="")
    boxes = []
    for x, y, anchor, text in re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]*)<', svg):
        wide = 7 * len(text)
        begin = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        boxes.append((begin, float(y) - 10, begin + wide, float(y) + 2))
    assert len(boxes) >= 3
    for number, a in enumerate(boxes):
        for b in boxes[number + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_page_and_a_drawing(run, tmp_path):
    hostile = "<script>alert(1)</script>"
    data = [{"test": {"shards": [name], "samples": 24}} for name in ("a.tar", "b.tar")]
    words = [
        f"{run}={result(tmp_path / '1.json', data=data[0], model=hostile)}",
        f"{run}={result(tmp_path / '2.json', top1=0.7, data=data[1])}",
    ]
    rows = scored(words)
    text = draw(rows, tmp_path / "page.html", ("parameters", "flops")).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and text.count("<svg ") == 2
    assert "scored on different data" in text
    assert "different data" not in draw(rows[:1], tmp_path / "one.html").read_text()
    assert draw(rows, tmp_path / "chart.svg").read_text().startswith("<svg xmlns=")
    with pytest.raises(UserError, match="nothing to draw"):
        draw([], tmp_path / "none.html")


def test_a_result_that_is_not_there_is_no_traceback(tmp_path, capsys):
    assert main(["picture", "size", str(tmp_path / "knn-*.json"), "--out", str(tmp_path / "size.html")]) == 2
    assert "there is no result file" in capsys.readouterr().err
