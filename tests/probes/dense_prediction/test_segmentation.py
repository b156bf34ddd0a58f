"""Formulas of segmentation against scikit-learn and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, jaccard_score

from foundation.errors import UserError
from foundation.modalities.image.evaluation import CropConfig
from foundation.probes.dense_prediction import heads, segmentation, softmax_regression
from foundation.probes.dense_prediction.heads import Item


def test_logistic_regression_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 6)) * np.array([1, 5, 0.1, 1, 1, 1]) + 3
    standard, strength = (x - x.mean(0)) / x.std(0), 1e-2
    y = (standard @ random.normal(size=(6, 4)) + random.normal(size=(300, 4))).argmax(1)
    assert set(y) == {0, 1, 2, 3}
    (ours,) = softmax_regression.fit(
        torch.from_numpy(x).float(), F.one_hot(torch.from_numpy(y), 4).float(), [strength], iterations=500
    )
    theirs = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=2000).fit(standard, y)
    said = ours(torch.from_numpy(x).float()).softmax(-1).numpy()
    np.testing.assert_allclose(said, theirs.predict_proba(standard), atol=2e-3)


def test_a_share_counts_as_so_many_rows():
    """A row of 0.25 and 0.75 is one row of the first class and three of the second."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=random)
    quarters = torch.randint(0, 5, (40,), generator=random) / 4
    soft = torch.stack([quarters, 1 - quarters], 1)
    rows = [
        (row, label) for row in range(40) for label, count in enumerate((soft[row] * 4).int()) for _ in range(count)
    ]
    many, labels = x[[row for row, _ in rows]], F.one_hot(torch.tensor([label for _, label in rows]), 2).float()
    (one,) = softmax_regression.fit(x, soft, [1e-2], iterations=300)
    (other,) = softmax_regression.fit(many, labels, [1e-2], iterations=300)
    torch.testing.assert_close(one.weight, other.weight, atol=1e-3, rtol=1e-2)


def test_shares_of_classes_in_patches():
    classes = torch.from_numpy(np.random.default_rng(0).integers(-1, 3, (12, 8)))
    found = segmentation.shares(classes, (3, 4), 3)
    for row in range(3):
        for column in range(4):
            cell = classes[4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
            wanted = [float((cell == label).sum()) / 8 for label in range(3)]
            assert found[4 * row + column].tolist() == pytest.approx(wanted)


def test_iou_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    truth, found = random.integers(0, 5, (2, 40, 30))
    found[random.random((40, 30)) < 0.5] = truth[random.random((40, 30)) < 0.5][0]
    hidden = random.random((40, 30)) < 0.2
    known = torch.from_numpy(np.where(hidden, -1, truth))
    counts = segmentation.overlaps(torch.from_numpy(found), known, 6)  # a sixth class that is nowhere
    ours, theirs = found[~hidden], truth[~hidden]
    assert segmentation.mean_iou(counts) == pytest.approx(jaccard_score(theirs, ours, average="macro"))
    assert segmentation.pixel_accuracy(counts) == pytest.approx(accuracy_score(theirs, ours))


def test_intervals_hold_the_value():
    counts = np.random.default_rng(0).integers(1, 50, (30, 4, 3))
    low, high = segmentation.mean_iou_interval(counts)
    assert low < segmentation.mean_iou(counts.sum(0)) < high
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    low, high = segmentation.mean_interval([*values, np.nan], draws=4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(200, 300), (300, 200), (50, 80), (97, 97)])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_map_follows_the_picture(height, width, factor):
    """What is bright in the crop is what the cropped map says, whatever the size of the map."""
    rows, columns = np.mgrid[0:height, 0:width]
    bright = (rows - 0.45 * height) ** 2 + (columns - 0.55 * width) ** 2 < (0.3 * min(height, width)) ** 2
    bright[: height // 3, : width // 2] = True
    evaluate = CropConfig(size=64, resize_below=60).build()
    image = torch.from_numpy(np.repeat(255 * bright[None].astype(np.uint8), 3, axis=0))
    crop = evaluate.crop(image)[0].numpy() > 127
    labels = evaluate.crop_map(np.kron(bright, np.ones((factor, factor))).astype(np.int32), height, width)
    assert labels.shape == (64, 64) and (crop != labels.astype(bool)).mean() < 0.02
    # A place follows too: the lower right corner of the bright block.
    ((x, y),) = evaluate.crop_places([[width // 2, height // 3]], height, width)
    target, top, left = evaluate.placed(height, width)
    assert (x, y) == pytest.approx((width // 2 * target[1] / width - left, height // 3 * target[0] / height - top))


def test_heads_learn_from_bounded_many_parts_and_choose_on_samples_kept_back(monkeypatch):
    monkeypatch.setattr(heads, "PARTS", 90)
    random = torch.Generator().manual_seed(0)

    def items():
        for number in range(10):
            x = torch.randn(50, 2, generator=random)
            label = (x[:, 0] > 0).long()
            targets = F.one_hot(label, 2).float()
            targets[:25] = 0  # unlabelled
            yield Item(f"s{number}", {"model": x, "noise": torch.randn(50, 2, generator=random)}, targets, label)

    def right(logits, kept):
        return float(
            np.mean([(own.argmax(1) == item.truth).float().mean() for own, item in zip(logits, kept, strict=True)])
        )

    learned = heads.learn(items(), 10, right, seed=0)
    assert learned.parts == 90 and learned.kept_back == 1
    assert learned.validation["model"] > 0.9 > 0.75 > learned.validation["noise"]
    with pytest.raises(UserError, match="1 training samples are too few"):
        heads.learn(items(), 1, right, seed=0)
