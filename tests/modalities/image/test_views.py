"""Multi-crop views: published distributions, geometry, independence of neighbours, two placements."""

from __future__ import annotations

import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.image import geometry
from foundation.modalities.image.decode import decode
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.modalities.image.view_config import ViewConfig
from foundation.modalities.image.views import Config, published

PLAIN = {"jitter": 0.0, "greyscale": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def draws(count: int, epoch: int = 0, seed: int = 3) -> Draws:
    return Draws(seed, np.full(count, epoch, np.int64), np.arange(count, dtype=np.int64) * 7 + 1)


def small(**changes) -> Config:
    """A quick recipe with everything in it."""
    config = Config(
        global_views=ViewConfig(count=2, size=32, scale=(0.4, 1.0), blur=(1.0, 0.1), solarise=(0.0, 0.5)),
        local_views=ViewConfig(count=3, size=16, scale=(0.05, 0.4)),
    )
    return replace(config, **changes)


def images(count: int, seed: int = 0) -> list[dict]:
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        height, width = random.integers(40, 90, 2)
        pixels = torch.from_numpy(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        made.append({"__id__": number * 7 + 1, "image": pixels.permute(2, 0, 1)})
    return made


@pytest.fixture(scope="module")
def photos(shared_data) -> list[dict]:
    found = []
    with tarfile.open(shared_data("photos") / "photos-000000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                raw = {"__key__": member.name, "__shard__": "photos", "__id__": len(found) * 7 + 1}
                found.append(decode({**raw, "jpg": tar.extractfile(member).read()}))
            if len(found) == 6:
                break
    return found


# Published numbers


def test_defaults_are_dinos():
    config = Config()
    assert (config.global_views.count, config.global_views.size, config.global_views.scale) == (2, 224, (0.4, 1.0))
    assert (config.local_views.count, config.local_views.size, config.local_views.scale) == (8, 96, (0.05, 0.4))
    assert (config.global_views.blur, config.local_views.blur) == ((1.0, 0.1), (0.5,))
    assert (config.global_views.solarise, config.local_views.solarise) == ((0.0, 0.2), (0.0,))
    assert (config.flip, config.jitter, config.greyscale, config.blur_sigma) == (0.5, 0.8, 0.2, (0.1, 2.0))
    assert (config.brightness, config.contrast, config.saturation, config.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (config.interpolation, config.solarise_threshold, config.aspect) == ("bicubic", 128, (0.75, 4 / 3))
    assert published("dino") == config


def test_the_other_published_recipes():
    ibot, paper, released = (published(name) for name in ("ibot", "dinov2", "dinov2-released"))
    assert (ibot.local_views.count, ibot.global_views.scale, ibot.local_views.scale) == (10, (0.25, 1.0), (0.05, 0.25))
    assert (paper.global_views.scale, paper.local_views.scale, paper.blur_radius) == ((0.32, 1.0), (0.05, 0.32), 4)
    assert (paper.global_views.blur, released.global_views.blur) == ((1.0, 0.1), (0.0, 0.9))
    assert released.local_views.blur == (0.5,) and released.global_views.solarise == (0.0, 0.2)
    with pytest.raises(UserError, match="dinov2-released"):
        published("dinov9")


def test_probabilities_and_ranges_as_drawn():
    n = 20000
    views = Config().build()
    rows = slice(0, n), slice(n, 2 * n)
    drawn = views._draw_photometric("global", views.roles["global"], draws(n))
    close = 4 * np.sqrt(0.25 / n)  # four standard errors
    for view, (blur, solarise) in zip(rows, ((1.0, 0.0), (0.1, 0.2)), strict=True):
        assert abs(drawn.blur[view].mean() - blur) <= close and abs(drawn.solarise[view].mean() - solarise) <= close
        assert abs(drawn.jitter[view].mean() - 0.8) < close and abs(drawn.greyscale[view].mean() - 0.2) < close
    local = views._draw_photometric("local", views.roles["local"], draws(n))
    assert abs(local.blur.mean() - 0.5) < close and not local.solarise.any()
    for column, (low, high) in enumerate(((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))):
        values = np.sort(drawn.factors[:, column])
        assert low <= values[0] < low + 1e-3 * 2 and high - 2e-3 < values[-1] <= high
        assert np.abs((values - low) / (high - low) - np.linspace(0, 1, 2 * n)).max() < 0.012  # Kolmogorov-Smirnov
    sigma = np.sort(drawn.sigma)
    assert np.abs((sigma - 0.1) / 1.9 - np.linspace(0, 1, 2 * n)).max() < 0.012
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 24 and np.abs(counts / (2 * n) - 1 / 24).max() < 0.006
    _, flips = views._draw_geometry("global", views.roles["global"], draws(n), np.full(n, 300), np.full(n, 400))
    assert abs(flips.mean() - 0.5) < close


@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
@pytest.mark.parametrize("size", [(300, 400), (60, 200), (500, 120), (1, 1), (7, 300)])
def test_crops_are_distributed_as_torchvisions(scale, size):
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    n, m = 8000, 1500
    height, width = size
    ours = geometry.crop_boxes(
        draws(n).uniform("c", geometry.CROP_DRAWS), np.full(n, height), np.full(n, width), scale, (3 / 4, 4 / 3)
    )
    empty = torch.empty(3, height, width)
    theirs = np.array([transforms.RandomResizedCrop.get_params(empty, list(scale), [3 / 4, 4 / 3]) for _ in range(m)])
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()

    def statistics(boxes):
        top, left, h, w = boxes.T.astype(float)
        return {"area": h * w, "aspect": w / h, "top": top, "left": left}

    mine, reference = statistics(ours), statistics(theirs)
    bound = 1.95 * np.sqrt((n + m) / (n * m))  # two-sample Kolmogorov-Smirnov, p = 0.001
    for name in mine:
        grid = np.unique(np.concatenate([mine[name], reference[name]]))
        a, b = (np.searchsorted(np.sort(v[name]), grid, side="right") / len(v[name]) for v in (mine, reference))
        assert np.abs(a - b).max() < bound, name


# Geometry


def ramp(height: int, width: int) -> torch.Tensor:
    """Red is x, green is y (pixel centres), in levels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], -1).round().to(torch.uint8).permute(2, 0, 1)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_geometry_says_where_each_pixel_came_from(on_device, interpolation):
    crops = [ViewConfig(count=c, size=s, scale=(0.1, 0.9), blur=(0.0,)) for c, s in ((2, 40), (3, 16))]
    config = Config(global_views=crops[0], local_views=crops[1], interpolation=interpolation, **PLAIN)
    samples = [{"__id__": i, "image": ramp(h, w)} for i, (h, w) in enumerate([(200, 240), (250, 180), (90, 250)])]
    maker = config.build(on_device)
    views = maker.finish(maker.prepare(samples, draws(3)))
    assert {name: view.data.shape for name, view in views.items()} == {
        "global": (6, 3, 40, 40),
        "local": (9, 3, 16, 16),
    }
    flipped = 0
    for view in views.values():
        size = view.data.shape[-1]
        place = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(place, place, indexing="ij")
        points = torch.stack([x, y, torch.ones_like(x)], -1)  # [S, S, 3]
        source = torch.einsum("rij,hwj->rihw", view.geometry, points)  # [R, 2, S, S]
        inner = slice(3, -3)  # at the crop's edge the filter is cut off and leans inward
        difference = (view.data[:, :2] - source)[..., inner, inner].abs()
        assert difference.max() < 1.6
        flipped += int((view.geometry[:, 0, 0] < 0).sum())
    assert 0 < flipped < 15


def test_rows_are_view_major_and_ids_follow():
    samples = images(4)
    view = (maker := small().build()).finish(maker.prepare(samples, draws(4)))["local"]
    assert view.sample_ids.tolist() == [1, 8, 15, 22] * 3 and (view.role, view.count, view.modality) == (
        "local",
        3,
        "image",
    )
    assert maker.describe() == {"global": (2, (3, 32, 32)), "local": (3, (3, 16, 16))}


# Independence


@pytest.mark.parametrize("on_device", [False, True])
def test_a_sample_has_the_same_views_in_any_company(on_device):
    samples, all_draws = images(7), draws(7)
    maker = small().build(on_device)
    whole = maker.finish(maker.prepare(samples, all_draws))
    for rows in ([3], [6, 0, 3], [5, 4, 3, 2, 1, 0]):
        some = maker.finish(maker.prepare([samples[r] for r in rows], all_draws.take(np.array(rows))))
        for name, view in some.items():
            picked = torch.tensor([v * 7 + r for v in range(view.count) for r in rows])
            same, expected = view.data, whole[name].data[picked]
            if on_device:  # padding to the largest neighbour changes the order of sums: one level at most
                assert (same - expected).abs().max() < 0.05
            else:
                assert torch.equal(same, expected)
            assert torch.equal(view.geometry, whole[name].geometry[picked])


def test_views_change_with_epoch_seed_and_view_and_repeat_otherwise():
    samples, maker = images(3), small().build()

    def make(**key):
        return maker.finish(maker.prepare(samples, draws(3, **key)))["global"].data

    assert torch.equal(make(), make())
    assert not torch.equal(make(), make(epoch=1)) and not torch.equal(make(), make(seed=4))
    first, second = make().reshape(2, 3, 3, 32, 32)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("on_device", [False, True])
def test_plain_views_are_the_crops_of_the_global_ones_with_their_own_colours(on_device):
    """DINOv3's Gram teacher: twice the size, the same places, no jitter, blur or solarising."""
    placement = "device" if on_device else "workers"
    some, settings = images(3), {"placement": placement, "degrees": 10.0}
    both = small(plain_size=48, **settings)
    views = both.build()
    assert views.describe()["plain"] == (2, (3, 48, 48))
    made = views.finish(views.prepare(some, draws(3)))
    torch.testing.assert_close(made["plain"].geometry, made["global"].geometry)
    quiet = {"jitter": 0.0, "greyscale": 0.0}
    crops = replace(both.global_views, size=48, blur=(0.0,), solarise=(0.0,))
    as_large = replace(both, plain_size=None, global_views=crops, **quiet)
    wanted = as_large.build().finish(as_large.build().prepare(some, draws(3)))["global"]
    torch.testing.assert_close(made["plain"].data, wanted.data)
    alone = small(**settings).build()
    without = alone.finish(alone.prepare(some, draws(3)))
    assert "plain" not in without and torch.equal(without["global"].data, made["global"].data)


def test_threads_do_not_matter():
    samples, maker, before = images(5), small().build(), torch.get_num_threads()
    single = maker.finish(maker.prepare(samples, draws(5)))
    try:
        torch.set_num_threads(2)
        double = maker.finish(maker.prepare(samples, draws(5)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(single[name].data, double[name].data) for name in single)


# The two placements


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [96, 31])
def test_resampling_agrees_within_a_level(photos, interpolation, size):
    pictures = [s["image"] for s in photos]
    n = len(pictures)
    heights, widths = (np.array([p.shape[d] for p in pictures]) for d in (1, 2))
    boxes = [
        geometry.crop_boxes(
            draws(n, seed=v).uniform("c", geometry.CROP_DRAWS), heights, widths, (0.02, 1.0), (0.75, 4 / 3)
        )
        for v in range(3)
    ]
    boxes, flips = np.concatenate(boxes), np.arange(3 * n) % 2 == 0
    workers = geometry.resize_crops(pictures, boxes, flips, size, interpolation).float()
    device = geometry.resample_crops(
        geometry.pack(pictures), torch.from_numpy(boxes), torch.from_numpy(flips), size, interpolation
    )
    difference = (workers - device).abs()
    assert difference.max() <= 2 and difference.mean() < 0.02 and (difference > 1).float().mean() < 1e-4


def test_placements_give_the_same_views(photos):
    config = replace(small(), global_views=ViewConfig(count=2, size=64, scale=(0.4, 1.0), blur=(1.0, 0.1)))
    workers, device = config.build(False), config.build(True)
    assert not workers.on_device and device.on_device and not replace(config, placement="workers").build(True).on_device
    a, b = (m.finish(m.prepare(photos, draws(len(photos)))) for m in (workers, device))
    for name in a:
        levels = (a[name].data - b[name].data).abs() * 0.225 * 255
        # a level of difference in a nearly grey pixel turns into a few by jitter's factors
        assert levels.mean() < 0.05 and (levels > 2).float().mean() < 2e-3
        assert torch.equal(a[name].geometry, b[name].geometry) and torch.equal(a[name].sample_ids, b[name].sample_ids)


def test_huge_images_are_reduced_before_they_are_packed(photos):
    large = [torch.nn.functional.interpolate(s["image"][None], scale_factor=2.5, mode="bicubic")[0] for s in photos[:2]]
    samples = [{"image": image} for image in [*large, photos[2]["image"]]]
    config = replace(small(**PLAIN), canvas_limit=600)
    config = replace(config, global_views=replace(config.global_views, blur=(0.0,), solarise=(0.0,)))
    config = replace(config, local_views=replace(config.local_views, blur=(0.0,), scale=(0.3, 0.6)))
    workers, device = config.build(False), config.build(True)
    prepared = device.prepare(samples, draws(3))
    assert max(prepared.canvas.shape) <= 600
    a, b = workers.finish(workers.prepare(samples, draws(3))), device.finish(prepared)
    for name in a:
        assert torch.equal(a[name].geometry, b[name].geometry)
        assert (a[name].data - b[name].data).abs().mean() < 2.0  # levels: reduced twice instead of once


def test_prepared_travels():
    maker = pickle.loads(pickle.dumps(small().build(True)))
    samples = images(3)
    prepared = maker.prepare(samples, draws(3))
    travelled = pickle.loads(pickle.dumps(prepared)).to("cpu")
    expected = maker.finish(prepared)
    assert all(torch.equal(v.data, expected[k].data) for k, v in maker.finish(travelled).items())


def test_wrong_company():
    with pytest.raises(ValueError, match="2 samples"):
        small().build().prepare(images(2), draws(3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ViewConfig(scale=(0.5, 0.2)), "scale"),
        (lambda: ViewConfig(count=2, blur=(1.0, 0.1, 0.5)), "blur has 3"),
        (lambda: ViewConfig(size=0), "size"),
        (lambda: Config(hue=0.7), "hue"),
        (lambda: Config(jitter=1.2), "jitter"),
        (lambda: Config(interpolation="nearest"), "bicubic"),
        (lambda: Config(placement="gpu"), "workers"),
        (lambda: Config(global_views=ViewConfig(count=0)), "global_views.count"),
        (lambda: Config(local_views=ViewConfig(size=6)), "local_views.size"),
        (lambda: EvaluationConfig(crop_fraction=0.0), "crop_fraction"),
    ],
)
def test_impossible_settings_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()


# Evaluation


def test_evaluation_equals_torchvisions_preprocessing(photos):
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image

    result = EvaluationConfig(size=112).build()(photos)
    reference = transforms.Compose(
        [
            transforms.Resize(128, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(112),
            transforms.ToTensor(),
            transforms.Normalize(EvaluationConfig().mean, EvaluationConfig().std),
        ]
    )
    for row, sample in zip(result, photos, strict=True):
        expected = reference(Image.fromarray(sample["image"].permute(1, 2, 0).numpy()))
        levels = (row - expected).abs() * 0.225 * 255
        assert levels.max() < 2.1 and levels.mean() < 0.05


def test_evaluation_of_tiny_images_keeps_everything():
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    config = EvaluationConfig(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert torch.allclose(config.build()([{"image": pixels}])[0] * 255, pixels.float(), atol=1e-3)
    assert EvaluationConfig(size=48).build()([{"image": pixels}, {"image": pixels}]).shape == (2, 3, 48, 48)
