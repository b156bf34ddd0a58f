"""All tasks on pooled features: one pass over the data, honest choices, and words where a score says little."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.errors import UserError
from foundation.modalities.parts import evaluation_config
from foundation.tasks import evaluation, results, suites
from foundation.tasks.base import Confusion, Outcome, Score, Settings, Subject
from foundation.tasks.evaluation import evaluate
from foundation.zoo.load import load_encoder

QUICK = (
    "linear.learning_rates=[0.01,0.1]", "linear.blocks=[1,2]", "linear.epochs=5", "low_shot.draws=2",
    "logistic.strengths=[0.01,1]", "rank.views=0", "alignment.view_samples=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample_run):
    return sample_run.write_run(tmp_path_factory.mktemp("evaluation"))


def subject_of(run, *, test=True, settings=None, train="train", outside=()):
    loaded = load_encoder(run)
    shards = run.parent / "shards"
    return Subject(
        loaded,
        evaluation_config(loaded.modality, loaded.evaluation),
        (str(shards / f"{train}-*.tar"),),
        (str(shards / "test-*.tar"),) if test else (),
        settings or Settings(batch_size=16, cached=False),
        outside=outside,
    )


def asked(subject, *names, overrides=(), **settings):
    said = []
    found = evaluate(subject, suites.tasks_of("image", names, overrides), say=said.append, **settings)
    return found, said


def test_all_tasks_share_one_pass_over_each_split(run):
    subject, seen = subject_of(run), []
    subject.loaded.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0][0])))
    names = ("knn", "linear", "logistic", "low_shot", "svm", "retrieval", "clustering", "rank")
    overrides = [word for word in QUICK if word.split(".")[0] in names]
    found, _ = asked(subject, *names, overrides=overrides)
    assert [answer.reason for answer in found.answers] == [""] * len(names)
    assert sum(seen) == 45 + 24
    scores = {answer.name: answer.outcome.scores[0] for answer in found.answers}
    for name in ("knn", "linear", "logistic", "low_shot", "svm"):  # the colour is the class
        assert scores[name].value > 0.9, name
        assert float(scores[name].each.mean()) == pytest.approx(scores[name].value)
        assert len(scores[name].keys) == len(scores[name].each) == 24
    assert scores["knn"].chance == pytest.approx(1 / 3)


def test_settings_are_chosen_without_the_test_samples(run, monkeypatch):
    """The labels of the test samples are turned round: what is chosen stays."""
    names = ("knn", "linear", "logistic", "svm")
    overrides = [word for word in QUICK if word.split(".")[0] in names]
    chosen = []
    for turn in (False, True):
        subject = subject_of(run)
        _, test = subject.labelled()
        if turn:
            subject._numbered["test"] = dataclasses.replace(test, labels=(test.labels + 1) % 3)
        if turn:  # the linear task reads more blocks, with the same labels
            monkeypatch.setattr(Subject, "_with_blocks", turned(Subject._with_blocks, test))
        found, _ = asked(subject, *names, overrides=overrides)
        chosen.append([answer.outcome.scores[0].setting for answer in found.answers])
        worse = [answer.outcome.scores[0].value for answer in found.answers]
        assert max(worse) < 0.1 if turn else min(worse) > 0.9
    assert chosen[0] == chosen[1]


def turned(original, test):
    def of(self, split, blocks):
        found = original(self, split, blocks)
        return dataclasses.replace(found, labels=(test.labels + 1) % 3) if split == "test" else found

    return of


def test_what_cannot_be_asked_says_why_and_the_rest_goes_on(run):
    subject = subject_of(run, test=False)
    names = [str(entry["name"]) for entry in suites.POOLED]
    found, said = asked(subject, *names, overrides=["rank.views=0", "alignment.view_samples=8"])
    reasons = {answer.name: answer.reason for answer in found.answers if answer.reason}
    assert {"linear", "logistic", "low_shot", "svm", "outliers"} <= set(reasons)
    assert all("--test SHARDS" in reason for reason in reasons.values())
    assert {answer.name for answer in found.answers if answer.outcome} >= {"knn", "retrieval", "clustering", "rank"}
    assert any(line.startswith("linear: left out: ") for line in said)
    knn = next(answer.outcome for answer in found.answers if answer.name == "knn")
    assert "no samples to choose them on" in knn.protocol and knn.scores[0].n == 45


def test_without_labels_only_tasks_without_labels_are_asked(tmp_path, sample_run):
    run = sample_run.write_run(tmp_path, labels=False)
    found, _ = asked(subject_of(run), "knn", "rank", overrides=["rank.views=3", "rank.view_samples=10"])
    assert found.answers[0].outcome is None and "label" in found.answers[0].reason
    assert [score.metric for score in found.answers[1].outcome.scores] == ["RankMe", "alpha-ReQ", "LiDAR"]
    assert any("no task that needs labels" in warning for warning in found.warnings)
    with pytest.raises(UserError, match="no task could be asked"):
        asked(subject_of(run), "knn")


def test_outliers_are_told_apart_by_the_samples_alone(run, tmp_path):
    import io
    import tarfile

    from PIL import Image

    grey = tmp_path / "grey.tar"
    with tarfile.open(grey, "w") as archive:
        for index in range(12):
            pixels = np.full((16, 16, 3), 128, np.uint8) + np.random.default_rng(index).integers(0, 9, (16, 16, 3))
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
            info = tarfile.TarInfo(f"{index}.png")
            info.size = len(stream.getvalue())
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    found, _ = asked(subject_of(run, outside=(str(grey),)), "outliers")
    first = found.answers[0].outcome.scores[0]
    assert first.metric == "AUROC kNN" and first.value > 0.95 and first.n == 24
    assert found.data["outside"]["samples"] == 12
    same, _ = asked(subject_of(run, outside=(str(run.parent / "shards" / "test-*.tar"),)), "outliers")
    assert same.answers[0].outcome.scores[0].value == pytest.approx(0.5)
    assert "24 of the 24" in same.answers[0].outcome.warnings[0]


def test_a_collapsed_and_a_broken_encoder_are_named(run):
    for value, words in ((0.0, "collapsed"), (torch.nan, "NaN or infinite")):
        subject = subject_of(run)
        subject.loaded.encoder.register_forward_hook(
            lambda _, __, found, value=value: [
                dataclasses.replace(one, cls=one.cls * 0 + value, patches=one.patches * 0 + value) for one in found
            ]
        )
        if value == 0.0:
            found, _ = asked(subject, "knn", "rank", overrides=["rank.views=0"])
            assert any(words in warning for warning in found.warnings)
        else:
            with pytest.raises(UserError, match="not finite"):
                asked(subject, "knn")


def test_train_samples_among_the_test_ones_are_named(run):
    found, _ = asked(dataclasses.replace(subject_of(run), test=subject_of(run).train), "knn")
    assert any("45 of the 45 test samples are in the training split too" in warning for warning in found.warnings)


def test_a_whole_suite_leaves_out_what_the_shards_do_not_hold(run):
    found, _ = asked(subject_of(run), overrides=QUICK)
    reasons = {answer.name: answer.reason for answer in found.answers if answer.outcome is None}
    assert {"segmentation", "depth", "discovery", "outliers"} <= set(reasons) and all(reasons.values())


def test_two_sensors_are_asked_of_a_run_that_compares_them_alone(run):
    found, _ = asked(subject_of(run), "knn", "cross_modal")
    (left_out,) = [answer for answer in found.answers if answer.outcome is None]
    assert left_out.name == "cross_modal" and left_out.reason


def test_baselines_stand_beside_the_model(run):
    found, _ = asked(subject_of(run), "knn", baselines=True)
    scores = [score for score in found.answers[0].outcome.scores if score.metric == "top1"]
    assert [score.features for score in scores][:3] == ["model", "the same encoder, untrained", "raw image"]
    assert "HOG" in found.baselines
    model, better = scores[0].value, {score.features for score in scores[1:] if score.value >= scores[0].value}
    told = [line for line in found.answers[0].outcome.warnings if "is no worse" in line]
    assert better and len(told) == len(better) and all("of the model" in line for line in told), (model, told)


def test_what_was_written_is_read_again(run, tmp_path):
    settings = Settings(batch_size=16, cached=False, group="^0*([0-9]+)$")
    found, _ = asked(subject_of(run, settings=settings), "knn", "rank", overrides=["rank.views=0"])
    path = results.save(found, "image", tmp_path / "out")
    again = results.read(tmp_path / "out")
    assert again.groups == found.groups and len(again.groups) == 24
    for one, two in zip(results.result_of(found).scores, again.scores, strict=True):
        assert (one.task, one.score.metric, one.score.value) == (two.task, two.score.metric, two.score.value)
        assert (one.score.each is None) == (two.score.each is None) and one.score.keys == two.score.keys
        assert one.score.each is None or torch.equal(one.score.each, two.score.each)
    content = json.loads(path.read_text())
    assert content["format"] == results.FORMAT and len(content["model_sha256"]) == 64
    assert content["tasks"][0]["settings"]["k"] == [10, 20, 100, 200]
    samples = path.parent / results.SAMPLES
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-20])
    with pytest.raises(UserError, match="not the one that was written"):
        results.read(path)
    path.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        results.read(path)
    with pytest.raises(UserError, match="foundation evaluate writes it"):
        results.read(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("suite", "names", "overrides", "words"),
    [
        ("pictures", (), (), "no suite 'pictures'"),
        ("image", ("kmn",), (), "no task called 'kmn'; did you mean 'knn'"),
        ("image", (), ("knn.neighbours=3",), "neighbours"),
        ("image", (), ("nkn.k=[3]",), "did you mean 'knn'"),
        ("image", (), ("k=3",), "TASK.key=value"),
        ("image", (), ("svm.costs=[0]",), "costs"),
        ("image", (), ("knn.treatments=[bleached]",), "treatments"),
    ],
)
def test_mistakes_in_words(suite, names, overrides, words):
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        suites.tasks_of(suite, names, overrides)


def test_every_task_of_every_suite_can_be_built_and_has_a_file():
    for suite in suites.SUITES:
        assert set(suites.tasks_of(suite)) <= set(suites.names())


def test_the_list_has_a_line_of_its_own_for_every_task(capsys):
    assert main(["evaluate", "--list"]) == 0
    lines = capsys.readouterr().out.split("tasks:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == suites.names() and all(len(line.split()) > 2 for line in lines)


def test_the_attentive_task_reads_patch_tokens_and_refuses_features_without(run):
    subject = subject_of(run)
    tokens = subject.patch_tokens("train", 10 * 4 * 16 * 25)
    assert tokens.cls[0].shape == (10, 16, 25) and bool((tokens.cls[0][..., -1] == 1).all())
    encoder = subject.loaded.encoder
    view = subject.evaluation.build()
    from foundation.modalities.parts import decoder
    from foundation.probes.road import open_limited

    shards = open_limited(subject.train, 10)
    raw = shards.read(*shards.locate(3))
    expected = encoder([view([decoder("image", subject.evaluation)(raw)])])[0].patches[0]
    assert torch.allclose(tokens.cls[0][3, :, :-1], expected, atol=1e-5)
    found, _ = asked(subject, "attentive", overrides=["attentive.epochs=60", "attentive.learning_rates=[0.01]"])
    assert found.answers[0].outcome.scores[0].value > 0.9
    from foundation.probes.simple_encoders import RawEncoder

    with pytest.raises(UserError, match="no patch tokens"):
        asked(subject.with_encoder(RawEncoder(), "raw", "raw"), "attentive")


def test_confusions_are_under_the_names_that_the_index_gives_class_numbers():
    outcome = Outcome(
        scores=(Score(metric="top1", value=0.5, n=2),),
        protocol="",
        pictures=(Confusion(title="Confusions", counts=[[1, 0], [1, 0]], classes=("0", "1")),),
    )
    named = evaluation._with_names(
        evaluation.Answer("knn", suites.tasks_of("image")["knn"], outcome, "", 0.0), ("cat", "dog")
    )
    (picture,) = named.outcome.pictures
    assert isinstance(picture, Confusion) and picture.classes == ("cat", "dog")
