"""POA with Swin and ResNet as a run: the small variants learn, whole and cut out."""

from __future__ import annotations

import importlib

import pytest

from foundation.encoders.elastic import SubNetwork
from tests.learning import learns


@pytest.fixture(scope="module", autouse=True)
def timm_itself():
    try:
        return importlib.import_module("timm")
    except Exception as error:
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ("cifar10-poa-swin-nano", SubNetwork(16, (1, 1, 2))),
        ("cifar10-poa-resnet-nano", SubNetwork(16, (1, 1, 1, 1))),
    ],
)
def test_a_small_variant_learns_whole_and_cut_out(recipe, size, shared_data, tmp_path):
    settings = ("train.length=60 steps", "train.batch_size=16", "views.local_views.count=1")
    print(learns(recipe, shared_data("cifar10"), tmp_path / "run", *settings, sizes=(size,), limit=500))
