"""Losses and BatchNorm of two real processes are those of one, whatever is masked where."""

from __future__ import annotations

import json

COMMON = """
import json, sys, torch, numpy as np
from dataclasses import replace
from torch import nn
from tests.objectives.contexts import context
from foundation.parallel import collective as c
from foundation.parallel.process_group import process_group
torch.manual_seed(0)
def close(one, other):
    return bool(torch.allclose(one, other, rtol=2e-5, atol=5e-6))
"""

NORM = (
    COMMON
    + """
from foundation.parallel.batch_norm import synchronise

class Shifted(nn.BatchNorm1d):  # as timm has them: more than the kernel in the forward pass
    def forward(self, x):
        return torch.relu(super().forward(x + 1.0))

found = {}
with process_group("cpu"):
    for name, kind, shape, sizes in (
        ("maps", nn.BatchNorm2d, (9, 5, 4, 4), [6, 3]), ("rows on one process", nn.BatchNorm1d, (9, 5), [9, 0]),
        ("a subclass", Shifted, (8, 5, 3), [1, 7]), 
        ("no scale", lambda n: nn.BatchNorm1d(n, affine=False), (6, 5), [3, 3]),
    ):
        whole, split = kind(5), kind(5)
        for parameter in whole.parameters():
            nn.init.normal_(parameter)
        split.load_state_dict(whole.state_dict())
        synchronise(split)
        x, g = torch.randn(shape) * 3 + 5, torch.randn(shape)
        x1, x2 = x.clone().requires_grad_(), x.split(sizes)[c.rank()].clone().requires_grad_()
        one, two = whole(x1), split(x2)
        one.backward(g)
        two.backward(g.split(sizes)[c.rank()])
        pairs = [(two, one.split(sizes)[c.rank()]), (x2.grad, x1.grad.split(sizes)[c.rank()])]
        pairs += [(c.sum_over_ranks(b.grad), a.grad) for a, b in zip(whole.parameters(), split.parameters())]
        pairs += zip(split.buffers(), whole.buffers())
        with torch.no_grad():
            pairs.append((split.eval()(x), whole.eval()(x)))
        found[name] = [close(a, b) for a, b in pairs]
print(json.dumps(found))
"""
)

LOSSES = (
    COMMON
    + """
from foundation.heads import prototypes as heads
from foundation.masks.rule import token_mask
from foundation.encoders.protocol import Capabilities, EncoderModule
from foundation.objectives import byol, cluster, contrast, dino, feature_distillation, gram, ibot, koleo, masked_dino
from foundation.objectives import reconstruction
from foundation.branches.request import Request
from foundation.schedules import Clock
from foundation.types import Batch, View

V, B, N, D = 2, 4, 6, 8
WIDTH = {"head": 8, "scores": 16, None: D}
HEADS = {"head": heads.Config(prototypes=None, bottleneck=8), "scores": heads.Config(prototypes=16)}
PREDICTOR = heads.Config(prototypes=None, hidden=8, bottleneck=8, layers=2, norm="batch")
masked = np.zeros((V, B, N), bool)
masked[:, 0, :4] = masked[:, 1, 3] = True  # the samples of process 0; process 1 has none, later one
CONFIGS = {
    "ibot": ibot.Config(head="scores", target="sinkhorn", divide_by="masked_rows"),
    "reconstruction": reconstruction.Config(),
    "cluster": cluster.Config(prototypes=16, head=None),
    "byol": byol.Config(head="head", token="masked", pairs="same", predictor=PREDICTOR),
    "byol other": byol.Config(head="head", token="masked", predictor=PREDICTOR),
    "dino": dino.Config(head="scores", other_views=("frame",)),
    "dino sinkhorn": dino.Config(head="scores", other_views=(), target="sinkhorn"),
    "ibot all": ibot.Config(head="scores", over="all"),
    "masked_dino": masked_dino.Config(head="scores", student_view="frame"),
    "koleo": koleo.Config(),
    "contrast": contrast.Config(head="head", queue=12),
    "gram": gram.Config(teacher="teacher"),
    "whitened": feature_distillation.Config(normalise="whitened", cosine_share=0.5),
}

def tokens(request, whole):
    if request.token == "cells":
        return whole[..., :3, None]
    x = whole[..., : WIDTH[request.head]]
    return x[..., 0, :] if request.token == "cls" else x

def part(whole, request, samples, mask):  # [V, B, N, 16] -> as a branch gives it
    x = tokens(request, whole[:, samples]).flatten(0, 1)
    return x.flatten(0, 1)[mask.indices] if request.token == "masked" else x

def run(objective, raw, samples, mask):
    raw = {k: v.clone().requires_grad_() for k, v in raw.items()}
    ids = torch.arange(B)[samples].repeat(V)
    views = {n: View(torch.empty(len(ids), 0), "image", n, V, ids, torch.empty(0)) for n in ("global", "frame")}
    outputs = {r: part(raw[r.branch], r, samples, mask) for r in objective.requests}
    batch = Batch(views, {("global", "masking"): mask}, (), torch.empty(0), 0, len(ids) // V)
    result = objective(outputs, batch, 0)
    return result, raw["student"]

found = {}
with process_group("cpu"):
    from foundation.parallel.batch_norm import synchronise
    own = slice(0, 2) if c.rank() == 0 else slice(2, 4)
    for case in ("none", "one"):
        masked[:, 3, 2] = case == "one"
        whole_mask = token_mask(masked.reshape(-1, N))
        mask = token_mask(masked[:, own].reshape(-1, N))
        mask = replace(mask, mean_rows=float(masked.any(-1).sum()) / 2, mean_tokens=float(masked.sum()) / 2)
        for name, config in CONFIGS.items():
            torch.manual_seed(1)
            class Covering(EncoderModule): capabilities = Capabilities(cell_shape=(3, 1))
            pair = [config.build(context(Clock(10, 1.0), HEADS, D, Covering())) for _ in range(2)]
            pair[1].load_state_dict(pair[0].state_dict())
            synchronise(pair[1])
            raw = {"student": torch.randn(V, B, N, 16), "teacher": torch.randn(V, B, N, 16)}
            two, grad_two = run(pair[1], raw, own, mask)
            two.loss.backward()
            world, place = c.world_size, c.rank
            c.world_size, c.rank = lambda: 1, lambda: 0
            one, grad_one = run(pair[0], raw, slice(0, B), whole_mask)
            one.loss.backward()
            c.world_size, c.rank = world, place
            same = [close(c.sum_over_ranks(two.loss.detach().clone()) / 2, one.loss.detach())]
            same.append(close(c.sum_over_ranks(grad_two.grad) / 2, grad_one.grad))
            both = zip(pair[0].parameters(), pair[1].parameters())
            same += [close(c.sum_over_ranks(b.grad) / 2, a.grad) for a, b in both]
            same += [close(b.float(), a.float()) for a, b in zip(pair[0].buffers(), pair[1].buffers())]
            same.append(len(set(map(tuple, c.gather_json(sorted(two.metrics))))) == 1)
            found[f"{name}, {case}"] = same
print(json.dumps(found))
"""
)


def test_batch_norm_counts_the_rows_of_all_processes_forward_backward_and_in_its_statistics(together):
    for done in together(NORM, 2):
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert len(found) == 4 and all(all(part) for part in found.values()), found


def test_losses_gradients_queues_and_names_of_metrics_are_those_of_one_process_where_masks_are_unequal(together):
    for done in together(LOSSES, 2):
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert len(found) == 26 and all(all(part) for part in found.values()), found
