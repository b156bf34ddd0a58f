"""Feature distillation: the losses and gradients of G2SD (golden file 21), and what a recipe may ask for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.branches.base import Offer
from foundation.encoders import vit
from foundation.encoders.segments import Segment
from foundation.errors import UserError
from foundation.heads import decoder, prototypes
from foundation.modalities.image.tokenizer import Config as ImageTokenizer
from foundation.objectives import feature_distillation
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock, Duration
from foundation.types import Batch, TokenMask
from tests.encoders.inputs import inputs
from tests.encoders.reference_names import our_name, our_weights
from tests.encoders.test_parity import FORWARD, GRADIENT, close

G2SD = {"head": "decoder", "teacher_mask": "masking", "teacher_head": "decoder", "teacher_tap": "decoder.block.2"}


class Published:
    """An encoder of ours and blocks of our decoder, put together as the published masked autoencoder is.

    There the decoder has a mask token, positions and the class token of its own; ours takes what the encoder puts in
    hidden places.
    """

    def __init__(self, arrays: dict[str, np.ndarray], who: str) -> None:
        args = {k.removeprefix(f"arg/{who}/"): int(v) for k, v in arrays.items() if k.startswith(f"arg/{who}/")}
        prefix = f"param/{who}/"
        params = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        behind = ("decoder", "mask_token", "encoderfeature", "decoderfeature")
        self.encoder = vit.Config(
            preset=None, width=args["embed_dim"], depth=args["depth"], heads=args["num_heads"], size=(32, 32),
            tokenizer=ImageTokenizer(patch_size=8),
        ).build()  # fmt: skip
        weights = our_weights({f"param/{k}": v for k, v in params.items() if not k.startswith(behind)})
        missing = self.encoder.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys and {*missing.missing_keys} <= {
            "mask_token", "trunk.norm.weight", "trunk.norm.bias"
        }  # fmt: skip
        self.decoder = decoder.Config(
            depth=args["decoder_depth"], width=args["decoder_embed_dim"], heads=args["decoder_num_heads"]
        ).build(args["embed_dim"])
        weights = {their_name(k): torch.from_numpy(v) for k, v in params.items() if k.startswith("decoder_")}
        unused = self.decoder.load_state_dict({k: v for k, v in weights.items() if k is not None}, strict=False)
        assert not unused.unexpected_keys
        self.mask_token = torch.from_numpy(params["mask_token"]).requires_grad_()
        self.positions = torch.from_numpy(params["decoder_pos_embed"])

    def hidden(self, images: Tensor, mask: Tensor, block: int) -> Tensor:
        """[R, 1 + N, width] behind a block of the decoder."""
        (seen,) = self.encoder(inputs([images], [mask], drop=[int(mask[0].sum())]))
        patches = torch.where(mask[..., None], self.mask_token, self.decoder.embed(seen.patches))
        tokens = torch.cat((self.decoder.embed(seen.cls)[:, None], patches), dim=1) + self.positions
        rows, count, width = tokens.shape
        packed = tokens.flatten(0, 1)
        for one in self.decoder.blocks[: block + 1]:
            packed = one(packed, [Segment(rows, count)])
        return packed.view(rows, count, width)


def their_name(name: str) -> str | None:
    """Our name, in a decoder, of a parameter of the published one."""
    name = name.removeprefix("decoder_")
    if name.startswith("blocks."):
        return our_name(name).removeprefix("trunk.")
    return name if name.startswith("embed.") else None


def context(**offers: Offer) -> ObjectiveContext:
    heads = {"decoder": decoder.Config(width=12, depth=2, heads=3), "cls": prototypes.Config(prototypes=8)}
    teacher = Offer(32, {"decoder": decoder.Config(width=24, depth=5, heads=3)})
    both = {"student": Offer(16, heads), "teacher": teacher} | offers
    return ObjectiveContext(Clock(10, 1.0), both, {"masking": ("global",)})


def objective_of(arrays: dict[str, np.ndarray], **options) -> feature_distillation.FeatureDistillation:
    objective = feature_distillation.Config(**(G2SD | options)).build(context())
    for ours, theirs in ((0, "fc1"), (2, "fc2")):
        for kind in ("weight", "bias"):
            value = torch.from_numpy(arrays[f"param/student/decoderfeature_pred.{theirs}.{kind}"])
            getattr(objective.predict[ours], kind).data.copy_(value)
    return objective


def batch_of(mask: Tensor) -> Batch:
    flat = mask.flatten()
    weights = torch.full((int(flat.sum()),), 1 / int(mask[0].sum()))
    rule = TokenMask(mask, flat.nonzero()[:, 0], weights, (~flat).nonzero()[:, 0], mode="drop")
    return Batch({}, {("global", "masking"): rule}, ("a", "b", "c"), torch.zeros(3), 0, 3)


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("21_g2sd_loss")


@pytest.mark.parametrize("case", ["masked", "all"])
def test_the_published_generic_stage(arrays, case):
    """Both networks, the tap, the target, the loss and its gradients in the student."""
    images, mask = torch.from_numpy(arrays["input/images"]), torch.from_numpy(arrays[f"output/{case}/mask"])
    teacher, student = Published(arrays, "teacher"), Published(arrays, "student")
    objective = objective_of(arrays, token="masked" if case == "masked" else "patches")
    with torch.no_grad():
        goal = teacher.hidden(images, mask, int(arrays["arg/teacher_block"]) - 1)
    found = student.hidden(images, mask, 1)
    if case == "masked":
        goal, found = (part[:, 1:].flatten(0, 1)[mask.flatten()] for part in (goal, found))
    close(goal, arrays[f"output/{case}/teacher_hidden"], FORWARD)
    prediction = objective.predict(found)
    close(prediction, arrays[f"output/{case}/student_prediction"], FORWARD)
    outputs = {objective.teacher_request: goal, objective.student_request: found}
    loss = objective(outputs, batch_of(mask), 0).loss
    close(loss, arrays[f"output/{case}/loss"], FORWARD)
    loss.backward()
    ours = dict(student.encoder.named_parameters()) | {f"d.{k}": p for k, p in student.decoder.named_parameters()}
    ours["mask token"] = student.mask_token
    prefix = f"grad/{case}/param/"
    theirs = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    for name, wanted in theirs.items():
        if name.startswith("decoderfeature_pred"):
            _, layer, kind = name.split(".")
            parameter = getattr(objective.predict[0 if layer == "fc1" else 2], kind)
        else:
            key = "mask token" if name == "mask_token" else our_name(name)
            key = f"d.{their_name(name)}" if name.startswith("decoder_") else key
            parameter = ours[key]
        close(parameter.grad, wanted, GRADIENT)
    assert len(theirs) == 20


def test_the_published_loss_far_beyond_beta(arrays):
    given, hidden = (
        torch.from_numpy(arrays[f"input/loss_only/{name}"]) for name in ("student_prediction", "teacher_hidden")
    )
    given.requires_grad_()
    loss = objective_of(arrays).difference(given, hidden, 0)
    close(loss, arrays["output/loss_only/loss"], FORWARD)
    loss.backward()
    close(given.grad, arrays["grad/loss_only/student_prediction"], FORWARD)


def test_distances():
    given, goal = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    wanted = {"l1": 5 / 4, "l2": 13 / 4, "cosine": 1 / 2, "smooth_l1": (4 / 4 + 3 - 1) / 4}
    for distance, value in wanted.items():
        config = feature_distillation.Config(distance=distance, normalise="none", **G2SD)
        assert float(config.build(context()).difference(given, goal, 0)) == pytest.approx(value, abs=1e-6)


def test_distances_are_mixed_by_their_shares():
    """GPFM's loss of patches, written out."""
    given, goal = torch.randn(5, 24), torch.randn(5, 24)
    settings = {"distance": "smooth_l1", "beta": 1.0, "cosine_share": 0.9, "normalise": "none"}
    found = feature_distillation.Config(**settings, **G2SD).build(context()).difference(given, goal, 0)
    cosine = sum(1 - (a @ b) / (a.norm() * b.norm()) for a, b in zip(given, goal, strict=True)) / 5
    wide = (given - goal).abs()
    wanted = 0.9 * cosine + 0.1 * torch.where(wide < 1, wide.square() / 2, wide - 0.5).mean()
    torch.testing.assert_close(found, wanted)


def test_a_whitened_teacher_gives_targets_of_deviation_one():
    config = feature_distillation.Config(normalise="whitened", token="cls", mask=None, statistics=Duration(4))
    objective = config.build(context())
    batch = Batch({}, {}, (), torch.zeros(3), 0, 3)
    spread = torch.logspace(-2, 2, 32)
    teacher, student = objective.requests
    for step in range(5):
        outputs = {teacher: torch.randn(4000, 32) * spread + 5, student: torch.randn(4000, 16)}
        loss = objective(outputs, batch, step).loss
    target = objective.whiten(outputs[teacher], 5)
    assert 0.9 < target[:, -1].std() < 1.1 and target.mean(0).abs().max() < 0.1
    assert float(loss.detach()) < 1 and set(objective.state_dict()) > {"whiten.transform", "predict.0.weight"}


def test_what_is_asked_of_the_branches():
    objective = feature_distillation.Config(**G2SD, tap="decoder.block.1").build(context())
    teacher, student = objective.requests
    assert (student.token, student.head, student.tap) == ("masked", "decoder", "decoder.block.1")
    assert student.chosen_by == ("global", "masking")
    assert (teacher.tap, teacher.mask, teacher.chosen_by) == ("decoder.block.2", "masking", ("global", "masking"))
    whole = feature_distillation.Config(teacher_head="decoder").build(context()).teacher_request
    assert whole.mask is None and whole.chosen_by == ("global", "masking")
    dense = feature_distillation.Config(token="cls", layers=0, normalise="none", mask=None)
    same = context(teacher=Offer(16, {}))
    assert not [*dense.build(same).parameters()]


def test_masked_tokens_of_processes_count_alike(arrays):
    mask = torch.from_numpy(arrays["output/masked/mask"])
    objective, batch = objective_of(arrays), batch_of(mask)
    outputs = {objective.student_request: torch.randn(36, 12), objective.teacher_request: torch.randn(36, 24)}
    alone = objective(outputs, batch, 0).loss
    key = ("global", "masking")
    shared = replace(batch, masks={key: replace(batch.masks[key], mean_tokens=18.0)})
    torch.testing.assert_close(objective(outputs, shared, 0).loss, 2 * alone)
    none = replace(
        batch, masks={key: replace(batch.masks[key], indices=torch.empty(0, dtype=torch.int64), mean_tokens=9.0)}
    )
    nothing = objective({request: part[:0] for request, part in outputs.items()}, none, 0).loss
    nothing.backward()
    assert float(nothing.detach()) == 0 and objective.predict[0].weight.grad is not None


def test_impossible_settings_are_refused():
    def build(**options):
        return feature_distillation.Config(**options).build(context())

    with pytest.raises(UserError, match="no head called 'decder'; did you mean 'decoder'"):
        build(head="decder")
    with pytest.raises(UserError, match="no branch 'expert'"):
        build(teacher="expert")
    with pytest.raises(UserError, match="no mask rule called 'hidden'"):
        build(teacher_mask="hidden")
    with pytest.raises(UserError, match="'masked' needs a mask rule"):
        build(mask=None)
    with pytest.raises(UserError, match="tokens of 16 and 24 numbers cannot be compared"):
        build(teacher_head="decoder", layers=0)
    with pytest.raises(UserError, match="no class token behind head 'decoder' of branch 'teacher'"):
        build(token="cls", teacher_head="decoder")
    with pytest.raises(UserError, match="cosine_share is for a distance that is not 'cosine'"):
        build(distance="cosine", cosine_share=0.5)
    with pytest.raises(UserError, match="normalise must be one of 'none', 'layer', 'whitened', got 'pca'"):
        build(normalise="pca")
    with pytest.raises(
        UserError, match=r"'student' cuts view 'global' into 16 patches \(no grid\) and branch 'teacher'"
    ):
        counts = {("student", "global"): 16, ("teacher", "global"): 9}
        feature_distillation.Config(token="patches").build(replace(context(), patches=counts))
    with pytest.raises(UserError, match="distance must be one of 'l1', 'l2', 'smooth_l1', 'cosine', got 'l3'"):
        build(distance="l3")
