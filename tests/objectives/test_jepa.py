"""JEPA: the published predictor and losses (golden file 20), and what the mask rules may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.branches.base import Offer
from foundation.encoders import vit
from foundation.encoders.positions import LearnedPositions, PositionConfig
from foundation.errors import UserError
from foundation.modalities.points.tokenizer import Config as PointTokenizer
from foundation.modalities.video.tokenizer import Config as VideoTokenizer
from foundation.objectives import jepa
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock, Schedule
from foundation.types import Batch, TokenMask, View, ViewShape
from foundation.zoo.convert.vjepa2 import POSITION, reordered
from tests.encoders.reference_names import our_name
from tests.encoders.test_parity import FORWARD, GRADIENT, close

VIEW = ViewShape(1, (3, 8, 96, 96), "video")
SMALL = {"width": 64, "depth": 2, "heads": 2, "position": POSITION, "masks": ("short", "long")}


def context(size=(8, 96, 96), encoder=None, masks=("short", "long")) -> ObjectiveContext:
    if encoder is None:
        tokenizer = VideoTokenizer(tubelet=2, patch_size=16)
        encoder = vit.Config(preset=None, width=24, depth=1, heads=2, size=size, tokenizer=tokenizer)
    offer = Offer(24, {}, encoder.build())
    views = {"global": replace(VIEW, shape=(3, *size))}
    rules = dict.fromkeys(masks, ("global",))
    return ObjectiveContext(Clock(10, 1.0), {"student": offer, "teacher": offer}, rules, views=views)


def their_name(name: str) -> str:
    """Our name of a parameter of the published predictor, inside the objective."""
    name = name.removeprefix("predictor_")
    if name in ("norm.weight", "norm.bias"):
        return f"predictor.{name}"
    renamed = {"embed": "embed", "proj": "project"}
    head, _, rest = name.partition(".")
    if head in renamed:
        return f"predictor.{renamed[head]}.{rest}"
    return our_name(name).replace("trunk.", "predictor.")


def published(arrays: dict[str, np.ndarray], token: int = 0, frames: int = 8, **options) -> jepa.Jepa:
    objective = jepa.Config(**(SMALL | options)).build(context((frames, 96, 96)))
    prefix = "param/predictor/"
    theirs = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
    weights = {their_name(name): value for name, value in theirs.items() if not name.startswith("mask_tokens")}
    rotary = objective.config.position.kind == "rotary"
    if rotary:
        weights = {name: reordered(value, 2) if ".qkv." in name else value for name, value in weights.items()}
    weights["predictor.mask_token"] = theirs[f"mask_tokens.{token}"][0]
    missing = objective.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and {*missing.missing_keys} <= {"predictor.positions.table"}
    return objective


def mask_of(seen: Tensor, asked: Tensor, count: int) -> TokenMask:
    """[R, V] visible and [R, M] asked places of rows of ``count`` tokens."""
    start = count * torch.arange(len(seen))[:, None]
    masked = torch.ones(len(seen), count, dtype=torch.bool).scatter(1, seen, False)
    weights = torch.full((asked.numel(),), 1 / max(1, asked.shape[1]))
    return TokenMask(masked, (start + asked).flatten(), weights, (start + seen).flatten(), mode="drop")


def batch_of(masks: dict[str, TokenMask], rows: int, frames: int = 8) -> Batch:
    clips = torch.zeros(rows, 3, frames, 96, 96)
    view = View(clips, "video", "global", 1, torch.arange(rows), torch.zeros(rows, 3, 4))
    by_rule = {("global", rule): mask for rule, mask in masks.items()}
    return Batch({"global": view}, by_rule, tuple(map(str, range(rows))), torch.zeros(rows), 0, rows)


def answers(objective: jepa.Jepa, tokens: Tensor, targets: Tensor, batch: Batch) -> dict:
    found = {}
    for request in objective.requests:
        rule = request.mask or request.rule
        mask = batch.masks["global", rule]
        places = mask.visible_indices if request.token == "visible" else mask.indices
        found[request] = (tokens if request.branch == "student" else targets).flatten(0, 1).index_select(0, places)
    return found


def case(arrays: dict[str, np.ndarray], where: str) -> tuple[dict[str, TokenMask], Tensor, Tensor]:
    tokens, targets = (torch.from_numpy(arrays[f"{where}/{kind}_tokens"]) for kind in ("context", "target"))
    masks = {}
    for j, rule in enumerate(("short", "long")):
        seen, asked = (torch.from_numpy(arrays[f"{where}/mask{j}/{kind}"]) for kind in ("encoder", "predictor"))
        masks[rule] = mask_of(seen, asked, tokens.shape[1])
    return masks, tokens.requires_grad_(), targets


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("20_vjepa2_masks_loss")


@pytest.mark.parametrize("power", [1, 2])
def test_published_losses_and_gradients(arrays, power):
    objective = published(arrays, power=float(power))
    masks, tokens, targets = case(arrays, "input/step/group0")
    batch = batch_of(masks, len(tokens))
    result = objective(answers(objective, tokens, targets, batch), batch, 0)
    close(result.loss, arrays[f"output/step_l{power}/loss"], FORWARD)
    for j, rule in enumerate(("short", "long")):
        close(result.metrics[f"loss_{rule}"], arrays[f"output/step_l{power}/group0/mask{j}/loss"], FORWARD)
    result.loss.backward()
    close(tokens.grad, arrays[f"grad/step_l{power}/group0/context_tokens"], GRADIENT)
    ours = dict(objective.named_parameters())
    prefix = "grad/step_l1/param/"
    theirs = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix) and power == 1}
    for name, wanted in theirs.items():
        wanted = torch.from_numpy(wanted)
        if name == "mask_tokens.0":
            close(ours["predictor.mask_token"].grad, wanted[0].numpy(), GRADIENT)
            continue
        close(ours[their_name(name)].grad, (reordered(wanted, 2) if ".qkv." in name else wanted).numpy(), GRADIENT)
    assert power == 2 or len(theirs) == 11


@pytest.mark.parametrize("group", [0, 1])
def test_published_losses_of_clips_of_two_lengths(arrays, group):
    """There one predictor has a mask token for each length; here each length is an objective."""
    frames = int(arrays["arg/two_groups/dataset_frames"][group])
    objective = published(arrays, token=group, frames=frames)
    masks, tokens, targets = case(arrays, f"input/two_groups/group{group}")
    batch = batch_of(masks, len(tokens), frames)
    result = objective(answers(objective, tokens, targets, batch), batch, 0)
    for j, rule in enumerate(("short", "long")):
        close(result.metrics[f"loss_{rule}"], arrays[f"output/two_groups/group{group}/mask{j}/loss"], FORWARD)


def test_published_predictions_with_each_mask_token(arrays):
    _, tokens, _ = case(arrays, "input/step/group0")
    seen, asked = (torch.from_numpy(arrays[f"input/step/group0/mask1/{kind}"]) for kind in ("encoder", "predictor"))
    visible = tokens.gather(1, seen[..., None].expand(-1, -1, 24))
    for token in (0, 1, 3):
        ((found,), _) = published(arrays, token=token).predictor([visible], [seen], [asked])
        close(found, arrays[f"output/mask_index{token}/prediction"], FORWARD)


def test_published_predictions_with_added_positions(arrays):
    objective = published(arrays, position=PositionConfig(kind="learned"))
    assert isinstance(objective.predictor.positions, LearnedPositions)
    with torch.no_grad():
        objective.predictor.positions.table[:, 1:] = torch.from_numpy(
            arrays["param/predictor_sincos/predictor_pos_embed"]
        )
    _, tokens, _ = case(arrays, "input/step/group0")
    seen, asked = (torch.from_numpy(arrays[f"input/step/group0/mask0/{kind}"]) for kind in ("encoder", "predictor"))
    ((found,), _) = objective.predictor([tokens.gather(1, seen[..., None].expand(-1, -1, 24))], [seen], [asked])
    close(found, arrays["output/sincos/prediction"], FORWARD)


def test_visible_tokens_count_by_their_distance_from_the_next_hidden_one(arrays):
    """V-JEPA 2.1's loss of the context, token by token."""
    masks, tokens, targets = case(arrays, "input/step/group0")
    batch = batch_of(masks, len(tokens))
    plain = published(arrays)
    objective = published(arrays, visible_weight=Schedule(start=0.5, shape="constant"))
    result = objective(answers(objective, tokens, targets, batch), batch, 3)
    assert result.metrics.keys() == {"loss_short", "loss_long", "loss_visible"}
    total = plain(answers(plain, tokens, targets, batch), batch, 3).loss
    by_rule = []
    for mask in masks.values():
        seen, asked = ((~mask.masked).nonzero()[:, 1].view(3, -1), mask.indices.view(3, -1) % 144)
        visible = tokens.gather(1, seen[..., None].expand(-1, -1, 24))
        _, (found,) = objective.predictor([visible], [seen], [asked])
        losses = []
        for row in range(3):
            places = {int(i): np.array(np.unravel_index(int(i), (4, 6, 6)), float) for i in range(144)}
            for number, place in enumerate(seen[row].tolist()):
                goal = torch.nn.functional.layer_norm(targets[row, place], (24,))
                nearest = min(np.linalg.norm(places[place] - places[other]) for other in asked[row].tolist())
                losses.append((found[row, number] - goal).abs().mean() / nearest**0.5)
        by_rule.append(torch.stack(losses).mean())
    wanted = torch.stack(by_rule).mean()
    torch.testing.assert_close(result.metrics["loss_visible"], wanted.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.loss, total + 0.5 * wanted, rtol=1e-5, atol=1e-6)


def test_rules_are_predicted_in_one_pass_as_they_are_apart(arrays):
    objective = published(arrays)
    masks, tokens, targets = case(arrays, "input/step/group0")
    batch = batch_of(masks, len(tokens))
    both = objective(answers(objective, tokens, targets, batch), batch, 0)
    calls = []
    for rule in masks:
        alone = jepa.Config(**(SMALL | {"masks": (rule,)})).build(context())
        alone.predictor = objective.predictor
        hook = objective.predictor.blocks[0].register_forward_hook(lambda *_: calls.append(1))
        single = alone(answers(alone, tokens, targets, batch), batch, 0)
        hook.remove()
        assert not single.metrics
        torch.testing.assert_close(single.loss.detach(), both.metrics[f"loss_{rule}"])
    assert len(calls) == 2


def test_without_any_hidden_token_the_loss_is_zero_and_touches_the_predictor(arrays):
    objective = published(arrays)
    masks, tokens, targets = case(arrays, "input/step/group0")
    seen = torch.arange(144).expand(3, -1)
    masks = {rule: replace(mask_of(seen, seen[:, :0], 144), mean_tokens=60.0) for rule in masks}
    batch = batch_of(masks, 3)
    result = objective(answers(objective, tokens, targets, batch), batch, 0)
    result.loss.backward()
    assert float(result.loss.detach()) == 0 and objective.predictor.embed.weight.grad is not None


def test_impossible_settings_are_refused():
    with pytest.raises(
        UserError, match=r"no mask rule called 'shrt'; did you mean 'short'\?; the recipe's are: short, long"
    ):
        jepa.Config(masks=("shrt",)).build(context())
    with pytest.raises(UserError, match="does not hide any of view 'local'"):
        jepa.Config(view="local", masks=("short",)).build(context())
    with pytest.raises(UserError, match="width 64 is not a multiple of heads 3"):
        jepa.Config(width=64, heads=3)
    with pytest.raises(UserError, match="width / heads >= 6"):
        jepa.Config(width=64, heads=16, masks=("short",)).build(context())
    with pytest.raises(UserError, match="must be 'rotary' or 'learned', got 'none'"):
        jepa.Config(position=PositionConfig(kind="none"))
    with pytest.raises(UserError, match="named twice"):
        jepa.Config(masks=("short", "short"))
    points = vit.Config(
        preset=None, width=24, depth=1, heads=2, size=(64,), position=PositionConfig(kind="mlp"),
        tokenizer=PointTokenizer(),
    )  # fmt: skip
    with pytest.raises(UserError, match="needs tokens on a grid"):
        jepa.Config(masks=("short",)).build(context((64,), points))


def test_a_mask_that_leaves_hidden_tokens_in_is_refused(arrays):
    objective = published(arrays)
    masks, tokens, targets = case(arrays, "input/step/group0")
    batch = batch_of({**masks, "long": replace(masks["long"], mode="token")}, 3)
    with pytest.raises(UserError, match="mask rule 'long' has mode 'token': it must be 'drop'"):
        objective(answers(objective, tokens, targets, batch), batch, 0)
