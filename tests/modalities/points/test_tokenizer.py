"""Groups of points: sampling, neighbours and the small PointNet against plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foundation.cli import main
from foundation.counter import Draws
from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.masks import block, random
from foundation.modalities.points.neighbours import farthest_points, gather_points, nearest_points, per_point
from foundation.modalities.points.tokenizer import Config
from tests.encoders.inputs import inputs


def clouds(rows: int = 3, points: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, points, 3, generator=torch.Generator().manual_seed(seed))


def loop_farthest(cloud: np.ndarray, count: int) -> list[int]:
    distance = ((cloud - cloud.mean(0)) ** 2).sum(1)
    taken = [int(distance.argmax())]
    nearest = np.full(len(cloud), np.inf)
    while len(taken) < count:
        nearest = np.minimum(nearest, ((cloud - cloud[taken[-1]]) ** 2).sum(1))
        taken.append(int(nearest.argmax()))
    return taken


def test_farthest_points_equal_a_plain_loop():
    points = clouds()
    found = farthest_points(points, 40)
    assert found.tolist() == [loop_farthest(cloud, 40) for cloud in points.numpy()]
    for cloud, taken in zip(points, found, strict=True):
        chosen = cloud[taken]
        gaps = torch.cdist(chosen, chosen).fill_diagonal_(torch.inf).min()
        rest = torch.cdist(cloud, chosen).min(dim=1).values.max()
        assert gaps >= rest, "no point left out is farther away than those taken are from each other"


def test_centres_do_not_depend_on_the_stored_order():
    points = clouds(1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    a = gather_points(points, farthest_points(points, 30))
    b = gather_points(points[:, order], farthest_points(points[:, order], 30))
    assert torch.equal(a, b)


def test_sampling_at_the_limits():
    points = clouds(2, 9)
    assert farthest_points(points, 9).sort().values.tolist() == [list(range(9))] * 2
    assert farthest_points(points, 1).shape == (2, 1)
    same = farthest_points(torch.zeros(1, 5, 3), 4)
    assert ((same >= 0) & (same < 5)).all(), "a cloud of one place gives that place again"
    for count in (0, 10):
        with pytest.raises(ValueError, match="give 1 to 9"):
            farthest_points(points, count)
        with pytest.raises(ValueError, match="give 1 to 9"):
            nearest_points(points, points, count)


@pytest.mark.parametrize("chunk", [2**22, 5000, 150, 1])
def test_nearest_points_equal_brute_force_in_any_chunks(chunk):
    points, centres = clouds(), clouds(3, 17, seed=1)
    found = nearest_points(points, centres, 6, chunk)
    distance = (centres[:, :, None] - points[:, None]).square().sum(-1)
    assert torch.equal(found, distance.argsort(dim=-1)[..., :6])


def test_distances_far_from_the_origin_keep_their_digits():
    points = clouds(1, 64) * 1e-3 + 100.0  # millimetres at a hundred metres
    nearest = nearest_points(points, points, 1)[0, :, 0]
    assert (points[0, nearest] == points[0]).all()


def test_tokens_equal_the_published_network():
    """One group at a time, in the published order of layers, with one matrix on [maximum, point]."""
    torch.manual_seed(0)
    config = Config(stride=10, group_size=8, channels=5, widths=(6, 7, 9), scale=2.0)
    tokenizer = config.build(12)
    view = torch.randn(2, 5, 60)
    tokens, places, valid = tokenizer(view)
    assert tokens.shape == (2, 6, 12) and places.shape == (2, 6, 3) and valid is None
    torch.testing.assert_close(config.coordinates_of(view), places)
    joined = torch.cat([tokenizer.whole.weight, tokenizer.own.weight], dim=1)
    for row in range(2):
        cloud = view[row].T
        for group in range(6):
            near = (cloud[:, :3] - places[row, group]).square().sum(1).argsort()[:8]
            members = cloud[near].clone()
            members[:, :3] = (members[:, :3] - places[row, group]) * 2.0
            points = tokenizer.point(members)
            both = torch.cat([points.amax(0, keepdim=True).expand_as(points), points], dim=1)
            hidden = both @ joined.T + tokenizer.whole.bias
            torch.testing.assert_close(tokens[row, group], tokenizer.projection(hidden).amax(0), rtol=1e-5, atol=1e-5)


def test_cells_are_the_points_of_the_groups():
    tokenizer = Config(stride=10, group_size=8, channels=4, scale=2.0).build(12)
    view = torch.randn(2, 4, 60)
    cells, (_, places, _) = tokenizer.cells(view), tokenizer(view)
    assert cells.shape == (2, 6, 8, 3) and cells.shape[2:] == tokenizer.cell_shape
    assert (cells[:, :, 0] == 0).all(), "the centre comes first"
    points = cells / 2.0 + places[:, :, None]
    gap = torch.cdist(points.flatten(1, 2), view[:, :3].transpose(1, 2), compute_mode="donot_use_mm_for_euclid_dist")
    assert gap.min(dim=2).values.max() < 1e-5


def test_tokens_do_not_see_where_the_cloud_lies_or_how_it_is_stored():
    torch.manual_seed(0)
    tokenizer = Config(stride=16, group_size=8).build(16).eval()
    view = torch.randn(2, 3, 128)
    tokens, places, _ = tokenizer(view)
    moved, elsewhere, _ = tokenizer(view + 0.5)
    torch.testing.assert_close(moved, tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(elsewhere, places + 0.5)
    shuffled, _, _ = tokenizer(view[:, :, torch.randperm(128)])
    torch.testing.assert_close(shuffled, tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_every_weight_gets_a_gradient(norm):
    tokenizer = Config(stride=8, group_size=4, norm=norm).build(16)
    tokens, places, _ = tokenizer(torch.randn(2, 3, 64))
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert not places.requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())


def test_rows_do_not_know_each_other():
    torch.manual_seed(0)
    tokenizer = Config(stride=8, group_size=4).build(16)
    view = torch.randn(4, 3, 64)
    torch.testing.assert_close(tokenizer(view)[0][2:3], tokenizer(view[2:3])[0], rtol=1e-5, atol=1e-6)


def test_wrong_views_and_settings_are_named():
    tokenizer = Config(stride=8, group_size=4).build(16)
    with pytest.raises(UserError, match=r"expects views \[rows, 3, points\], but got \[2, 4, 64\]"):
        tokenizer(torch.randn(2, 4, 64))
    with pytest.raises(UserError, match=r"7 points is too small .* at least 8 points"):
        tokenizer(torch.randn(2, 3, 7))
    with pytest.raises(UserError, match="one number, its points"):
        Config().coordinates((32, 32))
    for settings, words in (
        ({"stride": 0}, "stride is 0"),
        ({"group_size": 0}, "group_size is 0"),
        ({"channels": 2}, "channels is 2; it must be from 3"),
        ({"widths": (4, 0, 4)}, "widths.1 is 0"),
        ({"widths": (4, 4)}, "three positive"),
        ({"norm": "group"}, "'layer' or 'batch'"),
        ({"scale": 0.0}, "above 0"),
    ):
        with pytest.raises(UserError, match=words):
            Config(**settings)
    assert Config(stride=16).coordinates((1024,)).shape == (64, 1)


def encoder(**changes) -> vit.Encoder:
    torch.manual_seed(0)
    tokenizer = Config(stride=16, group_size=8, widths=(8, 8, 8))
    settings = {"preset": None, "width": 32, "depth": 2, "heads": 2, "size": (128,), "tokenizer": tokenizer}
    return vit.Config(**settings, position=PositionConfig(kind="mlp"), **changes).build().eval()


def test_in_the_trunk_tokens_know_their_place_and_hidden_groups_do_not_leak():
    model = encoder()
    view = torch.randn(2, 3, 128)
    features, smaller = model([view, view[:, :, :64]])
    assert features.patches.shape == (2, 8, 32) and smaller.patches.shape == (2, 4, 32)
    moved = model([view + 0.5])[0]
    assert not torch.allclose(moved.cls, features.cls, atol=1e-4), "positions see where the cloud lies"
    with torch.no_grad():
        model.mask_token.normal_()
    hidden = torch.ones(2, 8, dtype=torch.bool)
    places = model.config.coordinates_of(view)
    other = torch.randn(2, 3, 128)
    embedded = model.embed(view, hidden)[0][:, 1:] - model.positions(places)
    assert torch.allclose(embedded, model.mask_token.expand_as(embedded), atol=1e-6)
    first, second = model(inputs([other, view], [hidden, hidden]))
    assert not torch.allclose(first.cls, second.cls)


def test_at_the_start_positions_weigh_about_as_much_as_tokens():
    model = encoder()
    view = torch.nn.functional.normalize(torch.randn(16, 3, 128), dim=1) * torch.rand(16, 1, 128)
    with torch.no_grad():
        tokens, places, _ = model.tokenizer(view)
        positions = model.positions(places)
    spread = [(x - x.mean(dim=1, keepdim=True)).square().mean().sqrt().item() for x in (positions, tokens)]
    assert 0.2 < spread[0] / spread[1] < 5


def test_block_masks_hide_neighbouring_groups():
    view = torch.randn(64, 3, 512)
    places = Config(stride=16, group_size=8).coordinates_of(view).numpy()
    draws = Draws(0, np.zeros(64, np.int64), np.arange(64))
    config = block.Config(probability=1.0, ratio=(0.4, 0.4))
    mask = config.build()(places, 1, draws, np.arange(64), 64, 0).masked.numpy()
    assert (mask.sum(1) == int(0.4 * 32)).all()

    def spread(rows: np.ndarray) -> float:
        return float(np.mean([p[m].std(0).mean() for p, m in zip(places, rows, strict=True)]))

    single = random.Config(probability=1.0, ratio=(0.4, 0.4)).build()
    assert spread(mask) < 0.75 * spread(single(places, 1, draws, np.arange(64), 64, 0).masked.numpy())
    for row, place in zip(mask, places, strict=True):
        radius = [np.sort(((place - place[m]) ** 2).sum(1))[row.sum() - 1] for m in np.flatnonzero(row)]
        inside = [((place[row] - place[m]) ** 2).sum(1).max() for m in np.flatnonzero(row)]
        assert any(i <= r + 1e-6 for i, r in zip(inside, radius, strict=True)), "the nearest to one of them"


def test_features_of_single_points():
    places = clouds(2, 12)
    features = torch.randn(2, 12, 5)
    at_centres = per_point(features, places, places)
    torch.testing.assert_close(at_centres, features, rtol=1e-4, atol=1e-4)
    constant = per_point(torch.ones(2, 12, 5), places, clouds(2, 30, seed=2))
    torch.testing.assert_close(constant, torch.ones(2, 30, 5))
    line = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0]]])
    middle = per_point(torch.tensor([[[0.0], [4.0]]]), line, torch.tensor([[[0.25, 0, 0]]]))
    assert middle.item() == pytest.approx(0.4), "weights 9 to 1"


@pytest.mark.parametrize("half", [False, True])
def test_the_memory_that_a_plan_counts_is_what_the_backward_pass_keeps(half):
    tokenizer = Config(stride=16, group_size=16).build(384)
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        tokenizer(torch.randn(4, 3, 512))
    weights = {p.untyped_storage().data_ptr() for p in tokenizer.parameters()}
    size = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    size -= half * 2 * sum(p.numel() for p in tokenizer.parameters() if p.ndim > 1)  # copies of the matrices
    assert size == pytest.approx(4 * 32 * tokenizer.kept_per_token * (2 if half else 4), rel=0.1)


def test_the_bench_compares_what_is_equal(tmp_path):
    before = torch.get_num_threads()
    words = ["--clouds", "2", "--points", "96", "--groups", "12", "--neighbours", "5", "--rounds", "1"]
    assert main(["bench", "groups", *words, "--json", str(tmp_path / "out.json")]) == 0
    torch.set_num_threads(before)
    ways = json.loads((tmp_path / "out.json").read_text())["ways"]
    assert len(ways) == 3 and all(way["same"] == 1.0 and way["clouds_per_second"] > 0 for way in ways.values())
    assert main(["bench", "groups", "--points", "10"]) == 2
