"""Each kind of branch: what it offers, what it gives, and that it costs what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from foundation.branches import cached, ensemble, previous, random, trained
from foundation.branches import exit as early
from foundation.branches.base import BranchContext
from foundation.branches.request import Request
from foundation.data.extras import array
from foundation.encoders import vit
from foundation.errors import UserError
from foundation.heads import decoder, prototypes
from foundation.masks.rule import token_mask
from foundation.modalities.image import tokenizer
from foundation.run.build import in_order
from foundation.schedules import Clock
from foundation.types import Batch, View

HEADS = {"cls": prototypes.Config(prototypes=12, hidden=16, bottleneck=8)}
GLOBAL = Request("student", "global", "cls")


@pytest.fixture
def context() -> BranchContext:
    shape = tokenizer.Config(patch_size=4)
    encoder = vit.Config(preset=None, width=16, depth=3, heads=2, size=(16, 16), tokenizer=shape)
    empty = BranchContext("student", Clock(10, 3.0), 0, encoder, HEADS, {})
    return replace(
        empty,
        branches={"student": trained.Config().build(empty).eval()},
        extras={"said": array.Config(member="said.npy", shape=(5,))},
    )


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    view = View(torch.randn(4, 3, 16, 16), "image", "global", 2, torch.arange(2).repeat(2), torch.zeros(4, 2, 3))
    hidden = torch.zeros(2, 4, 16, dtype=torch.bool)
    hidden[0, :, 2:7], hidden[1, :, 9:11] = True, True
    masks = {("global", name): token_mask(rows.numpy()) for name, rows in zip("ab", hidden, strict=True)}
    return Batch({"global": view}, masks, ("x", "y"), torch.zeros(2), 0, 2, extras={"said": torch.randn(2, 5)})


@pytest.fixture
def passes(context: BranchContext) -> list[int]:
    """Views of each pass of the student's encoder."""
    seen: list[int] = []
    context.branches["student"].encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_second_trained_branch_starts_elsewhere_and_leaves_the_generator_alone(context):
    before = torch.get_rng_state()
    other = trained.Config().build(replace(context, name="other"))
    assert torch.equal(torch.get_rng_state(), before)
    assert other.trains and not same(other, context.branches["student"])
    assert same(other, trained.Config().build(replace(context, name="other")))


def test_a_random_branch_is_as_far_away_as_it_says(context):
    student = context.branches["student"]
    near, middle, far = (random.Config(distance=d).build(replace(context, name="r")) for d in (0.0, 0.5, 1.0))
    assert same(near, student) and not same(far, student)
    for a, b, c in zip(near.parameters(), middle.parameters(), far.parameters(), strict=True):
        torch.testing.assert_close(b, (a + c) / 2)
    assert not any(p.requires_grad for p in far.parameters()) and not far.train().training


@pytest.mark.parametrize(("at", "copied_after"), [("epoch", [2, 5]), ("start", [])])
def test_a_previous_branch_is_copied_at_the_end_of_epochs_only(context, at, copied_after):
    student = context.branches["student"]
    copy = previous.Config(at=at).build(replace(context, name="before"))
    assert same(copy, student)
    for step in range(7):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        copy.update({"student": student}, step)
        assert same(copy, student) == (step in copied_after)
    with pytest.raises(UserError, match="no stage before this one"):
        previous.Config().build(replace(context, name="before"))


def test_an_exit_is_tap_norm_and_head_without_a_second_pass(context, batch, passes):
    student = context.branches["student"].train()
    leaving = early.Config(block=2).build(replace(context, name="early"))
    asked = [replace(GLOBAL, branch="early"), replace(GLOBAL, branch="early", head="cls")]
    outputs = student(batch, [GLOBAL, *leaving.needs(asked)], {})
    answers = leaving(batch, asked, outputs)
    assert passes == [1]
    tapped = leaving.norm(outputs[replace(GLOBAL, tap="block.1")])
    torch.testing.assert_close(answers[asked[0]], tapped)
    torch.testing.assert_close(answers[asked[1]], leaving.heads["cls"](tapped))
    answers[asked[1]].square().sum().backward()
    reached = [block.attention.qkv.weight.grad is not None for block in student.encoder.trunk.blocks]
    assert reached == [True, True, False]


def test_an_ensemble_averages_probabilities_behind_a_head_and_features_elsewhere(context):
    made = {name: random.Config().build(replace(context, name=name)) for name in "pq"}
    together = ensemble.Config(of=("p", "q")).build(replace(context, name="both", branches=made))
    head, plain = replace(GLOBAL, branch="both", head="cls"), replace(GLOBAL, branch="both")
    needed = together.needs([head, plain])
    outputs = {request: torch.randn(4, 12 if request.head else 16) for request in needed}
    said = together(None, [head, plain], outputs)
    mean = sum(outputs[replace(head, branch=name)].softmax(-1) for name in "pq") / 2
    torch.testing.assert_close(said[head].exp(), mean)
    torch.testing.assert_close(said[plain], sum(outputs[replace(plain, branch=name)] for name in "pq") / 2)
    with pytest.raises(UserError, match="'student' is trained"):
        ensemble.Config(of=("student", "p")).build(replace(context, name="both", branches={**context.branches, **made}))


def test_a_cached_branch_gives_each_view_its_samples_feature(context, batch):
    branch = cached.Config(extra="said", width=5).build(replace(context, name="kept"))
    request = replace(GLOBAL, branch="kept")
    expected = batch.extras["said"][batch.views["global"].sample_ids]
    assert torch.equal(branch(batch, [request], {})[request], expected)
    assert "class tokens only" in branch.refusal(replace(request, token="patches"))
    with pytest.raises(UserError, match="width is 6, and data.extras.said.shape is"):
        cached.Config(extra="said", width=6).build(replace(context, name="kept"))(batch, [request], {})


def test_two_masks_of_one_view_are_one_pass(context, batch, passes):
    student = context.branches["student"]
    asked = [Request("student", "global", token, mask=m) for m in "ab" for token in ("visible", "masked")]
    together = student(batch, [*asked, GLOBAL])
    assert passes == [3]
    for request in asked:
        torch.testing.assert_close(together[request], student(batch, [request])[request], atol=1e-5, rtol=1e-4)
        mask = batch.masks["global", request.mask]
        assert len(together[request]) == int((~mask.masked if request.token == "visible" else mask.masked).sum())


def test_taps_of_the_encoder_and_of_a_decoder(context, batch, passes):
    heads = {"decoder": decoder.Config(depth=2, width=8, heads=2)}
    branch = trained.make(context.encoder, heads).eval()
    names = ("decoder.block.0", "decoder.block.1")
    last = Request("student", "global", "patches", "decoder")
    tapped = [replace(last, tap=name) for name in names]
    block = Request("student", "global", "patches", tap="block.2")
    answers = branch(batch, [last, *tapped, block])
    assert {*names, "block.0", "block.2"} <= {*branch.offer.taps}
    torch.testing.assert_close(branch.heads["decoder"].norm(answers[tapped[1]]), answers[last])
    assert not torch.allclose(answers[tapped[0]], answers[tapped[1]])
    assert answers[block].shape == (4, 16, 16)


def test_circles_are_named_and_the_rest_is_ordered():
    problems: list[tuple[str, str]] = []
    sources: dict[str, Any] = {
        "late": ["student"],
        "a": ["b"],
        "b": ["a"],
        "on": ["a"],
        "student": [],
        "self": ["self"],
    }
    assert in_order(sources, problems) == ["student", "late"]
    assert [key for key, _ in problems] == ["branches.a", "branches.self"]
    assert problems[0][1].endswith("circle: a -> b -> a") and problems[1][1].endswith("self -> self")
