"""POA is put together of parts: three steps over stored scores and one over whole networks (golden file 17)."""

from __future__ import annotations

import re

import pytest
import torch

from foundation.branches import elastic, ema, trained
from foundation.branches.base import BranchContext, Offer
from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.engine.learner import Learner
from foundation.errors import UserError
from foundation.heads import prototypes
from foundation.masks.rule import token_mask
from foundation.modalities.image import tokenizer
from foundation.objectives import dino, ibot, koleo, same_view
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock, Schedule
from foundation.types import MASKING, Batch, View
from tests.encoders.test_elastic import reference_name

CLOCK = Clock(3, 1.0)
BRANCHES = {"student": "intact", "elastic": "elastic", "teacher": "teacher"}


def tensor(data, key):
    return torch.from_numpy(data[key])


def number(data, name):
    return float(data[f"arg/{name}"])


def heads(data):
    return {
        f"h{index}": prototypes.Config(
            prototypes=int(count),
            hidden=int(data["arg/head_hidden_dim"]),
            bottleneck=int(data["arg/head_bottleneck_dim"]),
            layers=int(data["arg/head_nlayers"]),
            freeze_scale=False,
        )
        for index, count in enumerate(data["arg/head_n_prototypes"])
    }


def context(offer):
    offers = dict.fromkeys(BRANCHES, offer)
    return ObjectiveContext(CLOCK, offers, {MASKING: ("global",)})


def objectives(data, target, among):
    """The objectives of the recipe with their weights, by name."""
    share, names = number(data, "lambda_ie"), tuple(heads(data))
    usual = {
        "heads": names,
        "target": target,
        "teacher_temperature": Schedule(start=0.04, shape="constant"),
        "student_temperature": number(data, "student_temp"),
        "centre_momentum": number(data, "center_momentum"),
        "sinkhorn_iterations": int(data["arg/sinkhorn_iterations"]),
    }
    tau = number(data, "same_view_temp")
    made, weights = {}, {}
    for student, part in (("student", share), ("elastic", 1 - share)):
        made[f"dino-{student}"] = dino.Config(student=student, **usual).build(among)
        weights[f"dino-{student}"] = number(data, "dino_loss_weight") * part
        made[f"ibot-{student}"] = ibot.Config(student=student, **usual).build(among)
        weights[f"ibot-{student}"] = number(data, "ibot_loss_weight") * part
        made[f"koleo-{student}"] = koleo.Config(student=student).build(among)
        weights[f"koleo-{student}"] = number(data, "koleo_loss_weight") / 2
    same = same_view.Config(
        student="elastic", teacher="student", heads=names, student_temperature=tau, teacher_temperature=tau
    )
    made["same_view"], weights["same_view"] = same.build(among), 1 - share
    return made, weights


def set_temperature(made, temperature):
    for name, objective in made.items():
        for part in objective.parts if name.startswith(("dino", "ibot")) else ():
            part.config.teacher_temperature.__dict__["start"] = float(temperature)


@pytest.mark.parametrize("target", ["centering", "sinkhorn"])
def test_three_steps_of_poa_from_stored_scores(golden, make_batch, target):
    data = golden("17_poa_loss")
    case = "sinkhorn_knopp" if target == "sinkhorn" else target
    made, weights = objectives(data, target, context(Offer(int(data["arg/intact_dim"]), heads(data))))
    counts = {"global": int(data["arg/n_global_crops"]), "local": int(data["arg/n_local_crops"])}
    for i, temperature in enumerate(data["arg/teacher_temps"]):
        set_temperature(made, temperature)
        batch = make_batch(int(data["arg/batch"]), counts, data[f"input/step{i}/collated_masks"])
        leaves = {}

        def score(request, step=i, leaves=leaves):
            if request.head is None:
                return tensor(data, f"input/step{step}/{BRANCHES[request.branch]}_{request.view}_clstoken")
            kind = "patch" if request.token == "masked" else request.view
            key = f"{BRANCHES[request.branch]}_{kind}_logits_head{request.head[1:]}"
            if request.branch == "teacher":
                rows = tensor(data, f"output/step{step}/{key}")
                return rows if kind == "patch" else torch.cat(rows.chunk(2)[::-1])  # stored with the views swapped
            if key not in leaves:
                leaves[key] = tensor(data, f"output/step{step}/{key}").requires_grad_()
            return leaves[key]

        requests = dict.fromkeys(request for objective in made.values() for request in objective.requests)
        outputs, total = {}, torch.zeros(())
        for request in requests:
            if data["arg/ibot_active"][i] or request.token != "masked":
                outputs[request] = score(request)
        for name, objective in made.items():
            if name.startswith("ibot") and not data["arg/ibot_active"][i]:
                continue
            result = objective(outputs, batch, i)
            total = total + weights[name] * result.loss
            if name == "same_view":
                for view in ("global", "local"):
                    raw = f"output/{case}/step{i}/raw/{view}/intact_to_elastic_head"
                    mean = torch.stack([tensor(data, key) for key in data if key.startswith(raw)]).mean()
                    torch.testing.assert_close(result.metrics[f"loss_{view}"], mean, rtol=1e-5, atol=0)
        torch.testing.assert_close(total, tensor(data, f"output/{case}/step{i}/total_loss"), rtol=1e-5, atol=0)
        total.backward()
        stored = [key for key in data if key.startswith(f"grad/{case}/step{i}/") and "_logits_" in key]
        assert {key.rsplit("/", 1)[1] for key in stored} == leaves.keys()
        for key in stored:
            torch.testing.assert_close(leaves[key.rsplit("/", 1)[1]].grad, tensor(data, key), rtol=1e-3, atol=1e-6)


def our_name(name: str) -> str:
    """Our name of a parameter of a branch of the reference."""
    if name.startswith("backbone."):
        return f"encoder.{reference_name(name.removeprefix('backbone.'))}"
    found = re.fullmatch(r"dino_head\.(mlp|last_layer)(\d)\.(.*)", name)
    assert found is not None, name
    return f"heads.h{found[2]}.{found[1]}.{found[3].replace('.linear.', '.')}"


def test_one_step_of_poa_with_its_networks_and_all_gradients(golden):
    data = golden("17_poa_loss")
    full = {key.removeprefix("arg/full/"): data[key] for key in data if key.startswith("arg/full/")}
    width = int(full["max_embed_dim"])
    encoder = vit.Config(
        width=width,
        depth=int(full["max_depth"]),
        heads=width // int(full["head_dim"]),
        size=(int(full["img_size"]),) * 2,
        tokenizer=tokenizer.Config(patch_size=int(full["patch_size"])),
        position=PositionConfig(offset=0.1),
        layer_scale=1.0,
    )
    around = BranchContext("student", CLOCK, 0, encoder, heads(data), {})
    student = trained.Config().build(around)
    narrow, depth = full["elastic_subnet"].tolist()
    built = {"student": student}
    about = BranchContext("elastic", CLOCK, 0, encoder, heads(data), built)
    built["elastic"] = elastic.Config(sampling="list", sizes=(f"w{narrow}-d{depth}",)).build(about)
    built["teacher"] = ema.EmaBranch(student, "student")
    for name in ("student", "teacher"):
        start = f"param/full/{name}/"
        weights = {our_name(k.removeprefix(start)): tensor(data, k) for k in data if k.startswith(start)}
        built[name].load_state_dict(weights)
    among = ObjectiveContext(CLOCK, {name: branch.offer for name, branch in built.items()}, {MASKING: ("global",)})
    made, weights = objectives(data, "sinkhorn", among)
    set_temperature(made, full["teacher_temp"])
    learner = Learner(
        built, made, {n: Schedule(start=w, shape="constant") for n, w in weights.items()}, CLOCK, "teacher"
    )
    assert not learner.check(("global", "local"), {MASKING: ["global"]}, {MASKING: "token"})
    batch = int(data["arg/batch"])
    views = {
        name: View(tensor(data, f"input/full/{name}_crops"), "image", name, count, torch.empty(0), torch.empty(0))
        for name, count in (("global", 2), ("local", int(data["arg/n_local_crops"])))
    }
    masks = {("global", MASKING): token_mask(data["input/full/collated_masks"])}
    result = learner(Batch(views, masks, tuple("abcd"), torch.full((batch,), -1), 0, batch), 0)
    torch.testing.assert_close(result.loss, tensor(data, "output/full/total_loss"), rtol=1e-5, atol=0)
    result.loss.backward()
    start = "grad/full/student/"
    stored = {our_name(k.removeprefix(start)): tensor(data, k) for k in data if k.startswith(start)}
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert stored.keys() == gradients.keys()
    for name, value in stored.items():
        torch.testing.assert_close(gradients[name], value, rtol=2e-3, atol=2e-5 * float(value.abs().max()) + 1e-7)


def test_settings_of_same_view_that_cannot_be_are_refused():
    among = context(Offer(8, {"cls": prototypes.Config(prototypes=4), "plain": prototypes.Config(prototypes=None)}))
    with pytest.raises(UserError, match="views is empty"):
        same_view.Config(views=())
    with pytest.raises(UserError, match="name two branches"):
        same_view.Config(teacher="student")
    with pytest.raises(UserError, match="has no prototypes"):
        same_view.Config(head="plain").build(among)
    with pytest.raises(UserError, match="there is no branch 'elastik'; did you mean 'elastic'"):
        same_view.Config(student="elastik").build(among)
