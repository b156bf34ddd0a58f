"""Masked reconstruction: the targets, the loss, and the three ways of hiding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundation import counter
from foundation.branches.base import EncoderBranch
from foundation.encoders import vit
from foundation.encoders.protocol import EncoderModule
from foundation.errors import UserError
from foundation.heads import decoder
from foundation.masks import block
from foundation.modalities import grids
from foundation.modalities.image.tokenizer import Config as ImageTokenizer
from foundation.objectives import reconstruction
from foundation.plugins import resolve
from foundation.schedules import Clock
from foundation.types import Batch, View
from foundation.zoo.load import load_encoder
from tests.encoders.inputs import inputs
from tests.objectives.contexts import context

CLOCK = Clock(10, 1.0)


def encoder(**options):
    torch.manual_seed(0)
    config = vit.Config(
        preset=None, width=16, depth=2, heads=2, size=(8, 8), tokenizer=ImageTokenizer(patch_size=2), **options
    )
    return config.build()


def batch_of(data, mask=None, count=1):
    rows = len(data)
    view = View(data, "image", "global", count, torch.arange(rows), torch.zeros(rows, 2, 3))
    masks = {} if mask is None else {("global", "masking"): mask}
    return Batch({"global": view}, masks, tuple("ab"[:rows]), torch.zeros(rows), 0, rows // count)


def draw(samples=4, count=1, kind="block", **options):
    least = {"min_patches": 1} if kind == "block" else {}
    rule = resolve("foundation.masks.{name}", kind).Config
    config = rule(probability=1.0, ratio=options.pop("ratio", (0.5, 0.5)), **least, **options)
    coordinates = ImageTokenizer(patch_size=2).coordinates((8, 8))
    draws = counter.Draws(0, np.zeros(samples, np.int64), np.arange(samples))
    return config.build()(coordinates, count, draws, np.arange(samples), samples, 0)


@pytest.mark.parametrize(("size", "cell"), [((7,), (3,)), ((4, 6), (2, 3)), ((4, 5, 6), (2, 2, 3))])
def test_cells_hold_each_number_once_and_spread_finds_them(size, cell):
    view = torch.arange(2 * 3 * math.prod(size), dtype=torch.float32).view(2, 3, *size)
    cells = grids.cut(view, cell)
    tokens = math.prod(side // extent for side, extent in zip(size, cell, strict=True))
    assert cells.shape == (2, tokens, 3, *cell)
    for token in range(tokens):
        hidden = torch.zeros(2, tokens, dtype=torch.bool)
        hidden[1, token] = True
        where = grids.spread(hidden, size, cell).expand_as(view)
        assert not where[0].any()
        assert torch.equal(view[where].sort().values, cells[1, token].flatten().sort().values)


def test_drop_mode_never_sees_what_is_hidden():
    model, mask = encoder(), draw(mode="drop", kind="block")
    assert mask.hidden_per_row == 8 and bool((mask.masked.sum(1) == 8).all())
    data = torch.randn(4, 3, 8, 8)
    where = model.tokenizer.spread(mask.masked, data)
    other = torch.where(where, torch.randn_like(data), data)
    first, second = (model(inputs([x], [mask.masked], drop=[8]))[0] for x in (data, other))
    torch.testing.assert_close(first.patches, second.patches)
    torch.testing.assert_close(first.cls, second.cls)
    # Visible places are the trunk's outputs of the visible tokens alone, hidden ones the mask token and its position.
    tokens = model.embed(data)[0]
    for row in range(4):
        keep = torch.cat((torch.tensor([0]), (~mask.masked[row]).nonzero().flatten() + 1))
        kept = [tokens[row : row + 1, keep]]
        alone = model.trunk(kept, model.segments(kept, [(4, 4)], [None], [None], None))
        torch.testing.assert_close(first.patches[row, ~mask.masked[row]], alone[1][0][0])
    place = model.positions((4, 4))[1][0]
    expected = (model.mask_token + place)[mask.masked[0]]
    torch.testing.assert_close(first.patches[0, mask.masked[0]], expected)


def test_input_mode_overwrites_the_hidden_part_and_nothing_else():
    model, mask = encoder(), draw(mode="input", foreign=0.5, foreign_ratio=0.25)
    data = torch.randn(4, 3, 8, 8) + 5
    seen = {}
    hook = model.tokenizer.register_forward_pre_hook(lambda module, inputs: seen.update(view=inputs[0]))
    objective = reconstruction.Config().build(context(CLOCK, {}, 16, model))
    outputs = EncoderBranch(model, {}, {})(batch_of(data, mask), objective.requests)
    hook.remove()
    where = grids.spread(mask.masked, (8, 8), (2, 2)).expand_as(data)
    torch.testing.assert_close(seen["view"][~where], data[~where])
    foreign = 0
    for row, source in enumerate(mask.sources.tolist()):
        expected = torch.zeros_like(data[row]) if source < 0 else data[source]
        torch.testing.assert_close(seen["view"][row][where[row]], expected[where[row]])
        assert source != row
        assert int(mask.masked[row].sum()) == pytest.approx(4 if source >= 0 else 8, abs=2)
        foreign += source >= 0
    assert 0 < foreign < 4
    torch.testing.assert_close(outputs[objective.cells_request], grids.cut(data, (2, 2)))  # of the view as it was


def test_loss_is_that_of_the_hidden_tokens():
    mask = draw()
    objective = reconstruction.Config(distance="l1").build(context(CLOCK, {}, 16, encoder()))
    tokens, cells = torch.randn(int(mask.masked.sum()), 16), torch.randn(4, 16, 3, 2, 2)
    batch = batch_of(torch.randn(4, 3, 8, 8), mask)
    outputs = {objective.student_request: tokens, objective.cells_request: cells}
    expected = (objective.predict(tokens) - cells[mask.masked].flatten(1)).abs().mean()
    torch.testing.assert_close(objective(outputs, batch, 0).loss, expected)
    torch.nn.init.zeros_(objective.predict[-1].weight)
    objective.predict[-1].bias.data.fill_(cells[mask.masked].mean())
    assert float(objective(outputs, batch, 0).metrics["explained"]) == pytest.approx(0.0, abs=1e-5)


def test_normalised_targets_ignore_brightness_and_contrast():
    mask = draw()
    objective = reconstruction.Config(normalise=True).build(context(CLOCK, {}, 16, encoder()))
    tokens, cells = torch.randn(int(mask.masked.sum()), 16), torch.randn(4, 16, 3, 2, 2)
    batch = batch_of(torch.randn(4, 3, 8, 8), mask)
    losses = [
        objective({objective.student_request: tokens, objective.cells_request: c}, batch, 0).loss.item()
        for c in (cells, 3 * cells + 7)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_chamfer_does_not_care_about_the_order_of_points():
    first, second = torch.randn(3, 5, 3), torch.randn(3, 7, 3)
    square = torch.cdist(first, second).square()
    expected = square.min(2).values.mean() + square.min(1).values.mean()
    torch.testing.assert_close(reconstruction.chamfer(first, second), expected)
    turned = reconstruction.chamfer(first.flip(1), second[:, torch.randperm(7)])
    torch.testing.assert_close(turned, expected)
    assert reconstruction.chamfer(first, first.flip(1)).item() == 0


@pytest.mark.parametrize("mode", ["token", "drop", "input"])
def test_learns_to_fill_in(mode):
    model = encoder()
    heads = {"decoder": decoder.Config(depth=1, width=16, heads=2)}
    config = reconstruction.Config(head="decoder", layers=2, hidden=32)
    objective = config.build(context(CLOCK, heads, 16, model))
    # Stripes: what is hidden follows from the rest of its row.
    data = torch.randn(8, 1, 8, 1).expand(8, 3, 8, 8) + torch.zeros(8, 3, 8, 8)
    batch = batch_of(data, draw(8, mode=mode, kind="random"))
    branch = EncoderBranch(model, {"decoder": heads["decoder"].build(16)}, heads)
    optimizer = torch.optim.AdamW([*branch.parameters(), *objective.parameters()], lr=1e-2)
    explained = []
    for step in range(80):
        result = objective(branch(batch, objective.requests), batch, step)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        explained.append(float(result.metrics["explained"]))
    assert explained[0] < 0.1 and explained[-1] > 0.4, explained
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in [*objective.parameters(), *branch.heads.parameters()]
    )


def test_a_run_without_any_teacher(tiny_recipe, train, metrics, tmp_path):
    recipe = tiny_recipe(
        "objectives=[{name: reconstruction, head: decoder}]",
        "heads={decoder: {name: decoder, depth: 1, width: 16, heads: 2}}",
        "branches={}",
        "views.local_views.count=0",
        "masking={probability: 1.0, ratio: [0.75, 0.75], kind: random, mode: drop}",
        "train.length=3 steps",
    )
    trainer = train(recipe, tmp_path / "run")
    explained = [line["reconstruction/explained"] for line in metrics(tmp_path / "run") if "step" in line]
    assert trainer.progress.step == 3 and all(value < 1 for value in explained)
    assert (tmp_path / "run" / "export" / "student.safetensors").exists()
    loaded = load_encoder(tmp_path / "run")  # of a run without a teacher the student is what there is
    assert "student" in loaded.description and not loaded.encoder.training
    with pytest.raises(UserError, match=r"there are: student$"):
        load_encoder(tmp_path / "run", branch="second")


def test_mistakes_are_named():
    with pytest.raises(UserError, match="as many hidden tokens in every row"):
        block.Config(mode="drop", probability=0.5)
    with pytest.raises(UserError, match="need mode: input"):
        block.Config(foreign=0.5)
    with pytest.raises(UserError, match="width 10 is not a multiple of its heads 4"):
        decoder.Config(width=10, heads=4)
    with pytest.raises(UserError, match=r"tokens of \[points, 3\]"):
        reconstruction.Config(distance="chamfer").build(context(CLOCK, {}, 16, encoder()))
    with pytest.raises(UserError, match="what a token covers"):
        reconstruction.Config().build(context(CLOCK, {}, 16, EncoderModule()))
