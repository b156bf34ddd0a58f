"""Features in shards: training with them is training with the model, and shards of another model are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from foundation import config
from foundation.cli import main
from foundation.data.index import read_index
from foundation.data.shards import open_shards, write_shards
from foundation.errors import UserError
from foundation.probes import feature_shards
from foundation.probes.road import features_of_shards
from foundation.run import build
from foundation.run.plan import plans
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.zoo.export import export_branch
from foundation.zoo.load import load_encoder
from tests.conftest import RECIPE, image_bytes

STILL = (
    "views.global_views={count: 1, size: 16, scale: [1.0, 1.0], blur: [0.0]}", "views.aspect=[1.0, 1.0]",
    "views.flip=0", "views.jitter=0", "views.greyscale=0", "masking=null", "train.length=3 steps",
    "heads={e: {prototypes: null, hidden: 16, bottleneck: 8, layers: 2, norm: batch}}",
    "objectives=[{name: similarity_distillation, view: local, teacher_view: global, head: e, teacher_head: e, "
    "queue: 20}]",
)  # fmt: skip
"""The teacher's view is not random, the student's are."""
HEADS = "heads: {e: {prototypes: null, hidden: 16, bottleneck: 8, layers: 2}}"
EXTRA = "data.extras={taught: {kind: array, member: teacher.npy, shape: [32]}}"


def cached(more: str = "") -> tuple[str, ...]:
    return (*STILL, EXTRA, f"branches={{teacher: {{name: cached, extra: taught, width: 32, {HEADS}{more}}}}}")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two untrained encoders."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("teacher", "student")):
        recipe = config.load(Recipe, RECIPE.format(shards="none.tar"), [f"seed={seed}"])
        made = build.learner(recipe, Clock(1, 1.0))
        export_branch(folder / f"{name}.safetensors", recipe, made, "student", 0)
    return folder


@pytest.fixture
def still(tiny_shards, tmp_path):
    """The recipe whose teacher sees what is not random, as a file."""
    path = tmp_path / "still.yaml"
    path.write_text(config.dump(config.load(Recipe, RECIPE.format(shards=tiny_shards), (*STILL, "branches={}"))))
    return path


@pytest.mark.slow
def test_training_from_the_cache_has_the_losses_of_the_live_teacher(
    tiny_recipe, tiny_shards, models, still, train, metrics, tmp_path
):
    teacher, out = models / "teacher.safetensors", tmp_path / "taught"
    words = ["extract", str(teacher), tiny_shards, str(out), "--recipe", str(still), "--view", "global"]
    assert main(words) == 0
    live = tiny_recipe(*STILL, f"branches={{teacher: {{name: frozen, weights: {teacher}, {HEADS}}}}}")
    train(live, tmp_path / "live")
    train(tiny_recipe(*cached(f", weights: {teacher}"), shards=f"{out}/train-*.tar"), tmp_path / "cached")
    with torch.device("meta"):  # as a dry run does
        build.learner(tiny_recipe(*cached(f", weights: {teacher}")), Clock(3, 1.0))
    a, b = ([line["loss"] for line in metrics(tmp_path / name) if "loss" in line] for name in ("live", "cached"))
    assert len(a) == 3 and a == pytest.approx(b, abs=1e-6)


def test_the_new_shards_are_the_old_ones_and_say_who_made_what(tiny_shards, models, tmp_path, capsys):
    teacher, out = models / "teacher.safetensors", tmp_path / "taught"
    assert main(["extract", str(teacher), tiny_shards, str(out), "--leave-out", "cls"]) == 0
    assert "2 shards, 40 samples with teacher.npy [32]" in capsys.readouterr().out
    loaded = load_encoder(teacher)
    wanted = features_of_shards(loaded.encoder, [tiny_shards], modality="image", evaluation=loaded.evaluation)
    old, new = open_shards(tiny_shards), open_shards(str(out / "train-*.tar"))
    for number in range(40):
        before, after = (shards.read(*shards.locate(number)) for shards in (old, new))
        feature = np.load(io.BytesIO(after.pop("teacher.npy")))
        torch.testing.assert_close(torch.from_numpy(feature), wanted.cls[-1][number], rtol=1e-5, atol=1e-6)
        assert (after["__key__"], after["png"]) == (before["__key__"], before["png"]) and "cls" not in after
    made = read_index(out).about["features"]["teacher.npy"]
    assert (made["sha256"], made["shape"], made["fed"]["size"]) == (loaded.sha256, [32], 16)
    assert main(["extract", str(teacher), tiny_shards, str(out)]) == 2
    assert "already holds the split 'train': add --overwrite" in capsys.readouterr().err
    assert main(["extract", str(teacher), str(out / "train-*.tar"), str(tmp_path / "twice")]) == 2
    assert "has a member teacher.npy already" in capsys.readouterr().err


def test_random_views_have_a_feature_each(tiny_shards, models, tmp_path):
    words = [
        str(models / "teacher.safetensors"),
        tiny_shards,
        str(tmp_path / "many"),
        "--views",
        "2",
        "--member",
        "v.npy",
    ]
    assert main(["extract", *words]) == 0
    shards = open_shards(str(tmp_path / "many" / "train-*.tar"))
    first = np.load(io.BytesIO(shards.read(0, 0)["v.npy"]))
    assert first.shape == (2, 32) and not np.allclose(first[0], first[1])


def test_what_was_cut_short_goes_on_behind_the_last_whole_shard(tiny_shards, models, tmp_path, monkeypatch, capsys):
    words = ["extract", str(models / "teacher.safetensors"), tiny_shards, str(tmp_path / "out")]
    write, written = feature_shards.write_shard, []

    def cut(samples, path):
        if written and path.name == "train-000001.tar":
            raise KeyboardInterrupt
        written.append(path.name)
        return write(samples, path)

    with monkeypatch.context() as patch:
        patch.setattr(feature_shards, "write_shard", cut)
        assert main(words) == 130
    assert not (tmp_path / "out").exists(), "nothing half-written is there to be read"
    assert main(words) == 0
    assert "2 shards (1 of them kept from before)" in capsys.readouterr().out
    assert main(["extract", words[1], tiny_shards, str(tmp_path / "whole")]) == 0
    for name in ("train-000000.tar", "train-000001.tar"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with monkeypatch.context() as patch:  # another model's half is not gone on with
        written.clear()
        patch.setattr(feature_shards, "write_shard", cut)
        assert main([*words[:3], str(tmp_path / "other")]) == 130
    assert main(["extract", str(models / "student.safetensors"), tiny_shards, str(tmp_path / "other")]) == 0
    assert "kept" not in capsys.readouterr().out


def test_samples_that_cannot_be_used_are_named_and_left_out(damaged_shards, models, tmp_path, capsys):
    assert main(["extract", str(models / "teacher.safetensors"), damaged_shards, str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "9 samples with teacher.npy" in said.out and "left out, and in no new shard: 3 truncated" in said.err
    assert "s001" in said.err


def test_shards_of_another_teacher_or_without_features_are_refused_before_the_first_step(
    tiny_recipe, tiny_shards, models, train, tmp_path
):
    out = tmp_path / "taught"
    assert main(["extract", str(models / "teacher.safetensors"), tiny_shards, str(out)]) == 0
    pattern, other = f"{out}/train-*.tar", load_encoder(models / "student.safetensors")
    wrong = tiny_recipe(*cached(f", weights: {models}/student.safetensors"), shards=pattern)
    with pytest.raises(UserError, match=rf"was made by .* and the recipe wants the weights {other.sha256}"):
        train(wrong, tmp_path / "a")
    with pytest.raises(
        UserError, match=r"train-000000\.tar: sample s000 has no member teacher\.npy \(members: cls, png"
    ):
        train(tiny_recipe(*cached()), tmp_path / "b")
    with pytest.raises(UserError, match=r"does not say which model made teacher\.npy"):
        train(tiny_recipe(*cached(", sha256: abc")), tmp_path / "c")
    samples = []
    for number in range(20):  # one sample, in the middle of a shard, lacks it
        raw = {"__key__": f"s{number:03d}", "png": image_bytes(number), "teacher.npy": b""}
        samples.append({k: v for k, v in raw.items() if number != 11 or k != "teacher.npy"})
    write_shards(samples, tmp_path / "one", "train")
    with pytest.raises(UserError, match="sample s011 has no member"):
        train(tiny_recipe(*cached(), shards=str(tmp_path / "one" / "train-*.tar")), tmp_path / "d")
    with pytest.raises(UserError, match="not both"):
        tiny_recipe(*cached(", sha256: abc, weights: x"))


def test_an_index_claims_no_more_than_all_that_it_was_made_of(tiny_shards, models, tmp_path, capsys):
    first, second = (tmp_path / name for name in ("t1", "t2"))
    lone = open_shards(tiny_shards).shards
    for number, (model, out) in enumerate((("teacher", first), ("student", second))):
        assert main(["extract", str(models / f"{model}.safetensors"), lone[number], str(out)]) == 0
    mixed, shards = tmp_path / "mixed", [f"{first}/train-*.tar", f"{second}/train-*.tar"]
    words = ["extract", str(models / "teacher.safetensors"), *shards, str(mixed), "--member", "other.npy"]
    assert main(words) == 0
    assert list(read_index(mixed).about["features"]) == ["other.npy"], "teacher.npy is of two models"
    words = ["extract", str(models / "teacher.safetensors"), shards[0]]
    assert main([*words, str(tmp_path / "kept"), "--member", "other.npy"]) == 0
    assert set(read_index(tmp_path / "kept").about["features"]) == {"teacher.npy", "other.npy"}
    assert main([*words, str(tmp_path / "less"), "--member", "other.npy", "--leave-out", "teacher.npy"]) == 0
    assert list(read_index(tmp_path / "less").about["features"]) == ["other.npy"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--leave-out", "nosuch"], "no sample has such a member; there are: cls, png"),
        (["--member", "a/b.npy"], "--member a/b.npy: the features are an array"),
        (["--member", "../b.npy"], "begin with a small letter or digit"),
        (["--member", "a..npy"], "single dots between"),
        (["--member", "Big.npy"], "a small letter or digit"),
    ],
)
def test_words_that_cannot_be_done_leave_nothing_behind(tiny_shards, models, tmp_path, capsys, words, wrong):
    assert main(["extract", str(models / "teacher.safetensors"), tiny_shards, str(tmp_path / "out"), *words]) == 2
    assert wrong in " ".join(capsys.readouterr().err.split())
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_is_refused_on_the_way_leaves_nothing_behind(models, tmp_path, capsys):
    raws = [{"__key__": f"s{number}", "png": image_bytes(number)} for number in range(3)]
    write_shards([*raws, {"__key__": "s3", "png": image_bytes(3), "teacher.npy": b"x"}], tmp_path / "old", "train",
                 samples_per_shard=2)  # fmt: skip
    words = ["extract", str(models / "teacher.safetensors"), str(tmp_path / "old" / "train-*.tar"), str(tmp_path / "o")]
    assert main(words) == 2 and "sample s3 has a member teacher.npy already" in capsys.readouterr().err
    assert not list(tmp_path.glob(".o.*")) and not (tmp_path / "o").exists()


def test_a_random_view_is_said_to_be_one(tiny_shards, models, still, tmp_path, capsys):
    words = ["extract", str(models / "teacher.safetensors"), tiny_shards]
    assert main([*words, str(tmp_path / "a"), "--recipe", str(still), "--view", "global"]) == 0
    assert "is random" not in capsys.readouterr().err
    assert main([*words, str(tmp_path / "b"), "--recipe", str(still), "--view", "local"]) == 0
    assert "view 'local' of tiny is random: features are those of its first epoch" in capsys.readouterr().err


def test_a_shard_in_the_place_of_another_is_refused(tiny_recipe, tiny_shards, models, tmp_path):
    for name in ("teacher", "student"):
        assert main(["extract", str(models / f"{name}.safetensors"), tiny_shards, str(tmp_path / name)]) == 0
    old, new = (tmp_path / name / "train-000001.tar" for name in ("teacher", "student"))
    assert old.stat().st_size == new.stat().st_size
    old.write_bytes(new.read_bytes())
    with pytest.raises(UserError, match=r"branches\.teacher: .*train-000001\.tar is not the shard that its index"):
        plans(tiny_recipe(*cached(), shards=f"{tmp_path}/teacher/train-*.tar"))


def test_a_dry_run_refuses_what_the_run_would(tiny_recipe, tiny_shards):
    with pytest.raises(UserError, match=r"sample s000 has no member teacher\.npy"):
        plans(tiny_recipe(*cached()))
    with pytest.raises(UserError, match="queue is 41, and the data has 40 samples"):
        plans(tiny_recipe(*cached(), "objectives.0.queue=41"))
    with pytest.raises(UserError, match=r"width is 31, and data\.extras\.taught\.shape is \[32\]"):
        branches = "branches={teacher: {name: cached, extra: taught, width: 31, " + HEADS + "}}"
        plans(tiny_recipe(*STILL, EXTRA, branches))
