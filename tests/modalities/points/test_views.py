"""Views of points: distributions as set, geometry, independence of neighbours, a fixed number of points."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.errors import UserError
from foundation.modalities.points import geometry
from foundation.modalities.points.views import Config, EvaluationConfig, ViewConfig, for_probe, published
from foundation.modalities.rotations import rotation

STILL = {"rotation": "none", "scale": (1.0, 1.0), "shift": 0.0, "jitter": 0.0, "dropout": 0.0}
WHOLE = ViewConfig(count=1, size=300, keep=(1.0, 1.0))
NONE = ViewConfig(count=0)


def draws(count: int, epoch: int = 0, seed: int = 3) -> Draws:
    return Draws(seed, np.full(count, epoch, np.int64), np.arange(count, dtype=np.int64) * 7 + 1)


def clouds(count: int, channels: int = 3, points: int | None = None) -> list[dict]:
    random = np.random.default_rng(5)
    made = []
    for number in range(count):
        size = points or int(random.integers(150, 400))
        cloud = random.normal(size=(size, channels)).astype(np.float32) * [3, 2, 1, *[1] * (channels - 3)] + 10
        made.append({"__id__": number * 7 + 1, "__key__": f"c{number}", "points": torch.from_numpy(cloud).float()})
    return made


def small(**changes) -> Config:
    """A quick recipe with everything in it."""
    config = Config(
        global_views=ViewConfig(count=2, size=128, keep=(0.6, 1.0)),
        local_views=ViewConfig(count=3, size=64, keep=(0.1, 0.5), crop="cuboid"),
        rotation="any",
        tilt=10.0,
        flip=0.5,
        dropout=0.3,
    )
    return replace(config, **changes)


def gaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distances, from differences: the matrix product is too coarse to find equal points."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def make(config: Config, samples: list[dict], **key):
    maker = config.build()
    return maker.finish(maker.prepare(samples, draws(len(samples), **key)))


def test_published_recipes():
    pos_bert = published("pos-bert")
    assert (pos_bert.global_views.count, pos_bert.global_views.keep) == (2, (0.5, 0.9))
    assert (pos_bert.local_views.count, pos_bert.local_views.keep) == (8, (0.2, 0.5))
    assert (pos_bert.jitter, pos_bert.jitter_clip, pos_bert.shift, pos_bert.scale) == (0.01, 0.05, 0.2, (2 / 3, 1.5))
    assert pos_bert.anisotropic and pos_bert.fill == "interpolate" and pos_bert.rotation == "none"
    mae = published("point-mae")
    assert (mae.global_views.count, mae.global_views.size, mae.global_views.keep) == (1, 1024, (1.0, 1.0))
    assert mae.local_views.count == 0 and mae.jitter == 0
    with pytest.raises(UserError, match="pos-bert and point-mae"):
        published("pointnet")


# Geometry


@pytest.mark.parametrize("normalise", ["sphere", "centre", "none"])
def test_geometry_says_where_each_point_came_from(normalise):
    samples = clouds(4)
    config = small(jitter=0.0, fill="repeat", normalise=normalise)
    for view in make(config, samples).values():
        assert view.geometry.shape == (view.count * 4, 3, 4) and view.data.shape[1] == 3
        for row, (points, affine) in enumerate(zip(view.data, view.geometry, strict=True)):
            source = affine[:, :3] @ points + affine[:, 3:]
            distance = gaps(source.T, samples[row % 4]["points"]).min(dim=1).values
            assert distance.max() < 1e-3, "every point of a view is one of the file's"
        signs = torch.linalg.det(view.geometry[:, :, :3]).sign()
        assert (signs > 0).any() and (signs < 0).any(), "mirror images among them"


def test_jitter_is_normal_and_cut():
    base = Config(global_views=replace(WHOLE, size=2000), local_views=NONE, **(STILL | {"jitter": 0.01}))
    samples = clouds(6, points=2000)
    plain = make(replace(base, jitter=0.0), samples)["global"].data
    noisy = make(base, samples)["global"].data
    noise = (noisy - plain).flatten()
    assert noise.std().item() == pytest.approx(0.01, rel=0.02) and abs(noise.mean()) < 1e-4
    assert (noise.abs() < 0.01).float().mean().item() == pytest.approx(0.683, abs=0.01)
    cut = make(replace(base, jitter_clip=0.015), samples)["global"].data - plain
    assert cut.abs().max() < 0.0151 and (cut.abs() > 0.0149).float().mean().item() == pytest.approx(0.134, abs=0.01)


def test_normalising():
    for how, radius in (("sphere", 1.0), ("centre", None), ("none", None)):
        config = Config(global_views=replace(WHOLE, size=400), local_views=NONE, normalise=how, **STILL)
        (sample,) = clouds(1, points=400)
        view = make(config, [sample])["global"].data[0].T
        source = sample["points"]
        expected = source if how == "none" else source - source.mean(0)
        if radius:
            expected = expected / expected.norm(dim=1).max()
            assert view.norm(dim=1).max().item() == pytest.approx(1, abs=1e-5)
        assert gaps(view, expected).min(dim=0).values.max() < 1e-4, "all points, each once"
        assert torch.equal(
            EvaluationConfig(size=400, normalise=how).build()([sample])[0].T.argsort(0), source.argsort(0)
        )


@pytest.mark.parametrize("kind", ["sphere", "cuboid"])
def test_crops_hold_their_share_of_neighbouring_points(kind):
    cloud = clouds(1, points=1000)[0]["points"].numpy()
    random = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.9, 1.0):
        uniforms = random.random(4)
        inside = geometry.crop(cloud, kind, share, uniforms, 0.5)
        assert len(inside) == len(np.unique(inside)) == round(1000 * share)
        outside = np.setdiff1d(np.arange(1000), inside)
        offsets = np.abs(cloud - cloud[int(uniforms[0] * 1000)])
        if kind == "cuboid":
            reach = offsets / (0.5 + 0.5 * uniforms[1:4])
            distance = reach.max(1)
        else:
            distance = np.linalg.norm(offsets, axis=1)
        if len(outside):
            assert distance[inside].max() <= distance[outside].min() + 1e-5
    assert len(geometry.crop(cloud, kind, 1e-9, random.random(4), 0.5)) == 1


def test_rotations():
    uniforms = np.random.default_rng(0).random((4000, 3))
    for kind in ("axis", "any", "none"):
        matrices = np.stack([rotation(kind, 2, 180.0, u) for u in uniforms])
        assert np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
        assert np.allclose(np.linalg.det(matrices), 1)
        if kind == "axis":
            assert np.allclose(matrices[:, 2, 2], 1), "up stays up"
            angles = np.sort(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
            assert np.abs((angles + np.pi) / (2 * np.pi) - np.linspace(0, 1, 4000)).max() < 0.03
        if kind == "any":
            # Uniform over SO(3): every entry is uniform in [-1, 1], and the angle has density (1 - cos) / pi.
            for entry in matrices.reshape(-1, 9).T:
                assert np.abs((np.sort(entry) + 1) / 2 - np.linspace(0, 1, 4000)).max() < 0.03
            angles = np.sort(np.arccos(((matrices.trace(axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))
            assert np.abs((angles - np.sin(angles)) / np.pi - np.linspace(0, 1, 4000)).max() < 0.03
    limited = [rotation("axis", 0, 30.0, u) for u in uniforms]
    assert min(m[1, 1] for m in limited) >= np.cos(np.deg2rad(30)) - 1e-12


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_turning_about_the_upright_axis_keeps_heights(up):
    config = Config(global_views=WHOLE, local_views=NONE, **STILL)
    config = replace(config, rotation="axis", up=up, flip=0.5, normalise="none")
    samples = clouds(8, points=300)
    axis = "xyz".index(up)
    view = make(config, samples)["global"].data
    for points, sample in zip(view, samples, strict=True):
        assert torch.equal(points[axis].sort().values, sample["points"][:, axis].sort().values)
        for other in ((axis + 1) % 3, (axis + 2) % 3):
            assert not torch.allclose(points[other].sort().values, sample["points"][:, other].sort().values)


def test_scale_and_shift_have_their_ranges():
    config = replace(Config(global_views=WHOLE, local_views=NONE), jitter=0.0)
    view = make(config, clouds(300, points=300))["global"]
    forward = torch.linalg.inv(view.geometry[:, :, :3].double())
    norm = torch.stack([s["points"].sub(s["points"].mean(0)).norm(dim=1).max() for s in clouds(300, points=300)])
    factors = torch.diagonal(forward, dim1=1, dim2=2) * norm[:, None]
    assert (
        factors.min() > 2 / 3 - 1e-3
        and factors.max() < 1.5 + 1e-3
        and factors.mean().item() == pytest.approx(13 / 12, abs=0.03)
    )
    assert (factors[:, 0] - factors[:, 1]).abs().max() > 0.3
    same = make(replace(config, anisotropic=False), clouds(20, points=300))["global"].geometry
    assert torch.allclose(same[:, 0, 0], same[:, 1, 1]) and torch.allclose(same[:, 1, 1], same[:, 2, 2])
    offset = make(replace(config, scale=(1.0, 1.0), normalise="none"), clouds(300, points=300))["global"].geometry
    assert offset[..., 3].abs().max() < 0.2001 and offset[..., 3].abs().max() > 0.19


def test_normals_stay_normal_to_a_stretched_surface():
    random = np.random.default_rng(0)
    directions = random.normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sphere = {"__id__": 1, "points": torch.from_numpy(np.concatenate([directions, directions], 1)).float()}
    config = small(channels=6, normals=True, jitter=0.0, fill="repeat", dropout=0.0)
    for view in make(config, [sphere] * 4).values():
        for points, affine in zip(view.data, view.geometry, strict=True):
            on_sphere = affine[:, :3] @ points[:3] + affine[:, 3:]
            expected = affine[:, :3].T @ on_sphere  # gradient of the ellipsoid
            expected = expected / expected.norm(dim=0)
            assert (expected * points[3:]).sum(0).min() > 0.999
            assert points[3:].norm(dim=0).sub(1).abs().max() < 1e-5


# A fixed number of points


@pytest.mark.parametrize("fill", ["interpolate", "repeat"])
@pytest.mark.parametrize("points", [40, 64, 128, 300])
def test_a_view_has_its_number_of_points_whatever_the_cloud_has(fill, points):
    config = Config(global_views=replace(WHOLE, size=128), local_views=NONE, fill=fill, **STILL)
    (sample,) = clouds(1, points=points)
    view = make(config, [sample])["global"].data[0].T
    assert view.shape == (128, 3)
    cloud = sample["points"] - sample["points"].mean(0)
    cloud = cloud / cloud.norm(dim=1).max()
    known = gaps(view, cloud).min(dim=1).values < 1e-5
    different = len(torch.unique(view, dim=0))
    if points >= 128:
        assert known.all() and different == 128, "chosen without repeating"
    elif fill == "repeat":
        assert known.all() and different == points
    else:
        assert known.sum() == points and different == 128
        assert gaps(view, cloud).min(dim=1).values.max() < 1.0


def test_dropout_leaves_points_out():
    config = Config(global_views=WHOLE, local_views=NONE, fill="repeat", **(STILL | {"dropout": 0.9}))
    kept = [len(torch.unique(v.T, dim=0)) / 300 for v in make(config, clouds(150, points=300))["global"].data]
    assert min(kept) < 0.15 and max(kept) > 0.97 and np.mean(kept) == pytest.approx(0.55, abs=0.06)


def test_huge_clouds_are_thinned_first():
    (sample,) = clouds(1, points=5000)
    config = small(point_limit=200, jitter=0.0, dropout=0.0, fill="repeat", normalise="none")
    views = make(config, [sample])
    source = torch.cat(
        [(g[:, :3] @ p + g[:, 3:]).T for v in views.values() for p, g in zip(v.data, v.geometry, strict=True)]
    )
    near = gaps(source, sample["points"]).argmin(dim=1)
    assert len(near.unique()) <= 200, "all views of a sample share the points that are left"


# Independence


def test_a_sample_has_the_same_views_in_any_company():
    samples, all_draws = clouds(6), draws(6)
    maker = small().build()
    whole = maker.finish(maker.prepare(samples, all_draws))
    for rows in ([3], [5, 0, 3]):
        some = maker.finish(maker.prepare([samples[r] for r in rows], all_draws.take(np.array(rows))))
        for name, view in some.items():
            picked = torch.tensor([v * 6 + r for v in range(view.count) for r in rows])
            assert torch.equal(view.data, whole[name].data[picked])
            assert torch.equal(view.geometry, whole[name].geometry[picked])


def test_views_change_with_epoch_seed_and_view_and_repeat_otherwise():
    samples, config = clouds(3), small()

    def data(**key):
        return make(config, samples, **key)["global"].data

    assert torch.equal(data(), data())
    assert not torch.equal(data(), data(epoch=1)) and not torch.equal(data(), data(seed=4))
    first, second = data().reshape(2, 3, 3, 128)
    assert not torch.equal(first, second)


def test_rows_are_view_major_and_prepared_travels():
    samples, maker = clouds(4), pickle.loads(pickle.dumps(small().build(True)))
    assert maker.describe() == small().roles == {"global": (2, (3, 128)), "local": (3, (3, 64))}
    prepared = maker.prepare(samples, draws(4))
    view = maker.finish(pickle.loads(pickle.dumps(prepared)).to("cpu"))["local"]
    assert view.sample_ids.tolist() == [1, 8, 15, 22] * 3
    assert (view.role, view.count, view.modality, view.data.dtype) == ("local", 3, "points", torch.float32)
    assert maker.inputs(prepared, "global").shape == (8, 3, 128)
    with pytest.raises(ValueError, match="4 samples"):
        maker.prepare(samples, draws(3))


# Evaluation and mistakes


def test_evaluation_takes_a_fixed_part_of_the_cloud():
    samples = clouds(3, channels=4)
    config = small(channels=4).evaluation()
    assert config == EvaluationConfig(size=128, channels=4, normalise="sphere")
    seen = config.build()(samples)
    assert seen.shape == (3, 4, 128) and torch.equal(seen, config.build()(samples))
    assert torch.equal(seen[1:2], config.build()(samples[1:2]))
    few = EvaluationConfig(size=500, channels=3).build()(clouds(1, points=100))[0].T
    assert len(torch.unique(few, dim=0)) == 100
    augmented = for_probe(config)
    assert augmented.roles == {"global": (1, (4, 128))}
    with pytest.raises(UserError, match=r"'c0': its points have 3 numbers, but channels is 4"):
        config.build()(clouds(1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ViewConfig(count=-1), "count is -1"),
        (lambda: ViewConfig(size=0), "size is 0"),
        (lambda: ViewConfig(keep=(0.5, 0.2)), "keep"),
        (lambda: ViewConfig(crop="ball"), "sphere or cuboid"),
        (lambda: Config(channels=2), "channels is 2; it must be from 3"),
        (lambda: Config(channels=4, normals=True), "are 6"),
        (lambda: Config(global_views=NONE), "global_views.count"),
        (lambda: Config(point_limit=1000), "1024 points"),
        (lambda: Config(scale=(0.0, 1.0)), "scale"),
        (lambda: Config(jitter=-0.1), "jitter is -0.1"),
        (lambda: Config(flip=1.5), "flip is 1.5"),
        (lambda: Config(dropout=1.0), "dropout is 1; it must be at least 0 and below 1"),
        (lambda: Config(aspect=0.0), "aspect is 0; it must be above 0"),
        (lambda: Config(rotation="all"), "choose none, axis, any"),
        (lambda: Config(up="w"), "choose x, y, z"),
        (lambda: Config(normalise="cube"), "choose sphere, centre, none"),
        (lambda: Config(fill="zero"), "choose interpolate, repeat"),
        (lambda: EvaluationConfig(size=0), "size is 0"),
        (lambda: EvaluationConfig(channels=2), "channels is 2"),
        (lambda: EvaluationConfig(normalise="cube"), "normalise"),
    ],
)
def test_impossible_settings_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
