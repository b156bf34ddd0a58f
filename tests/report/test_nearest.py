"""Nearest neighbours: whose picture stands where, and what frames say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.report.nearest import Pictured, nearest_table, recall_said


def side(what: str, vectors: torch.Tensor, labels: list[str], numbers: list[int], base: int = 0) -> Pictured:
    """Samples whose pictures have the colour of their number."""

    def picture(row: int) -> np.ndarray:
        return np.full((4, 4, 3), base + numbers[row], np.uint8)

    keys = [f"{what}-{number}" for number in numbers]
    return Pictured(what, vectors, labels, keys, picture, torch.tensor(numbers), (40, 20))


VECTORS = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
LABELS = ["a", "a", "b", "a"]


def test_within_one_set_no_sample_is_its_own_neighbour():
    one = side("image", VECTORS, LABELS, [0, 1, 2, 3])
    table = nearest_table(one, one, near=2, keys=["image-0", "image-3"])
    for line, expected in zip(table.lines, ([0, 1, 2], [3, 2, 1]), strict=True):
        assert [int(cell.picture[0, 0, 0]) for cell in line.cells] == expected
    assert [cell.kind for cell in table.lines[0].cells] == ["", "same", "other"]
    assert table.columns == ("sample", "nearest 1", "nearest 2")
    assert table.lines[0].cells[1].caption == f"{float(torch.nn.functional.cosine_similarity(*VECTORS[:2], 0)):.2f} a"
    assert [kind for kind, _ in table.key] == ["same", "other"]


def test_of_two_sides_each_draws_its_own_and_the_own_sample_is_marked():
    first = side("imu", VECTORS, LABELS, [0, 1, 2, 3])
    second = side("video", VECTORS[[3, 2, 0]], ["a", "b", ""], [3, 2, 0], base=100)
    table = nearest_table(first, second, near=3, keys=["imu-3", "imu-0"])
    assert [int(cell.picture[0, 0, 0]) for cell in table.lines[0].cells] == [3, 103, 102, 100]
    assert [cell.kind for cell in table.lines[0].cells] == ["", "own", "other", ""]  # no label: no judgement
    assert table.columns[:2] == ("sample (imu)", "nearest 1 (video)")
    assert recall_said(first, second).startswith("Of 3 pairs the own one is among the k nearest: R@1 100.0 %")
    assert recall_said(first, side("video", VECTORS, LABELS, [7, 8, 9, 10])) == ""


def test_rows_are_spread_over_the_labels():
    one = side("image", VECTORS, ["a", "a", "b", "c"], [0, 1, 2, 3])
    assert [line.name for line in nearest_table(one, one, rows=3, near=1).lines] == ["image-0", "image-2", "image-3"]


@pytest.mark.parametrize(
    ("second", "keys", "said"),
    [
        (side("video", torch.randn(4, 3), LABELS, [0, 1, 2, 3]), (), "cannot be compared"),
        (side("video", VECTORS, LABELS, [0, 1, 2, 3]), ("who",), "no sample has the key 'who'"),
    ],
)
def test_what_cannot_be_compared_is_refused(second, keys, said):
    with pytest.raises(UserError, match=said):
        nearest_table(side("imu", VECTORS, LABELS, [0, 1, 2, 3]), second, keys=keys)


def test_a_single_sample_has_no_neighbours():
    alone = side("image", VECTORS[:1], ["a"], [0])
    with pytest.raises(UserError, match="no neighbours"):
        nearest_table(alone, alone)
