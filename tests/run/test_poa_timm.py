"""POA with Swin and ResNet as a run: the small variants learn, whole and cut out."""

from __future__ import annotations

import pytest

from foundation.encoders.elastic import SubNetwork
from tests.learning import learns

pytestmark = pytest.mark.usefixtures("timm_itself")


ONE_LOCAL_VIEW = ("views.local_views.count=1",)
LONGER = (  # untrained convolutions tell pictures apart better than an untrained Swin does
    "train.length=120 steps",
    "train.batch_size=32",
    "branches.teacher.momentum=0.9",
    "optimizer.learning_rate={start: 2e-3, end: 1e-5, warmup: 10%}",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "size", "settings", "limit"),
    [
        ("cifar10-poa-swin-nano", SubNetwork(16, (1, 1, 2)), ("train.length=60 steps", "train.batch_size=16"), 500),
        ("cifar10-poa-resnet-nano", SubNetwork(16, (1, 1, 1, 1)), LONGER, 1000),
    ],
)
def test_a_small_variant_learns_whole_and_cut_out(recipe, size, settings, limit, shared_data, tmp_path):
    learns(recipe, shared_data("cifar10"), tmp_path / "run", *ONE_LOCAL_VIEW, *settings, sizes=(size,), limit=limit)
