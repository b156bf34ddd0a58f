"""Cards are read strictly, and those of the package are true of the files that it brings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from foundation.cli import main
from foundation.errors import UserError
from foundation.paths import recipes
from foundation.zoo import fetch
from foundation.zoo.entry import dump, from_plain, read, to_plain
from foundation.zoo.home import Home, mirrored
from foundation.zoo.load import load_encoder
from foundation.zoo.registry import list_models, listed

ROOT = Path(__file__).resolve().parents[2]
CARDS = sorted((ROOT / "model_zoo").glob("*.yaml"))
CARD = yaml.safe_load((ROOT / "model_zoo" / "dinov2-vits14-reg.yaml").read_text())


@pytest.fixture(autouse=True)
def _no_zoo_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("FOUNDATION_ZOO", raising=False)
    monkeypatch.setenv("FOUNDATION_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"summery": "x"}, "unknown key 'summery'; did you mean 'summary'"),
        ({"licence": None}, "'licence' must be text"),
        ({"loads": "hub:some/one"}, "loads is timm:NAME or open_clip"),
        ({"loads": "timm:vit_tiny_patch16_224,weights=/etc/passwd"}, "loads is timm:NAME or open_clip"),
        ({"loads": "timm:local-dir:/home"}, "loads is timm:NAME or open_clip"),
        ({"loads": "timm:hf-hub:some/one"}, "loads is timm:NAME or open_clip"),
        ({"loads": "open_clip:ViT-B-32,weights=/etc/passwd"}, "loads is timm:NAME or open_clip"),
        ({"loads": ""}, "reproduce is needed where neither files nor loads"),
        ({"name": "Über"}, "is no name of a model"),
        ({"metrics": [{"task": "knn", "metric": "top1", "value": ".nan", "protocol": "x"}]}, "must be a number"),
        ({"parents": [{"of": "x", "how": "stolen"}]}, "possible: extracted, converted, distilled, continued"),
        ({"architecture": {**CARD["architecture"], "depth": []}}, "a list of 1 to 64 entries"),
        (
            {"loads": "", "files": [{"name": "a.safetensors", "size": 1, "sha256": "0" * 64, "sources": ["a"]}]},
            "files must be one NAME.safetensors and its card NAME.json",
        ),
        ({"loads": "", "files": [{"name": "a", "size": 1, "sha256": "0", "sources": ["a"]}]}, "64 hexadecimal digits"),
        (
            {"loads": "", "files": [{"name": "a", "size": 1, "sha256": "0" * 64, "sources": ["gopher://a/b"]}]},
            "no kind of storage is called gopher://",
        ),
    ],
)
def test_a_card_that_is_wrong_is_refused_with_the_key(change, said):
    with pytest.raises(UserError, match=said):
        from_plain({**CARD, **change}, "card")


def test_a_card_is_data(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path}/run']\n")
    with pytest.raises(UserError, match="tags are not supported"):
        read(path)
    assert not (tmp_path / "run").exists()
    path.write_text(dump(from_plain(CARD, "card")))
    with pytest.raises(UserError, match=r"must lie in dinov2-vits14-reg\.yaml"):
        read(path)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_of_the_package_is_true(path):
    entry = read(path)
    assert from_plain(to_plain(entry), "card") == entry
    if entry.recipe and " " not in entry.recipe:
        assert entry.recipe in recipes() and f"foundation pretrain {entry.recipe}" in entry.reproduce
    loaded = load_encoder(entry.name, fetch=False) if entry.loads or entry.files else None
    for metric in entry.metrics:
        assert metric.interval and metric.interval[0] <= metric.value <= metric.interval[1] and metric.n
    if loaded is not None:
        kind = entry.architecture
        assert kind.parameters == sum(parameter.numel() for parameter in loaded.encoder.parameters())
        assert kind.width == loaded.encoder.width and kind.depth == loaded.encoder.full_size.depths
        assert loaded.own[0] == entry.modality and loaded.name == entry.name


def test_the_files_of_the_package_are_small_and_as_their_cards_say(capsys):
    models = [one for one in listed().values() if one.entry.files]
    assert sum(one.entry.size for one in models) <= 3_000_000
    for one in models:
        assert not [fetch.trouble(one.file(file.name, Home()), file, Home(), True) for file in one.entry.files if
                    fetch.trouble(one.file(file.name, Home()), file, Home(), True)]  # fmt: skip
    assert main(["zoo", "verify"]) == 0


def test_the_page_is_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "zoo_page.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_models_are_found_by_words_and_modality(capsys):
    assert {entry.name for entry in list_models("dinov2 registers")} == {"dinov2-vits14-reg", "dinov2-vitb14-reg"}
    assert {entry.modality for entry in list_models(modality="image")} == {"image"} and not list_models("no such thing")
    assert main(["zoo", "list", "registers", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert {card["name"] for card in cards} == {"dinov2-vits14-reg", "dinov2-vitb14-reg"}
    assert main(["zoo", "pull", "dinov2-vits14-reg"]) == 0
    assert "its library fetches and keeps it" in capsys.readouterr().out
    assert main(["zoo", "path", "dinov2-vits14-reg"]) == 2
    assert main(["knn", "dinov2-vits14-regs", "--train", "x.tar", "--test", "x.tar"]) == 2
    assert "did you mean 'dinov2-vits14-reg'" in capsys.readouterr().err


def test_the_list_says_what_its_states_mean_and_which_modalities_there_are(capsys):
    assert main(["zoo", "list", "--modality", "video"]) == 0
    shown = capsys.readouterr()
    assert "to train" in shown.out and shown.err.startswith("to train: no weights are published")
    assert "timm:" not in shown.err
    assert main(["zoo", "list", "--modality", "sound"]) == 0
    assert "modalities: audio, image, imu, points, video" in capsys.readouterr().err


def test_a_card_is_shown_in_one_line_and_without_the_control_characters_of_others():
    entry = replace(read(ROOT / "model_zoo" / "hapt-poa-w64-d2.yaml"), summary="a\x1b[2Jb")
    shown = repr([entry])
    assert shown.startswith("[<hapt-poa-w64-d2: imu, 0.14 M parameters, CC-BY-NC-4.0; a") and "\x1b" not in shown
    assert len(shown) < 120


def test_the_longest_beginning_of_a_mirror_counts_first():
    pairs = [("https://a/b/", "/long/"), ("https://a/", "/short/")]
    assert mirrored("https://a/b/c", pairs) == ["/long/c", "/short/b/c", "https://a/b/c"]
    assert mirrored("https://other/c", pairs) == ["https://other/c"]
