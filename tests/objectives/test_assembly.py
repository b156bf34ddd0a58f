"""Three training steps of DINOv2, losses and heads together, over stored tokens in place of a backbone."""

from __future__ import annotations

import pytest
import torch

from foundation.heads import prototypes as heads
from foundation.objectives import dino, ibot, koleo
from foundation.schedules import Clock, Schedule
from tests.objectives.contexts import context

CLOCK = Clock(3, 1.0)


def tensor(data, key):
    return torch.from_numpy(data[key])


def head(data, prefix, prototypes):
    module = heads.Config(
        prototypes=int(data[f"arg/{prototypes}"]),
        hidden=int(data["arg/head_hidden_dim"]),
        bottleneck=int(data["arg/head_bottleneck_dim"]),
        layers=int(data["arg/head_nlayers"]),
        freeze_scale=False,
    ).build(24)
    start = f"param/{prefix}/"
    module.load_state_dict({k.removeprefix(start): tensor(data, k) for k in data if k.startswith(start)})
    return module


def step_outputs(data, i, branches, requests):
    """What the learner would compute for the requests of step i."""
    leaves = {
        key: tensor(data, f"input/step{i}/student_{key}").requires_grad_()
        for key in ("global_clstoken", "local_clstoken", "global_patchtokens")
    }
    index = tensor(data, f"input/step{i}/mask_indices_list")
    tokens = {
        ("student", "global", "cls"): leaves["global_clstoken"],
        ("student", "local", "cls"): leaves["local_clstoken"],
        ("student", "global", "masked"): leaves["global_patchtokens"].flatten(0, 1)[index],
        ("teacher", "global", "cls"): tensor(data, f"input/step{i}/teacher_clstoken"),
        ("teacher", "global", "masked"): tensor(data, f"input/step{i}/teacher_patchtokens").flatten(0, 1)[index],
    }
    outputs = {}
    for request in requests:
        x = tokens[request.branch, request.view, request.token]
        if request.head is not None:
            with torch.set_grad_enabled(request.branch == "student"):
                x = branches[request.branch][request.head](x)
        outputs[request] = x
    return leaves, outputs


@pytest.mark.parametrize("target", ["centering", "sinkhorn"])
@pytest.mark.parametrize("sharing", ["shared", "separate"])
def test_three_steps_of_dinov2(golden, make_batch, target, sharing):
    data = golden("15_dinov2_loss_assembly")
    case = f"{'sinkhorn_knopp' if target == 'sinkhorn' else target}_{sharing}_head"
    patch_head = "cls" if sharing == "shared" else "patch"
    branches = {
        branch: {"cls": head(data, f"{branch}_dino_head", "dino_out_dim")}
        | ({"patch": head(data, f"{branch}_ibot_head", "ibot_out_dim_separate")} if sharing == "separate" else {})
        for branch in ("student", "teacher")
    }
    configs = {name: module.config for name, module in branches["student"].items()}
    schedule = {"teacher_temperature": Schedule(start=0.04, shape="constant"), "target": target}
    cls = dino.Config(**schedule).build(context(CLOCK, configs, 24))
    patch = ibot.Config(head=patch_head, **schedule).build(context(CLOCK, configs, 24))
    spread = koleo.Config().build(context(CLOCK, configs, 24))
    counts = {"global": int(data["arg/n_global_crops"]), "local": int(data["arg/n_local_crops"])}
    for i, temperature in enumerate(data["arg/teacher_temps"]):
        for objective in (cls, patch):
            objective.config.teacher_temperature.__dict__["start"] = float(temperature)
        batch = make_batch(int(data["arg/batch"]), counts, data[f"input/step{i}/collated_masks"])
        mask = batch.masks["global", "masking"]
        assert torch.equal(mask.indices, tensor(data, f"input/step{i}/mask_indices_list"))
        torch.testing.assert_close(mask.weights, tensor(data, f"input/step{i}/masks_weight"))
        leaves, outputs = step_outputs(data, i, branches, {*cls.requests, *patch.requests, *spread.requests})
        one, two, three = (objective(outputs, batch, i) for objective in (cls, patch, spread))
        pairs = counts["global"] * (counts["global"] + counts["local"] - 1)
        local_pairs = counts["global"] * counts["local"]
        weight = float(data["arg/koleo_loss_weight"])

        def expect(name: str, actual: float, i: int = i) -> None:
            assert actual == pytest.approx(float(data[f"output/{case}/step{i}/{name}"]), rel=2e-5)

        expect("dino_local_crops_loss", one.metrics["loss_local"].item() * local_pairs / pairs)
        expect("dino_global_crops_loss", one.metrics["loss_global"].item() * (1 - local_pairs / pairs))
        expect("ibot_loss", two.loss.item() / 2)
        expect("koleo_loss", weight * three.loss.item() / 2)
        total = one.loss + two.loss + weight * three.loss
        expect("total_loss", total.item())
        if target == "centering":
            for objective, name in ((cls, "dino_center_used"), (patch, "ibot_center_used")):
                used = tensor(data, f"output/{case}/step{i}/{name}").flatten()
                torch.testing.assert_close(objective.target.centre, used, rtol=1e-5, atol=1e-6)
        for module in branches["student"].values():
            module.zero_grad()
        total.backward()
        for key, leaf in leaves.items():
            expected = tensor(data, f"grad/{case}/step{i}/student_{key}")
            close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
            torch.testing.assert_close(leaf.grad, expected, **close)
        for name in ("weight_g", "weight_v"):
            expected = tensor(data, f"grad/{case}/step{i}/student_dino_head/last_layer.{name}")
            actual = getattr(branches["student"]["cls"].last_layer, name).grad
            close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
            torch.testing.assert_close(actual, expected, **close)
