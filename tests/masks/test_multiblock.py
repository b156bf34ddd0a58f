"""Blocks of V-JEPA 2: the published index sets and counts, and what holds for a batch that is split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.counter import Draws
from foundation.data.pipeline import masks_of
from foundation.errors import UserError
from foundation.masks.multiblock import Config, block_size, first, union
from foundation.masks.rule import makers

GRID = (4, 6, 6)


def draws(samples: np.ndarray, seed: int = 0) -> Draws:
    return Draws(seed, np.zeros(len(samples), np.int64), samples)


def clip(times: int, height: int, width: int) -> np.ndarray:
    axes = np.meshgrid(np.arange(times), np.arange(height), np.arange(width), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def make(config: Config, samples: int = 6, step: int = 0, count: int = 1, slots: np.ndarray | None = None, grid=GRID):
    slots = np.arange(samples) if slots is None else slots
    return config.build()(clip(*grid), count, draws(slots + 1000 * step), slots, samples, step)


def published(data: dict[str, np.ndarray], case: str, mask: int) -> Config:
    blocks = data[f"arg/{case}/num_blocks"].tolist()[mask]
    found = {key: data[f"arg/{case}/mask{mask}/{key}_scale"].tolist() for key in ("spatial", "temporal")}
    return Config(
        blocks=blocks,
        area=tuple(found["spatial"]),
        duration=tuple(found["temporal"]),
        aspect=tuple(data[f"arg/{case}/mask{mask}/aspect_ratio"].tolist()),
        seen_until=float(data.get(f"arg/{case}/mask{mask}/max_temporal_keep", 1.0)),
    )


@pytest.mark.parametrize(
    ("case", "masks"), [("masks_step", (0, 1)), ("masks_options", (0, 1, 2)), ("masks_statistics", (0, 1))]
)
def test_blocks_have_the_published_sizes(golden, case, masks):
    """Each call draws from a generator that starts from its number."""
    data = golden("20_vjepa2_masks_loss")
    grid = np.array(data[f"arg/{case}/grid"])
    for call, sizes in enumerate(data[f"output/{case}/block_size"]):
        uniforms = torch.rand(3, generator=torch.Generator().manual_seed(call)).double().numpy()
        for mask in masks:
            assert block_size(published(data, case, mask), grid, uniforms).tolist() == sizes[mask].tolist()


@pytest.mark.parametrize(("case", "masks"), [("masks_step", (0, 1)), ("masks_options", (0, 1, 2))])
def test_hidden_and_visible_tokens_are_the_published_ones(golden, case, masks):
    data = golden("20_vjepa2_masks_loss")
    grid = np.array(data[f"arg/{case}/grid"])
    for call, sizes in enumerate(data[f"output/{case}/block_size"]):
        for mask in masks:
            where = f"call{call}/mask{mask}"
            corners = data[f"input/{case}/{where}/block_corner"][:, : data[f"arg/{case}/num_blocks"][mask]]
            covered = union(grid, sizes[mask], corners, published(data, case, mask).seen_until)
            most = data.get(f"arg/{case}/mask{mask}/max_keep")
            seen = first(~covered, None if most is None else int(most))
            asked = ~seen if f"arg/{case}/mask{mask}/full_complement" in data else first(covered)
            for found, name in ((seen, "encoder"), (asked, "predictor")):
                wanted = data[f"output/{case}/{where}/{name}"]
                assert np.array_equal(np.nonzero(found)[1].reshape(len(found), -1), wanted)


def test_counts_are_the_published_ones_on_average(golden):
    """As many samples share the smallest count as there; at the published size of grid and blocks."""
    data = golden("20_vjepa2_masks_loss")
    grid, batch = tuple(data["arg/masks_statistics/grid"].tolist()), int(data["arg/masks_statistics/batch"])
    for mask in (0, 1):
        config = Config(**vars_of(published(data, "masks_statistics", mask)), mode="drop")
        masks = [make(config, batch, step, grid=grid) for step in range(40)]
        for name, found in (("encoder", "visible_indices"), ("predictor", "indices")):
            counts = np.array([len(getattr(mask, found)) / batch for mask in masks])
            wanted = data[f"output/masks_statistics/{name}_count"][:, mask]
            error = np.sqrt(counts.var() / len(counts) + wanted.var() / len(wanted))
            assert abs(counts.mean() - wanted.mean()) < 4 * error, (mask, name)


def vars_of(config: Config) -> dict[str, object]:
    return {name: getattr(config, name) for name in ("blocks", "area", "duration", "aspect", "seen_until")}


@pytest.mark.parametrize("settings", [{}, {"keep": 0.25}, {"ask": "hidden"}, {"keep": 0.2, "ask": "hidden"}])
def test_rows_are_alike_and_processes_make_the_masks_of_one(settings):
    config = Config(mode="drop", area=(0.2, 0.4), **settings, blocks=3)
    whole = make(config, 12, step=3, count=2)
    tokens = int(np.prod(GRID))
    visible = (~whole.masked).sum(1)
    assert int(visible.min()) == int(visible.max()) == len(whole.visible_indices) // 24 == tokens - whole.hidden_per_row
    assert settings.get("keep") is None or int(visible[0]) == round(settings["keep"] * tokens)
    asked = torch.zeros(24 * tokens, dtype=torch.bool)
    asked[whole.indices] = True
    asked = asked.view(24, tokens)
    assert not bool((asked & ~whole.masked).any()) and asked.sum(1).unique().numel() == 1
    assert bool((asked == whole.masked).all()) == (settings.get("ask") == "hidden")
    assert whole.weights.sum().item() == pytest.approx(24)
    for part in np.array_split(np.random.default_rng(0).permutation(12), 3):
        mask = make(config, 12, step=3, count=2, slots=part)
        assert torch.equal(mask.masked.unflatten(0, (2, 4)), whole.masked.unflatten(0, (2, 12))[:, part])
        asked_here = torch.zeros(8 * tokens, dtype=torch.bool)
        asked_here[mask.indices] = True
        assert torch.equal(asked_here.view(2, 4, -1), asked.view(2, 12, -1)[:, part])


def test_masks_change_with_step_rule_and_view_and_views_may_share_them():
    config = Config(also=("local",))
    made = {key: maker(clip(*GRID), 2, draws(np.arange(4)), np.arange(4), 4, 0).masked for key, maker in makers(
        {"masking": config, "large": Config(), "second": config}).items()}  # fmt: skip
    assert list(made) == [("global", "masking"), ("local", "masking"), ("global", "large"), *(
        (view, "second") for view in ("global", "local"))]  # fmt: skip
    different = {mask.numpy().tobytes() for mask in made.values()}
    assert len(different) == 5 and not torch.equal(make(config).masked, make(config, step=1).masked)
    shared = make(Config(shared=True), count=2).masked.unflatten(0, (2, 6))
    assert torch.equal(shared[0], shared[1]) and not torch.equal(shared[0, 0], shared[0, 1])


def test_pictures_have_one_moment_and_tokens_may_come_in_any_order():
    config = Config(blocks=4, area=(0.2, 0.2), aspect=(1.0, 1.0))
    places, order = clip(1, 10, 10)[:, 1:], np.random.default_rng(0).permutation(100)
    plain = config.build()(places, 1, draws(np.arange(5)), np.arange(5), 5, 0).masked
    mixed = config.build()(places[order], 1, draws(np.arange(5)), np.arange(5), 5, 0).masked
    assert torch.equal(mixed, plain[:, order])
    assert 20 < float(plain.sum(1).float().mean()) <= 4 * 16
    assert config.mean_share == pytest.approx(1 - 0.8**4)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"blocks of \[4, 6, 6\] tokens .* leave fewer than 1 of 144 tokens to see"):
        make(Config(area=(1.0, 1.0), aspect=(1.0, 1.0)))
    with pytest.raises(UserError, match="tokens on a grid of rows and columns"):
        Config().build()(np.zeros((4, 9, 3)), 1, draws(np.arange(4)), np.arange(4), 4, 0)
    with pytest.raises(UserError, match="keep needs mode: drop"):
        Config(keep=0.5)
    with pytest.raises(UserError, match="'multiblock' has mode 'token' or 'drop'"):
        Config(mode="input")


def test_disjoint_rules_leave_no_token_visible_twice_and_hide_all_together():
    from foundation.masks import random

    rules = {
        name: random.Config(probability=1.0, ratio=(0.75, 0.75), mode="drop", apart_from=others)
        for name, others in (("d", ("a", "b", "c")), ("c", ("a", "b")), ("a", ()), ("b", ("a",)))
    }
    numbers = draws(np.arange(5))
    masks = masks_of(makers(rules), lambda *_: clip(1, 8, 8), {"global": 2}, numbers, np.arange(5), 5, 0)
    visible = torch.stack([~masks["global", name].masked for name in rules])
    assert bool((visible.sum(0) == 1).all())  # four quarters
    assert all(mask.hidden_per_row == 48 for mask in masks.values())
    alone = masks_of(makers({"a": rules["a"]}), lambda *_: clip(1, 8, 8), {"global": 2}, numbers, np.arange(5), 5, 0)
    assert torch.equal(alone["global", "a"].masked, masks["global", "a"].masked)
    tubes = {name: random.Config(probability=1.0, ratio=(0.5, 0.5), tube=True, apart_from=others)
             for name, others in (("a", ()), ("b", ("a",)))}  # fmt: skip
    masks = masks_of(makers(tubes), lambda *_: clip(*GRID), {"global": 1}, numbers, np.arange(5), 5, 0)
    assert torch.equal(masks["global", "a"].masked, ~masks["global", "b"].masked)


def test_rules_that_stay_apart_need_each_other():
    from foundation.masks import random

    with pytest.raises(UserError, match=r"masks\.b\.apart_from: rule 'a' has no masks for the view 'local'"):
        makers({"a": random.Config(), "b": random.Config(view="local", apart_from=("a",))})
    with pytest.raises(UserError, match=r"in a circle \(apart_from\): a, b"):
        makers({"a": random.Config(apart_from=("b",)), "b": random.Config(apart_from=("a",))})
