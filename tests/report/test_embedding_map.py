"""The map of all samples: like ones are near, pictures belong to their samples, names are never markup."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.errors import UserError
from foundation.probes.features import FeatureSet
from foundation.report.embedding_map import Located, located, nearest, plane, thumbnails, write_map
from foundation.zoo.load import load_encoder
from tests.report.sample_run import write_run

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def there(run):
    return located(load_encoder(run), [str(run.parent / "shards" / "train-*.tar")])


def groups(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Three groups of directions."""
    labels = torch.arange(3).repeat_interleave(count)
    noise = torch.randn(3 * count, 16, generator=torch.Generator().manual_seed(0))
    return 5 * torch.eye(3, 16)[labels] + 0.3 * noise, labels


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_like_samples_are_near_and_the_seed_decides(method):
    vectors, labels = groups()
    points = torch.tensor(plane(vectors, method, seed=1))
    assert points.shape == (90, 2)
    far = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert bool((labels[far.argmin(1)] == labels).all())
    np.testing.assert_array_equal(points.numpy(), plane(vectors, method, seed=1))
    np.testing.assert_allclose(plane(100 * vectors, "pca"), plane(vectors, "pca"), atol=1e-6)  # lengths do not count


def test_too_few_samples_and_broken_features_make_no_map():
    with pytest.raises(UserError, match="at least 3"):
        plane(torch.randn(2, 4))
    with pytest.raises(UserError, match="NaN or infinite"):
        plane(torch.full((5, 4), torch.nan))
    assert plane(torch.randn(4, 2)).shape == (4, 2)  # few samples of few numbers do


def test_the_nearest_of_a_sample_is_never_itself():
    vectors, labels = groups(4)
    near = nearest(vectors, 3)
    assert near.shape == (12, 3) and (near != np.arange(12)[:, None]).all()
    assert (labels.numpy()[near] == labels.numpy()[:, None]).all()


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def sheets_of(text: str) -> list[np.ndarray]:
    uris = re.findall(r'<img class="sheet" alt="" src="data:image/jpeg;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def test_the_page_has_each_sample_with_its_label_and_its_picture(run, there, tmp_path):
    said = write_map(load_encoder(run), there, tmp_path / "map.html")
    assert "45 samples" in said
    text = (tmp_path / "map.html").read_text()
    data, sheets = data_of(text), sheets_of(text)
    width, height = data["cell"]
    assert len(data["x"]) == len(data["y"]) == len(data["keys"]) == 45
    assert min(data["x"] + data["y"]) == 0 and max(data["x"] + data["y"]) == 10_000
    for row, (key, label, place) in enumerate(zip(data["keys"], data["label"], data["picture"], strict=True)):
        assert int(key) % 3 == label and data["labels"][label] == f"class {label}"  # as write_shard makes them
        sheet, at = sheets[place // data["across"] ** 2], place % data["across"] ** 2
        top, left = at // data["across"] * height, at % data["across"] * width
        assert sheet[top : top + height, left : left + width].mean(axis=(0, 1)).argmax() == label
        assert len(data["near"][row]) == 5 and row not in data["near"][row]


def test_the_page_asks_nothing_of_anyone(run, there, tmp_path):
    write_map(load_encoder(run), there, tmp_path / "map.html", method="pca")
    text = re.sub(r"data:[^\"]+", "", (tmp_path / "map.html").read_text())
    assert not re.search(r"(?:https?:)?//[a-z]|url\(|@import|<link (?!rel=\"icon\")|fetch\(|XMLHttp|WebSocket", text)
    assert "default-src 'none'" in text


def test_pictures_are_bounded_and_the_page_says_so(run, there, tmp_path):
    loaded = load_encoder(run)
    sheets, places, size, problem = thumbnails(there, loaded, most_bytes=100)
    assert not sheets and set(places) == {-1} and size == (72, 72) and not problem
    said = write_map(loaded, there, tmp_path / "map.html", method="pca", most_bytes=100)
    assert "45 samples have no picture" in said
    assert "Pictures of 0 samples" in (tmp_path / "map.html").read_text()


def test_samples_are_thinned_evenly(run):
    some = located(load_encoder(run), [str(run.parent / "shards" / "train-*.tar")], limit=9)
    assert len(some.labels) == 9 and some.there == 45 and set(some.labels) == {"class 0", "class 1", "class 2"}


def test_files_have_their_paths_as_keys_and_their_own_pictures(run, tmp_path):
    for number, colour in enumerate(((200, 0, 0), (0, 200, 0), (0, 0, 200))):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{number}.png")
    made = located(load_encoder(run), [str(tmp_path)])
    assert [key[-5:] for key in made.features.keys] == ["0.png", "1.png", "2.png"] and set(made.labels) == {""}
    assert [made.picture(row).mean(axis=(0, 1)).argmax() for row in range(3)] == [0, 1, 2]


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


def test_in_a_browser_a_sample_is_shown_and_a_hostile_name_is_only_text(run, tmp_path):
    vectors, labels = groups(10)
    keys = tuple(HOSTILE if row == 4 else f"sample-{row}" for row in range(30))
    features = FeatureSet((vectors,), vectors, labels, keys)
    names = tuple(HOSTILE if label == 0 else f"class {label}" for label in labels.tolist())
    drawn = [np.full((16, 16, 3), 60 + 6 * row, np.uint8) for row in range(30)]
    write_map(load_encoder(run), Located(features, names, 30, drawn.__getitem__), tmp_path / "map.html", method="pca")
    options = ["--headless", "--disable-gpu", "--no-sandbox", "--virtual-time-budget=4000"]
    for row in (4, 17):
        done = subprocess.run(
            [browser(), *options, f"--user-data-dir={tmp_path}/profile{row}", "--dump-dom",
             f"{(tmp_path / 'map.html').as_uri()}#sample={row}"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        text = done.stdout
        assert "<title>Map of samples</title>" in text and "owned'" in text
        chosen = re.search(r'id="chosen" data-sample="(\d+)">(.*?)</div></div>', text, re.DOTALL)
        assert chosen is not None and int(chosen[1]) == row
        expected = ("&lt;/script&gt;&lt;script&gt;document.title='owned'" if row == 4 else "sample-17", "<canvas")
        assert all(part in chosen[2] for part in expected)
        assert text.count("<script") == 2 and '<img src="x"' not in text
        assert text.count('aria-pressed="true"') == 3  # a legend with every label


def test_labels_are_in_the_order_of_their_numbers(run, tmp_path):
    vectors, labels = groups(8)
    names = tuple(f"class {row % 12}" for row in range(24))
    features = FeatureSet((vectors,), vectors, labels, tuple(map(str, range(24))))
    picture = np.zeros((8, 8, 3), np.uint8)
    write_map(load_encoder(run), Located(features, names, 24, lambda row: picture), tmp_path / "map.html", method="pca")
    assert data_of((tmp_path / "map.html").read_text())["labels"] == [f"class {number}" for number in range(12)]
