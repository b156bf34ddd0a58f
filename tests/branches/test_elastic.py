"""The elastic branch: which sizes it draws when (golden file 18), and that it is its source, sliced."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch

from foundation.branches import ema, trained
from foundation.branches.base import BranchContext, EncoderBranch
from foundation.branches.elastic import Config, ElasticBranch, head_pieces, multiplicities
from foundation.branches.request import Request
from foundation.encoders import timm, vit
from foundation.encoders.elastic import SlicedModule, SubNetwork, kept_blocks, stand_alone
from foundation.errors import UserError
from foundation.heads import prototypes
from foundation.modalities.image import tokenizer
from foundation.modalities.imu import tokenizer as imu
from foundation.objectives import koleo
from foundation.objectives.base import ObjectiveContext
from foundation.schedules import Clock
from foundation.types import Batch, View

HEADS = {"cls": prototypes.Config(prototypes=12, hidden=16, bottleneck=8, norm="batch")}
ENCODER = vit.Config(
    width=32, depth=4, heads=4, size=(16, 16), tokenizer=tokenizer.Config(patch_size=4, stem="conv"), drop_path=0.2
)


PAPER = Config()


def built(config: Config = PAPER, encoder=ENCODER, seed: int = 0) -> tuple[EncoderBranch, ElasticBranch]:
    around = BranchContext("student", Clock(10, 3.0), seed, encoder, HEADS, {})
    student = trained.Config().build(around)
    return student, config.build(replace(around, name="small", branches={"student": student}))


def batch() -> Batch:
    torch.manual_seed(1)
    view = View(torch.randn(6, 3, 16, 16), "image", "global", 2, torch.arange(3).repeat(2), torch.zeros(6, 2, 3))
    return Batch({"global": view}, {}, ("x", "y", "z"), torch.zeros(3), 0, 3)


FEATURE = Request("small", "global", "cls")
SCORES = replace(FEATURE, head="cls")


def test_sizes_are_those_of_poa_as_often(golden):
    data = golden("18_poa_sampling")
    for case in ("vit_l", "vit_l_scale2", "vit_l_uniform", "vit_l_intervals"):
        arg = {name: int(data[f"arg/{case}/{name}"]) for name in ("max_embed_dim", "max_depth", "head_dim")}
        scale = float(data[f"arg/{case}/net_select_scale"])
        with torch.device("meta"):
            large = vit.Config(
                width=arg["max_embed_dim"], depth=arg["max_depth"], heads=arg["max_embed_dim"] // arg["head_dim"]
            ).build()
        widths, depths = (tuple(data[f"output/{case}/{name}"].tolist()) for name in ("widths", "depths"))
        networks = Config(widths=widths, depths=depths, scale=scale).networks(large)
        drawn = data[f"output/{case}/networks"].tolist()
        assert Counter(networks) == Counter(SubNetwork(width, (depth,)) for width, depth in drawn[:-1])
        assert multiplicities(len(widths), len(depths), scale) == data[f"output/{case}/multiplicity"].tolist()
        for depth, ids in zip(depths, data[f"output/{case}/block_ids"].tolist(), strict=True):
            assert kept_blocks(depth, arg["max_depth"]) == ids[:depth]
    swin = data["output/swin/networks"].tolist()
    counts = multiplicities(len(data["output/swin/widths"]), len(data["output/swin/stage3_depths"]), 2.0)
    assert counts == [*Counter(map(tuple, swin)).values()]


def test_each_is_drawn_once_before_any_is_drawn_again():
    _, branch = built(Config(scale=2.0))
    several = len(branch.networks)
    orders = [[branch.size_at(turn * several + i, rank) for i in range(several)] for turn in (0, 1) for rank in (0, 1)]
    assert all(Counter(order) == Counter(branch.networks) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert SubNetwork(32, (4,)) not in branch.networks and SubNetwork(16, (2,)) in branch.networks
    assert [built(Config(scale=2.0), seed=s)[1].size_at(i) for s in (0, 0) for i in range(9)] == orders[0][:9] * 2
    assert [built(Config(scale=2.0), seed=1)[1].size_at(i) for i in range(9)] != orders[0][:9]


def test_the_position_moves_with_optimiser_steps_and_is_what_a_run_goes_on_from():
    _, branch = built()
    sizes, figures = [], []
    for step in range(5):
        assert branch.size == branch.size  # as often as there are micro-batches
        sizes.append(branch.size)
        figures.append(branch.update({}, step))
    assert [(size.width, *size.depths) for size in sizes] == [(one["width"], one["depth"]) for one in figures]
    assert len(set(sizes)) > 1
    _, other = built()
    assert list(branch.state_dict()) == ["position"] and not list(branch.parameters())
    other.load_state_dict(branch.state_dict())
    assert [other.size, other.size_at(0)] == [branch.size, sizes[0]]


@pytest.mark.parametrize("mode", [True, False])
def test_it_is_its_source_sliced_and_leads_gradients_there(mode):
    student, branch = built()
    student.train(mode)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    before = copy.deepcopy(student.state_dict())
    size = SubNetwork(16, (3,))
    torch.manual_seed(3)
    twin = branch.sliced(size)
    answers = twin(batch(), (FEATURE, SCORES))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    alone = stand_alone(student.encoder, size)
    torch.manual_seed(3)
    (features,) = alone([batch().views["global"].data])
    head = HEADS["cls"].build(16).train(mode)
    own = {name: tensor.clone() for name, tensor in student.heads["cls"].state_dict().items()}
    own["mlp.0.weight"] = 2.0 * own["mlp.0.weight"][:, :16]
    head.load_state_dict(own)
    torch.testing.assert_close(answers[FEATURE], features.cls, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answers[SCORES], head(features.cls), rtol=1e-5, atol=1e-6)
    answers[SCORES].square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    first = gradients["heads.cls.mlp.0.weight"]
    assert first[:, :16].abs().sum() > 0 and not first[:, 16:].any()
    assert gradients["encoder.trunk.blocks.2.ffn.out.weight"] is None  # 0, 1 and 3 are kept
    kept = gradients["encoder.trunk.blocks.3.attention.qkv.weight"]
    assert kept[32:48, :16].abs().sum() > 0 and not kept[:, 16:].any() and not kept[16:32].any()


def test_a_stem_runs_once_for_both_and_gradients_are_those_of_two_passes():
    student, branch = built()
    student.train()
    teacher = copy.deepcopy(student)
    runs = []
    student.encoder.tokenizer.stem[0].register_forward_hook(lambda *_: runs.append("student"))
    branch.sliced(branch.size).twin.encoder.tokenizer.stem[0].register_forward_hook(lambda *_: runs.append("twin"))

    def gradients(apart: bool) -> dict[str, torch.Tensor]:
        student.zero_grad()
        seen = batch()
        torch.manual_seed(0)
        scores = student(seen, (SCORES,))[SCORES]
        if apart:
            branch._handed["tokenizer.stem"].clear()
        (scores.sum() + branch(seen, (SCORES,))[SCORES].square().sum()).backward()
        return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}

    once, twice = gradients(apart=False), gradients(apart=True)
    assert runs == ["student", "student", "twin"]
    for name, gradient in twice.items():
        torch.testing.assert_close(once[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()) + 1e-7)
    teacher(batch(), (SCORES,))
    student.eval()(batch(), (SCORES,))
    assert not branch._handed["tokenizer.stem"]._made, "nothing is kept of copies, or behind a step"


def test_an_average_of_the_source_is_not_disturbed_and_a_copy_is_whole():
    student, branch = built()
    teacher = ema.EmaBranch(student, "student")
    both = torch.nn.ModuleDict({"student": student, "small": branch})
    assert len(list(both.parameters())) == len(list(student.parameters()))
    branch(batch(), (SCORES,))[SCORES].sum().backward()
    teacher.average(student, 0.5)
    copied = copy.deepcopy(both)
    assert copied["small"].source is copied["student"]
    with torch.no_grad():
        copied["student"].encoder.cls_token.add_(1.0)
    answers = [one.eval()["small"](batch(), (FEATURE,))[FEATURE] for one in (both, copied)]
    assert not torch.equal(*answers)


def test_many_sizes_keep_few_twins():
    _, branch = built(encoder=vit.Config(width=40, depth=10, heads=10, size=(16, 16), tokenizer=tokenizer.Config()))
    for size in dict.fromkeys(branch.networks):
        branch.sliced(size)
    assert len(branch._twins) == 32


@pytest.mark.parametrize("config, words", [
    (Config(widths=(20, 32)), "width 20 is no whole number of heads of 8: the encoder has the widths 8, 16, 24, 32"),
    (Config(depths=(2, 5)), "depths from 1 to 4, not 5"),
    (Config(widths=(32,), depths=(4,)), "no size is left but w32-d4"),
    (Config(sampling="list", sizes=("w16-d2-2",)), "has one depth, from 1 to 4"),
    (Config(of="teacher"), "the branch 'teacher' is not there"),
])  # fmt: skip
def test_sizes_and_branches_that_there_are_not_are_refused(config, words):
    with pytest.raises(UserError, match=rf"branches\.small.*{words}"):
        built(config)


@pytest.mark.parametrize("settings, words", [
    ({"sampling": "list"}, "needs sizes"),
    ({"sizes": ("w16-d2",)}, "does not read sizes"),
    ({"sampling": "list", "sizes": ("w16",)}, "'w16' is no size of an encoder: write width and depth as w128-d6"),
    ({"sampling": "list", "sizes": ("w16-d2",), "depths": (2,)}, "reads no widths or depths"),
    ({"sampling": "all"}, "must be 'paper', 'uniform' or 'list'"),
    ({"scale": 0.5}, "from 1 to 100"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Config(**settings)


def test_sources_that_cannot_be_sliced_or_are_not_trained_are_refused():
    with pytest.raises(UserError, match="cannot be cut into smaller ones"):
        built(encoder=timm.Config(model="vit_tiny_patch16_224", size=(32, 32)))
    around = BranchContext("small", Clock(10, 3.0), 0, ENCODER, HEADS, {})
    student, _ = built()
    with pytest.raises(UserError, match=r"branch 'teacher' is not trained: set branches\.small\.of"):
        Config(of="teacher").build(replace(around, branches={"teacher": ema.EmaBranch(student, "student")}))


def test_an_objective_that_needs_one_width_is_refused_and_others_are_not():
    _, branch = built()
    context = ObjectiveContext(Clock(10, 3.0), {"small": branch.offer}, {})
    with pytest.raises(UserError, match=r"another width from step to step.*its heads are: cls"):
        context.outputs("small", None)
    assert context.outputs("small", "cls") == 12
    assert koleo.Config(student="small").build(context).requests == (FEATURE,)


def test_processes_with_sizes_of_their_own_share_all_batch_norms():
    _, branch = built(Config(per_rank=True), encoder=replace(ENCODER, tokenizer=tokenizer.Config(patch_size=4)))
    branch.networks = (SubNetwork(16, (2,)), SubNetwork(32, (4,)))
    branch.check_per_rank()
    twin = branch.sliced(SubNetwork(16, (2,))).twin
    twin.heads["cls"].mlp.add_module("norm", torch.nn.BatchNorm1d(7))
    with pytest.raises(UserError, match=r"branches\.small\.per_rank: sizes differ in their BatchNorm layers"):
        branch.check_per_rank()


def test_it_takes_any_modality():
    encoder = vit.Config(width=16, depth=2, heads=2, size=(32,), tokenizer=imu.Config(patch=4))
    _, branch = built(Config(widths=(8,)), encoder=encoder)
    view = View(torch.randn(4, 6, 32), "imu", "global", 2, torch.arange(2).repeat(2), torch.zeros(4, 1, 3))
    answers = branch(Batch({"global": view}, {}, ("x", "y"), torch.zeros(2), 0, 2), (FEATURE,))
    assert answers[FEATURE].shape == (4, 8)


def test_a_sliced_head_is_that_of_poa(golden):
    """Scores and gradients of every stored width and head (golden 16)."""
    data = golden("16_poa_slice")
    settings = {name: int(data[f"arg/head_{name}_dim"]) for name in ("hidden", "bottleneck")}
    widest = int(data["arg/max_embed_dim"])
    to_inputs: dict[int, torch.Tensor | int] = defaultdict(int)
    for number, outputs in enumerate(data["arg/head_out_dims"]):
        layers = int(data["arg/head_nlayers"])
        config = prototypes.Config(prototypes=int(outputs), layers=layers, freeze_scale=False, **settings)
        head = config.build(widest)
        theirs = {"mlp.0.weight": f"mlp{number}.0.linear.weight", "mlp.0.bias": f"mlp{number}.0.linear.bias"}
        deeper = [name for name in head.state_dict() if name.startswith(("mlp.2.", "mlp.4."))]
        theirs |= {name: name.replace("mlp.", f"mlp{number}.") for name in deeper}
        theirs |= {f"last_layer.weight_{kind}": f"last_layer{number}.weight_{kind}" for kind in "gv"}
        weights = {own: torch.from_numpy(data[f"param/dino_head/{name}"]) for own, name in theirs.items()}
        head.load_state_dict(weights)
        for width in sorted({int(width) for width, _ in data["arg/subnets"]}):
            head.zero_grad()
            with torch.device("meta"):
                twin = config.build(width)
            sliced = SlicedModule(head, twin, head_pieces(twin, head, float(data[f"output/head/w{width}/alpha"])))
            x = torch.from_numpy(data[f"input/head/w{width}/x"]).requires_grad_()
            scores = sliced(x)
            expected = torch.from_numpy(data[f"output/head/w{width}/logits{number}"])
            torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
            (scores * torch.from_numpy(data[f"input/head/w{width}/cotangent_logits{number}"])).sum().backward()
            to_inputs[width] += x.grad
            stored = f"grad/head/w{width}/param/"
            checked = 0
            for own, name in theirs.items():
                if f"{stored}{name}" in data:
                    gradient = torch.from_numpy(data[f"{stored}{name}"])
                    torch.testing.assert_close(head.get_parameter(own).grad, gradient, rtol=1e-4, atol=1e-5)
                    checked += 1
            assert checked == (2, 1, 0)[number]
    for width, gradient in to_inputs.items():  # stored of all heads together
        torch.testing.assert_close(gradient, torch.from_numpy(data[f"grad/head/w{width}/x"]), rtol=1e-4, atol=1e-5)
