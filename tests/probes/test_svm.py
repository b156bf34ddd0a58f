"""The linear support vector machine: against scikit-learn by hand, where it chooses, and during training."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.errors import UserError
from foundation.probes.features import FeatureSet
from foundation.probes.svm import Config, Settings, fit


def blobs(count: int, seed: int, noise: float = 1.0, scale: float = 1.0, classes: int = 4) -> FeatureSet:
    """Class tokens that separate the classes, patch tokens that do not."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    good = centres[labels] + noise * torch.randn(count, 8, generator=generator)
    return FeatureSet(
        cls=(torch.zeros(count, 8), scale * good),
        patches=torch.randn(count, 8, generator=generator),
        labels=labels,
        keys=tuple(map(str, range(count))),
    )


def test_it_is_the_protocol():
    svm = pytest.importorskip("sklearn.svm")
    train, test = blobs(200, 0, noise=2.0), blobs(120, 1, noise=2.0)
    result = fit(train, test)
    machine = svm.LinearSVC(C=1.0, dual="auto", random_state=0, max_iter=5000).fit(train.cls[-1], train.labels)
    assert result.predictions.tolist() == machine.predict(test.cls[-1]).tolist()
    assert result.top1 == pytest.approx(machine.score(test.cls[-1], test.labels))
    assert result.interval[0] < result.top1 < result.interval[1] and result.validation is None
    assert 0.6 < result.top1 < 0.99


def test_an_rbf_machine_is_the_protocol_of_time_series():
    svm = pytest.importorskip("sklearn.svm")
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    train, test = blobs(140, 0, noise=2.0, scale=7.0, classes=7), blobs(120, 1, noise=2.0, classes=7)
    result = fit(train, test, Settings(kernel="rbf", treatment="standardised"))
    x, queries = (torch.nn.functional.normalize(part.cls[-1], dim=1).numpy() for part in (train, test))
    mean, deviation = x.mean(0), x.std(0)
    x, queries = (x - mean) / deviation, (queries - mean) / deviation
    folds, y = StratifiedKFold(5, shuffle=True, random_state=0), train.labels.numpy()
    machines = [svm.SVC(C=10.0**power) for power in range(-4, 5)]
    means = [cross_val_score(machine, x, y, cv=folds).mean() for machine in machines]
    best = machines[int(np.argmax(means))].fit(x, y)
    assert result.validation == pytest.approx(means) and result.cost == best.C
    assert result.top1 == pytest.approx(best.score(queries, test.labels.numpy()))
    ranks = (-best.decision_function(queries)).argsort(1).argsort(1)[np.arange(120), test.labels.numpy()]
    assert (result.top3, result.top5) == pytest.approx(((ranks < 3).mean(), (ranks < 5).mean()))
    assert result.top1 < result.top3 < result.top5
    few = fit(train, test, Settings(kernel="rbf", most=20, costs=(1.0,)))
    assert few.validation is None and few.top1 < result.top1
    with pytest.raises(UserError, match="kernel must be one of linear, rbf, got 'poly'"):
        Settings(kernel="poly")


def test_few_labels_of_many_classes_give_no_warning():
    torch.manual_seed(0)
    labels = torch.arange(12) // 2
    few = FeatureSet(cls=(torch.randn(12, 4),), patches=torch.randn(12, 4), labels=labels, keys=tuple("abcdefghijkl"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kernel in ("linear", "rbf"):
            assert 0 <= fit(few, few, Settings(kernel=kernel)).top1 <= 1
            assert 0 <= fit(few.take(torch.arange(0, 12, 2)), few, Settings(kernel=kernel, costs=(1.0,))).top1 <= 1


def test_tokens():
    train, test = blobs(200, 0), blobs(120, 1)
    assert (
        fit(train, test, Settings(tokens="patches")).top1 < 0.45 < 0.9 < fit(train, test, Settings(tokens="both")).top1
    )
    assert [part.shape for part in train.tokens("both")] == [(200, 8), (200, 8)]
    assert torch.equal(*train.tokens("cls"), train.cls[-1])


def test_the_cost_is_chosen_on_samples_kept_back():
    train, test = blobs(400, 0, noise=3.0, scale=1e-3), blobs(400, 1, noise=3.0, scale=1e-3)
    costs = (1e-4, 1e6)
    result = fit(train, test, Settings(costs=costs))
    assert result.validation is not None and result.cost == costs[int(np.argmax(result.validation))] == 1e6
    assert result.top1 == fit(train, test, Settings(costs=(1e6,))).top1, "fitted again on all training samples"
    shuffled = fit(train, test.take(torch.randperm(400)), Settings(costs=costs))
    assert shuffled.validation == result.validation, "the test split has no say"


def test_standardising_undoes_scales():
    settings = Settings(treatment="standardised")
    small, large = (
        fit(blobs(200, 0, noise=2.0, scale=s), blobs(120, 1, noise=2.0, scale=s), settings) for s in (1e-3, 1e3)
    )
    assert torch.equal(small.predictions, large.predictions) and small.top1 > 0.6
    constant = FeatureSet(
        cls=(torch.ones(20, 3),), patches=torch.ones(20, 3), labels=torch.arange(20) % 2, keys=("k",) * 20
    )
    assert fit(constant, constant, Settings(treatment="standardised")).top1 == pytest.approx(0.5)


@pytest.mark.parametrize("each", [2, 3, 10])
def test_a_cost_is_chosen_on_samples_of_every_class_however_few_there_are(each):
    train, test = blobs(200, 0), blobs(40, 1)
    rows = torch.cat([(train.labels == label).nonzero().flatten()[:each] for label in train.labels.unique()])
    found = fit(train.take(rows), test, Settings(costs=(0.1, 1.0)))
    assert found.validation is not None and found.top1 > 0.5


def test_what_cannot_be_kept_back_is_said_in_our_own_words():
    train, test = blobs(200, 0), blobs(40, 1)
    one = torch.cat([(train.labels == label).nonzero().flatten()[:1] for label in train.labels.unique()])
    with pytest.raises(
        UserError, match=r"too few training samples to choose among 2 costs: .* has 1\. Give one --cost"
    ):
        fit(train.take(one), test, Settings(costs=(0.1, 1.0)))
    assert fit(train.take(one), test).top1 > 0.5
    pair = (train.labels < 2).nonzero().flatten()[:20]
    two = train.take(pair)
    with pytest.raises(UserError, match="one class is left to learn from"):
        fit(replace(two, groups=two.labels), test, Settings(costs=(0.1, 1.0)))


def test_splits_of_one_sample_and_of_equal_samples_give_a_figure():
    train = blobs(40, 0)
    alike = replace(train, cls=(torch.ones_like(train.cls[-1]),), patches=torch.ones_like(train.patches))
    for settings in (Settings(), Settings(treatment="whitened"), Settings(treatment="standardised", costs=(0.1, 1.0))):
        assert 0 <= fit(train, train.take(torch.tensor([3])), settings).top1 <= 1
        assert fit(alike, alike, settings).top1 == pytest.approx(0.25, abs=0.1)


def test_mistakes_are_named():
    train, test = blobs(40, 0), blobs(40, 1)
    for settings, words in (
        ({"costs": ()}, "positive"),
        ({"costs": (0.0,)}, "positive"),
        ({"tokens": "all"}, "cls, patches, both"),
        ({"validation_share": 1.0}, "validation_share"),
    ):
        with pytest.raises(UserError, match=words):
            Settings(**settings)
    with pytest.raises(UserError, match="one class only"):
        fit(train.take(torch.arange(0, 40, 4)), test)
    with pytest.raises(UserError, match="too few training samples"):
        fit(train.take(torch.arange(4)), test, Settings(costs=(1.0, 2.0)))
    broken = blobs(40, 0)
    broken.cls[-1][3, 1] = torch.nan
    with pytest.raises(UserError, match="1 of 40 training features are not finite"):
        fit(broken, test)
    for settings, words in (
        ({"train": (), "test": ("a",)}, "svm.train is empty"),
        ({"train": ("a",), "test": ()}, "svm.test is empty"),
        ({"train": ("a",), "test": ("a",), "limit": 1}, "svm.limit is 1; it must be from 2"),
        ({"train": ("a",), "test": ("a",), "cost": -1.0}, "svm.cost is -1; it must be from 1e-09"),
    ):
        with pytest.raises(UserError, match=words):
            Config(**settings)


def test_the_command_and_the_probe_during_training_agree(tiny_recipe_file, tiny_shards, tmp_path, metrics, capsys):
    run, out = tmp_path / "run", tmp_path / "svm.json"
    probe = f"probes=[{{name: svm, every: 1 epochs, train: '{tiny_shards}', test: '{tiny_shards}'}}]"
    assert main(["pretrain", str(tiny_recipe_file), "train.length=5 steps", probe, "--run", str(run)]) == 0
    during = [line["probe/svm_top1"] for line in metrics(run) if "probe/svm_top1" in line][-1]
    words = ["--train", tiny_shards, "--test", tiny_shards, "--workers", "0", "--baselines", "--json", str(out)]
    assert main(["svm", str(run), *words]) == 0
    assert "untrained" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert list(dict.fromkeys(row["name"] for row in content["results"])) == ["model", "untrained", "raw", "simple"]
    assert content["results"][0]["top1"] == pytest.approx(during)
    assert content["probe"] == "svm" and content["settings"]["costs"] == [1.0]
    assert main(["svm", str(run), "--train", tiny_shards, "--workers", "0"]) == 2
    assert main(["svm", str(run), *words[:-2]]) == 0 and main(["report", str(run), "--samples", "0"]) == 0
    page = (run / "report.html").read_text()
    assert "Linear support vector machine" in page and "C = 1" in page
