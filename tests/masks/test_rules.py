"""Masks: the published statistics, exact counts, and independence of how a batch is split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.errors import RecipeError, UserError
from foundation.masks import block
from foundation.masks.counted import Rows
from foundation.masks.rule import Rule, makers
from foundation.plugins import resolve
from foundation.run.run_folder import RunFolder
from foundation.run.trainer import Trainer


def rule(kind: str = "block", **settings) -> Rule:
    """As a recipe has it: ``{kind: KIND, ...}``."""
    return resolve("foundation.masks.{name}", kind).Config(**settings)


def grid(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2)


def draws(count: int, first: int = 0, seed: int = 0) -> Draws:
    return Draws(seed, np.zeros(count, dtype=np.int64), np.arange(first, first + count))


def make(config: Rule, size=(8, 8), samples=8, step=0, seed=0, views=2):
    return config.build()(grid(*size), views, draws(samples, samples * step, seed), np.arange(samples), samples, step)


def fixed_count(config: Rule, size, wanted: int, trials: int) -> np.ndarray:
    """[trials, H, W] block masks of one wanted count."""
    masks = config.pattern(Rows(grid(*size), np.full(trials, wanted), draws(trials, seed=wanted), "test"))
    return masks.reshape(trials, *size)


@pytest.mark.parametrize("name", ["16x16", "14x14", "12x20"])
def test_block_masks_have_the_statistics_of_dinov2(golden, name):
    data = golden("07_dinov2_masking_generator")
    size = tuple(data[f"arg/{name}/input_size"].tolist())
    cells = size[0] * size[1]
    config = rule(
        min_patches=int(data[f"arg/{name}/min_num_patches"]),
        max_share=float(data[f"arg/{name}/max_num_patches"]) / cells,
        aspect=float(np.exp(data[f"arg/{name}/log_aspect_min"])),
    )
    trials = 2000
    for i, wanted in enumerate(data[f"output/{name}/requested"].tolist()):
        masks = fixed_count(config, size, wanted, trials)
        realised, reference = masks.sum(axis=(1, 2)), data[f"output/{name}/realised"][i]
        assert realised.max(initial=0) <= wanted
        error = np.sqrt(reference.var() / len(reference) + realised.var() / trials) + 1e-3
        assert abs(realised.mean() - reference.mean()) < 4 * error, wanted
        frequency, expected = masks.mean(axis=0), data[f"output/{name}/patch_frequency"][i]
        variance = np.clip(frequency * (1 - frequency), 3e-3, None) * (1 / len(reference) + 1 / trials)
        deviation = (frequency - expected) / np.sqrt(variance)
        assert (deviation**2).mean() < 2.0, wanted  # 1 is expected; neighbouring cells are correlated
        assert np.abs(deviation).max() < 6.0, wanted


@pytest.mark.parametrize("name", ["16x16", "14x14", "12x20"])
def test_rectangles_have_the_published_shapes(golden, name):
    data = golden("07_dinov2_masking_generator")
    size = tuple(data[f"arg/{name}/input_size"].tolist())
    reference = data[f"output/{name}/single_rectangle_hw"].astype(float)
    most = int(data[f"arg/{name}/max_num_patches"])
    config = rule(max_share=most / (size[0] * size[1]), aspect=float(np.exp(data[f"arg/{name}/log_aspect_min"])))
    numbers = iter(np.random.default_rng(0).random(40_000).tolist())
    tries = [block.rectangle(config, block._Grid(*size), most, numbers) for _ in range(10_000)]
    ours = np.array([found[2:] for found in tries if found], dtype=float)
    for quantity in (
        lambda hw: hw[:, 0],
        lambda hw: hw[:, 1],
        lambda hw: hw.prod(axis=1),
        lambda hw: hw[:, 0] / hw[:, 1],
    ):
        a, b = quantity(ours), quantity(reference)
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4 * error
    levels = [5, 25, 50, 75, 95]
    quantiles = np.percentile(ours[:, 0] / ours[:, 1], levels)
    expected = data[f"output/{name}/single_rectangle_aspect_quantiles_0_5_25_50_75_95_100"][1:-1]
    np.testing.assert_allclose(np.log(quantiles), np.log(expected), atol=0.12)


def test_the_share_of_masked_rows_and_the_ratios_are_those_of_dinov2(golden):
    data = golden("07_dinov2_collate")
    samples = int(data["arg/n_samples"])
    reference = data["output/repeated/sorted_masked_per_image"]
    config = rule(probability=float(data["arg/mask_probability"]), ratio=tuple(data["arg/mask_ratio_min_max"].tolist()))
    ours = np.stack([np.sort(make(config, samples=samples, step=step).masked.sum(1).numpy()) for step in range(200)])
    assert ((ours > 0).sum(axis=1) == (reference > 0).sum(axis=1)).all()
    error = np.sqrt((ours.var(axis=0) + reference.var(axis=0)) / 200) + 1e-3
    assert (np.abs(ours.mean(axis=0) - reference.mean(axis=0)) < 4 * error).all()
    assert (ours.sum(axis=1) <= data["output/upperbound"]).all()


def test_indices_and_weights_belong_to_the_mask():
    mask = make(rule())
    assert mask.masked.shape == (16, 64)
    assert np.array_equal(mask.indices.numpy(), np.flatnonzero(mask.masked.numpy()))
    rows = mask.indices // 64
    np.testing.assert_allclose(mask.weights.numpy(), 1 / mask.masked.sum(1).numpy()[rows], rtol=1e-6)
    assert mask.weights.sum().item() == pytest.approx(8)  # eight masked rows


@pytest.mark.parametrize("kind", ["block", "random"])
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_the_number_of_masked_rows_is_exact(kind, probability):
    config = rule(kind=kind, probability=probability, ratio=(0.2, 0.5))
    for step in range(5):
        masked_rows = make(config, samples=7, step=step).masked.any(dim=1).sum().item()
        assert masked_rows == int(14 * probability)


@pytest.mark.parametrize("settings", [{"kind": "random"}, {"exact": True}])
def test_exact_counts_reach_the_target(settings):
    config = rule(ratio=(0.25, 0.25), probability=1.0, **settings)
    assert (make(config).masked.sum(dim=1) == 16).all()


def test_processes_make_the_same_masks_as_one():
    config, size, samples = rule(), (14, 14), 12
    whole = make(config, size, samples, step=3).masked.unflatten(0, (2, samples))
    everything = draws(samples, samples * 3)
    order = np.random.default_rng(0).permutation(samples)
    for part in np.array_split(order, 3):
        mask = config.build()(grid(*size), 2, everything.take(part), part, samples, 3)
        assert np.array_equal(mask.masked.unflatten(0, (2, len(part))).numpy(), whole[:, part].numpy())


def test_masks_repeat_and_change_with_seed_step_view_and_sample():
    one = make(rule(probability=1.0)).masked
    assert np.array_equal(one, make(rule(probability=1.0)).masked)
    assert not np.array_equal(one, make(rule(probability=1.0), seed=1).masked)
    assert not np.array_equal(one, make(rule(probability=1.0), step=1).masked)
    assert len({row.numpy().tobytes() for row in one}) == len(one)


def test_the_rule_of_ibot_leaves_about_half_the_rows_alone():
    config = rule(choices=((0.0, 0.0), (0.3, 0.2)), kind="random")
    counts = make(config, (14, 14), samples=1000).masked.sum(dim=1).numpy()
    masked = counts[counts > 0]
    assert abs(len(masked) / len(counts) - 0.5) < 0.05
    assert masked.min() >= int(196 * 0.1) and masked.max() <= 196 * 0.5
    assert abs(masked.mean() / 196 - 0.3) < 0.01


def test_tokens_may_come_in_any_order():
    places = grid(8, 8)
    order = np.random.default_rng(0).permutation(64)
    plain = make(rule(probability=1.0)).masked.numpy()
    mixed = rule(probability=1.0).build()(places[order], 2, draws(8), np.arange(8), 8, 0).masked.numpy()
    assert np.array_equal(mixed, plain[:, order])


def test_blocks_need_a_grid_and_settings_must_be_possible():
    with pytest.raises(UserError, match="use kind: random"):
        rule(probability=1.0).build()(np.zeros((9, 3), dtype=np.int64), 1, draws(2), np.arange(2), 2, 0)
    with pytest.raises(UserError, match=r"masking\.ratio is \[0.5, 0.1\]; it must be the smallest first"):
        rule(ratio=(0.5, 0.1))


def test_spans_hide_whole_columns_in_stretches_of_the_length_given():
    places, numbers = grid(3, 40), draws(50)
    maker = rule(kind="span", span=4, ratio=(0.5, 0.5), probability=1.0).build()
    masks = maker(places, 2, numbers, np.arange(50), 50, 0).masked.reshape(100, 3, 40).numpy()
    assert (masks == masks[:, :1]).all() and (masks[:, 0].sum(1) == 20).all()
    begins = masks[:, 0] & ~np.roll(masks[:, 0], 1, axis=1)  # time as a circle
    assert 2 < begins.sum(1).mean() <= 5 and begins.sum(1).max() == 5  # stretches may touch
    for shift in range(4):
        assert np.roll(masks[:, 0], -shift, axis=1)[begins].all()
    assert masks[:, 0].mean(0).min() > 0.3 and masks[:, 0].mean(0).max() < 0.7  # all places alike
    uneven = rule(kind="span", span=6, ratio=(0.25, 0.25), probability=1.0).build()
    assert (uneven(places, 1, numbers, np.arange(50), 50, 0).masked.sum(1) == 30).all()
    with pytest.raises(UserError, match=r"masking\.span is 0; it must be from 1"):
        rule("span", span=0)


def clip(times: int, height: int, width: int) -> np.ndarray:
    axes = np.meshgrid(np.arange(times), np.arange(height), np.arange(width), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("kind", ["block", "random"])
def test_tubes_hold_at_all_times(kind):
    least = {"min_patches": 1} if kind == "block" else {}
    config = rule(kind, tube=True, probability=1.0, ratio=(0.5, 0.5), **least)
    mask = config.build()(clip(4, 6, 8), 2, draws(5), np.arange(5), 5, 0)
    tubes = mask.masked.view(10, 4, 48)
    assert (tubes == tubes[:, :1]).all()
    flat = rule(kind, probability=1.0, ratio=(0.5, 0.5), **least).build()
    expected = flat(grid(6, 8), 2, draws(5), np.arange(5), 5, 0)
    assert (tubes[:, 0] == expected.masked).all()  # the mask of a frame, and one moment is one
    assert (config.build()(grid(6, 8), 2, draws(5), np.arange(5), 5, 0).masked == expected.masked).all()
    with pytest.raises(UserError, match=r"set masking\.tube to false"):
        config.build()(np.arange(9)[:, None], 2, draws(5), np.arange(5), 5, 0)


def test_further_views_have_masks_of_their_own():
    config = rule(also=("local", "frame"), probability=1.0, ratio=(0.5, 0.5), mode="drop")
    assert config.views == ("global", "local", "frame")
    parts = {view: maker for (view, _), maker in makers({"masking": config}).items()}
    masks = {name: part(grid(6, 6), 2, draws(4), np.arange(4), 4, 0) for name, part in parts.items()}
    assert all(mask.mode == "drop" and mask.hidden_per_row == 18 for mask in masks.values())
    assert not (masks["local"].masked == masks["frame"].masked).all()
    alone = rule(view="local", probability=1.0, ratio=(0.5, 0.5), mode="drop").build()
    assert (alone(grid(6, 6), 2, draws(4), np.arange(4), 4, 0).masked == masks["local"].masked).all()
    with pytest.raises(UserError, match="a view is named twice: global, local, global"):
        rule(also=("local", "global"))


def test_views_of_a_sample_may_share_a_mask():
    config = rule(probability=1.0, ratio=(0.65, 0.65), kind="span", span=5, shared=True)
    shared = config.build()(grid(1, 100), 2, draws(6), np.arange(6), 6, 0)
    assert torch.equal(shared.masked[:6], shared.masked[6:]) and shared.masked.shape == (12, 100)
    assert not torch.equal(shared.masked[0], shared.masked[1]) and bool((shared.masked.sum(1) == 65).all())
    half = make(rule(probability=0.5, shared=True), samples=8)
    assert int(half.masked.any(1).sum()) == 8  # of 16 rows: four samples in both views


@pytest.mark.parametrize("kind", ["random", "block"])
def test_masks_that_drop_have_one_count_in_every_row(kind):
    mask = make(rule(probability=1.0, ratio=(0.7, 0.7), kind=kind, mode="drop"))
    assert bool((mask.masked.sum(1) == int(64 * 0.7)).all()) and mask.hidden_per_row == int(64 * 0.7)
    assert mask.mode == "drop" and mask.to("cpu").mode == "drop"


def test_foreign_rows_are_of_the_same_view_and_of_another_sample():
    config = rule(probability=1.0, ratio=(0.6, 0.6), mode="input", foreign=0.5, foreign_ratio=0.3)
    masks = [make(config, step=step, samples=16) for step in range(4)]
    sources = torch.stack([mask.sources for mask in masks])
    rows = torch.arange(32).expand_as(sources)
    foreign = sources >= 0
    assert 0.3 < float(foreign.float().mean()) < 0.7
    assert not bool((sources == rows).any()) and bool((sources // 16 == rows // 16)[foreign].all())
    counts = torch.stack([mask.masked.sum(1) for mask in masks]).float()
    assert counts[foreign].max() <= 64 * 0.3 < counts[~foreign].mean() <= 64 * 0.6
    alone = config.build()(grid(8, 8), 2, draws(1), np.arange(1), 1, 0)
    assert bool((alone.sources == -1).all())  # nobody else is there


@pytest.mark.parametrize("rule", ["masks={two: {view: globall}}", "masks={two: {view: global, also: [globall]}}"])
def test_a_rule_for_a_view_that_is_not_there_is_refused_though_nobody_asks_for_it(tiny_recipe, tmp_path, rule):
    text = r"no view 'globall'; did you mean 'global'.*: global, local"
    with pytest.raises(RecipeError, match=text), RunFolder(tmp_path / "run") as folder:
        Trainer(tiny_recipe(rule), folder)
