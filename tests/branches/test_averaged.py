"""The mean over shifted and mirrored copies is PH-Reg's, however the batch is cut; what belongs to a place goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundation.branches import averaged, random, trained
from foundation.branches.base import BranchContext, EncoderBranch
from foundation.branches.request import Request
from foundation.branches.shifted import Copy, limits, shifts, spread_out
from foundation.encoders import vit
from foundation.encoders.protocol import EncoderModule, inputs_of
from foundation.errors import UserError
from foundation.masks.rule import token_mask
from foundation.modalities.image import tokenizer
from foundation.modalities.video import tokenizer as tubelets
from foundation.objectives import feature_distillation
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock
from foundation.types import Batch, Features, View, ViewShape

WHITE = (2.2489083, 2.42857143, 2.64)
PATCHES = Request("mean", "global", "patches")
CASES = ("small", "default10")
OFFSETS = ("offsets_default", "offsets_few", "offsets_half_down", "offsets_half_up")


@pytest.fixture
def reference(golden):
    return golden("19_phreg_tta")


class Projection(EncoderModule):
    """The network of the golden file: patches projected, and something for each place."""

    modality, prefix = "image", 0

    def __init__(self, weight, bias, position) -> None:
        super().__init__()
        self.width, side = len(bias), weight.shape[-1]
        self.config = vit.Config(size=(4 * side, 4 * side), tokenizer=tokenizer.Config(patch_size=side))
        self.weight, self.bias, self.position = (nn.Parameter(torch.from_numpy(v)) for v in (weight, bias, position))

    def forward(self, inputs, taps=(), *, generator=None) -> list[Features]:
        views = [one.view for one in inputs_of(inputs)]
        tokens = [
            F.conv2d(v, self.weight, self.bias, self.weight.shape[-1]).flatten(2).mT + self.position for v in views
        ]
        return [Features(cls=t.mean(1), registers=t[:, :0], patches=t) for t in tokens]


def batch_of(data: torch.Tensor, count: int = 1, position: int = 0) -> Batch:
    rows = len(data)
    view = View(data, "image", "global", count, torch.arange(rows), torch.zeros(rows, 2, 3))
    return Batch({"global": view}, {}, ("x",) * (rows // count), torch.zeros(rows // count), position, rows // count)


def context_of(branch, *, shape=(3, 16, 16), count=1, modality="image", name="mean") -> BranchContext:
    shapes = {"global": ViewShape(count, tuple(shape), modality)}
    return BranchContext(name, Clock(10, 3.0), 0, None, {}, {"teacher": branch}, views=shapes)


def teacher(**settings) -> random.StillBranch:
    encoder = vit.Config(
        width=16, depth=2, heads=2, size=(16, 16), tokenizer=tokenizer.Config(patch_size=4), **settings
    )
    empty = BranchContext("student", Clock(10, 3.0), 0, encoder, {}, {})
    student = trained.Config().build(empty)
    return random.Config().build(replace(empty, name="teacher", branches={"student": student}))


@pytest.mark.parametrize("case", CASES)
def test_the_copies_and_their_mean_are_those_of_the_reference(reference, case):
    r = {key.split(f"{case}/")[1]: value for key, value in reference.items() if f"/{case}/" in key}
    encoder = Projection(r["patch.weight"], r["patch.bias"], r["position"])
    images = torch.from_numpy(r["images"])
    branch = EncoderBranch(encoder, {}, {}).eval()
    config = averaged.Config(of="teacher", fill=WHITE, copies=r["offsets"].shape[1], at_once=4)
    mean = config.build(context_of(branch, shape=images.shape[1:]))
    offsets, flips = torch.from_numpy(r["offsets"]), torch.from_numpy(r["flips"]).bool()
    copies = [Copy(offsets[:, i, 0], offsets[:, i, 1], flips[:, i]) for i in range(offsets.shape[1])]
    cell, fill = (r["patch.weight"].shape[-1],) * 2, torch.tensor(WHITE).view(3, 1, 1)
    for number, copy in enumerate(copies):
        shown = copy.shown(images, cell, fill)
        torch.testing.assert_close(shown, torch.from_numpy(r["shifted_images"][:, number]), rtol=0, atol=1e-6)
        side = int(images.shape[-1] / cell[0])
        covered = copy.put_back(torch.ones(2, 1, side, side))[1][:, 0]
        assert np.array_equal(covered.numpy(), r["coverage_per_view"][:, number])
    with torch.no_grad():
        found = mean._of_view(batch_of(images), "global", [PATCHES], copies)[PATCHES]
    torch.testing.assert_close(found, torch.from_numpy(r["teacher_features"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", OFFSETS)
def test_shifts_are_picked_as_by_the_reference(reference, case):
    r = {key.split(f"{case}/")[1]: value for key, value in reference.items() if f"/{case}/" in key}
    grid, share, most = int(r["grid"]), float(r["shift_frac"]), int(r["max_shift"])
    assert limits((grid, grid), (share, share)) == (most, most)
    candidates, index = r["candidate_offsets"], r["farthest_index"]
    assert np.array_equal(spread_out(candidates, index[:, 0], index.shape[1]), index)
    uniform = (candidates + most + 0.5) / (2 * most + 1)
    first = (index[:, 0] + 0.5) / candidates.shape[1]
    assert np.array_equal(shifts(uniform, first, (most, most)), r["offsets"])


@pytest.mark.parametrize("case", CASES)
def test_its_losses_are_two_feature_distillations(reference, case):
    r = {key.split(f"{case}/", 1)[1]: value for key, value in reference.items() if f"/{case}/" in key}
    student = torch.from_numpy(r["student_features"]).requires_grad_()
    target = torch.from_numpy(r["teacher_features"])
    offer = EncoderBranch(Projection(r["patch.weight"], r["patch.bias"], r["position"]), {}, {}).offer
    context = ObjectiveContext(clock=Clock(1, 1.0), offers={"student": offer, "teacher": offer})
    for distance, name in (("cosine", "loss_cosine"), ("l2", "loss_mse")):
        config = feature_distillation.Config(token="patches", mask=None, normalise="none", layers=0, distance=distance)
        objective = config.build(context)
        outputs = {objective.student_request: student, objective.teacher_request: target}
        loss = objective(outputs, batch_of(torch.zeros(2, 3, 4, 4)), 0).loss
        (gradient,) = torch.autograd.grad(loss, student)
        wanted = next(value for key, value in reference.items() if key == f"grad/{case}/{name}/student_features")
        torch.testing.assert_close(loss, torch.tensor(float(r[name])), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, torch.from_numpy(wanted), rtol=1e-4, atol=1e-7)


def test_copies_are_those_of_the_samples_place_in_the_stream_alone():
    branch = teacher(registers=2)
    mean = averaged.Config(of="teacher", copies=4, shift=(0.5,)).build(context_of(branch, count=2))
    data = torch.randn(8, 3, 16, 16)  # two views of four samples
    asked = [PATCHES, replace(PATCHES, token="cls"), replace(PATCHES, token="registers")]
    whole = mean(batch_of(data, 2, position=20), asked, {})
    parts = ((20, [0, 1, 4, 5]), (22, [2, 3, 6, 7]))
    halves = [mean(batch_of(data[rows], 2, position=place), asked, {}) for place, rows in parts]
    for request in asked:
        one, other = (half[request].unflatten(0, (2, 2)) for half in halves)
        torch.testing.assert_close(whole[request], torch.cat((one, other), 1).flatten(0, 1), rtol=1e-4, atol=1e-5)
    later = mean(batch_of(data, 2, position=24), [PATCHES], {})
    assert not torch.allclose(later[PATCHES], whole[PATCHES], atol=1e-3)
    renamed = averaged.Config(of="teacher", copies=4, shift=(0.5,)).build(context_of(branch, count=2, name="other"))
    assert not torch.allclose(renamed(batch_of(data, 2, position=20), asked, {})[PATCHES], whole[PATCHES], atol=1e-3)
    assert not list(mean.state_dict()) and not list(mean.parameters())


def test_masked_tokens_are_those_of_the_mean_and_many_copies_at_once_change_nothing():
    context = context_of(teacher())
    one, five = (averaged.Config(of="teacher", copies=5, at_once=n).build(context) for n in (1, 5))
    hidden = np.zeros((3, 16), dtype=bool)
    hidden[:, 4:7] = True
    batch = replace(batch_of(torch.randn(3, 3, 16, 16)), masks={("global", "masking"): token_mask(hidden)})
    masked = replace(PATCHES, token="masked", rule="masking")
    answers = one(batch, [PATCHES, masked], {})
    assert torch.equal(answers[masked], answers[PATCHES][:, 4:7].flatten(0, 1))
    torch.testing.assert_close(five(batch, [PATCHES], {})[PATCHES], answers[PATCHES], rtol=1e-4, atol=1e-5)


def test_what_belongs_to_a_place_of_the_grid_is_averaged_away():
    torch.manual_seed(0)
    weight = nn.init.orthogonal_(torch.empty(48, 48)).view(48, 3, 4, 4).numpy()
    artefact = np.zeros((1, 64, 48), dtype=np.float32)
    artefact[0, 27] = 10.0
    branch = EncoderBranch(Projection(weight, np.zeros(48, np.float32), artefact), {}, {}).eval()
    mean = averaged.Config(of="teacher", copies=16, shift=(0.25,)).build(context_of(branch, shape=(3, 32, 32)))
    batch = batch_of(torch.randn(4, 3, 32, 32))
    plain = replace(PATCHES, branch="teacher")
    clean = branch(batch, [plain], {})[plain] - torch.from_numpy(artefact)
    with torch.no_grad():
        error = (mean(batch, [PATCHES], {})[PATCHES] - clean).norm(dim=-1)
    assert float(error.max()) < 0.35 * float(np.linalg.norm(artefact))


def test_clips_are_shifted_within_their_frames():
    shape = vit.Config(width=16, depth=1, heads=2, size=(4, 16, 16), tokenizer=tubelets.Config(patch_size=4, tubelet=2))
    empty = BranchContext("student", Clock(10, 3.0), 0, shape, {}, {})
    student = trained.Config().build(empty)
    branch = random.Config().build(replace(empty, name="teacher", branches={"student": student}))
    mean = averaged.Config(of="teacher", copies=3).build(context_of(branch, shape=(3, 4, 16, 16), modality="video"))
    clip = torch.randn(2, 3, 4, 16, 16)
    view = View(clip, "video", "global", 1, torch.arange(2), torch.zeros(2, 3, 4))
    found = mean(replace(batch_of(clip), views={"global": view}), [PATCHES], {})[PATCHES]
    assert found.shape == (2, 32, 16)
    step = Copy(torch.tensor([1, 0]), torch.tensor([0, -1]), torch.tensor([False, True]))
    shown = step.shown(clip, (4, 4), torch.zeros(()))
    assert torch.equal(shown[0, :, :, :12], clip[0, :, :, 4:]) and not shown[0, :, :, 12:].any()
    assert torch.equal(shown[1, ..., :12], clip[1, ..., :12].flip(-1)) and not shown[1, ..., 12:].any()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (dict(of="nobody"), "'nobody' is not there; there are: teacher, student"),
        (dict(of="student"), "'student' is trained"),
        (dict(of="teacher", copies=1), "copies is 1"),
        (dict(of="teacher", shift=(0.1,), flip=0.0), "less than one cell of its grid of 4 x 4"),
        (dict(of="teacher", fill=(1.0, 2.0)), "it has 3 channels, and fill has 2 numbers"),
    ],
)
def test_what_cannot_be_averaged_is_refused(settings, problem):
    branch = teacher()
    context = context_of(branch)
    student = trained.TrainedBranch(branch.encoder, {}, {})
    with pytest.raises(UserError, match=problem):
        made = averaged.Config(**settings).build(replace(context, branches={"teacher": branch, "student": student}))
        raise UserError(made.refusal(PATCHES) or "nothing was refused")


def test_requests_that_copies_cannot_answer_are_refused():
    mean = averaged.Config(of="teacher").build(context_of(teacher()))
    assert mean.refusal(PATCHES) is None
    assert "under mask 'masking'" in str(mean.refusal(replace(PATCHES, mask="masking")))
    assert "and not the numbers" in str(mean.refusal(replace(PATCHES, token="cells")))
    assert "block.1" in mean.offer.taps and not [tap for tap in mean.offer.taps if tap.startswith("attention")]
