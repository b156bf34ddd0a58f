"""TokenCut against the reference's outputs, and boxes against counted pixels."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.probes.dense_prediction import tokencut

CASES = {
    "square": ((12, 12), 16, (192, 192), 0.2, True),
    "wide_padded": ((10, 15), 8, (76, 115), 0.2, True),
    "soft_graph": ((9, 11), 16, (144, 176), 0.0, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cut_is_that_of_the_reference(golden, case):
    data = golden("11_tokencut")
    grid, scale, size, threshold, binary = CASES[case]
    features = data[f"input/{case}/features"][0, 1:]
    found = tokencut.cut(features, grid, threshold=threshold, binary=binary)
    wanted = {name: data[f"output/{case}/{name}"] for name in ("bipartition", "eigenvector", "bbox_xyxy")}
    np.testing.assert_array_equal(found.foreground, wanted["bipartition"])
    ours, theirs = found.eigenvector.ravel(), wanted["eigenvector"].ravel()
    cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert cosine == pytest.approx(1.0, abs=1e-5)
    assert found.seed == int(data[f"output/{case}/seed_index"])
    np.testing.assert_array_equal(found.component, data[f"output/{case}/object_mask"] > 0)
    assert found.box((scale, scale), size) == tuple(wanted["bbox_xyxy"])


def test_features_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="at least two finite ones"):
        tokencut.cut(np.full((4, 3), np.nan), (2, 2))


def test_overlap_counts_pixels():
    random = np.random.default_rng(0)
    for _ in range(50):
        boxes = []
        for _ in range(2):
            left, top = random.integers(0, 10, 2)
            boxes.append((left, top, left + random.integers(1, 10), top + random.integers(1, 10)))
        masks = np.zeros((2, 20, 20), bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = True
        assert tokencut.overlap(*boxes) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_objects_of_a_label_map():
    labels = np.zeros((8, 10), np.uint8)
    labels[1:3, 1:4] = 5
    labels[5:8, 6:9] = 5  # another object of the same class
    labels[3:5, 0:2] = 2
    labels[0] = 255
    assert sorted(tokencut.boxes_of(labels, (0, 255))) == [(0, 3, 2, 5), (1, 1, 4, 3), (6, 5, 9, 8)]
