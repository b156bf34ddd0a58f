"""``foundation bench peers``: our training step against DINOv2's own, each in a process of its own, in turn."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Processor time of one DINO + iBOT + KoLeo training step of a ViT-S/16 (shared head), against a loop that does what
DINOv2's published one does, written anew: own transformer and heads, one pass for each resolution of views (it packs
them with xFormers only, which needs a GPU), drop path by rows (0 on both sides unless encoder.drop_path says otherwise;
0.3 is DINOv2's default), one cross-entropy for each pair of views, whole passes over the prototype
scores, torch's AdamW as it is made by default, clipping of each module, a foreach EMA. Each side runs in a process of
its own with one thread, ours with the memory settings that 'foundation pretrain' sets, the other with those of the
system. Steps are taken in turn, so that what else the machine does meets both alike."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, argument

    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change on both sides' recipe")
    parser.add_argument("--batch", type=argument(Count), default=8, help="samples per step (default: 8)")
    parser.add_argument("--prototypes", type=argument(Count), default=65536, help="prototypes K (default: 65536)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="(default: float32)")
    parser.add_argument("--attention", choices=("sdpa", "plain"), default="sdpa", help="of the peer (default: sdpa)")
    parser.add_argument("--pairs", type=argument(Count), default=5, help="timed steps of each, in turn (default: 5)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")
    parser.add_argument("--side", choices=("ours", "dinov2"), help=argparse.SUPPRESS)  # what a child process runs


def settings(arguments: argparse.Namespace) -> Any:
    """The recipe that both sides take their sizes from."""
    from foundation import config, paths
    from foundation.run.recipe import Recipe

    head = f"prototypes: {arguments.prototypes}, hidden: 2048, bottleneck: 256, layers: 3, freeze_scale: false"
    words = [
        "name=peers", "data.samples_per_epoch=10000", "train.steps_per_epoch=null", "train.accumulate=1",
        "views.global_views.size=96", "views.local_views.size=48", "views.local_views.count=4",
        "encoder.preset=small", "encoder.tokenizer.patch_size=16", "encoder.ffn=mlp", "encoder.drop_path=0",
        f"heads={{shared: {{{head}}}}}",
        "objectives=[{name: dino, head: shared}, {name: ibot, head: shared}, {name: koleo, weight: 0.1}]",
        f"train.precision={arguments.precision}", f"train.batch_size={arguments.batch}", *arguments.overrides,
    ]  # fmt: skip
    return config.load(Recipe, paths.recipe("dinov2-vitl14"), words, own=True)


def run(arguments: argparse.Namespace) -> int:
    from foundation.files import write_output

    if arguments.side:
        serve(arguments)
        return 0
    import os
    import statistics
    import subprocess

    from rich.console import Console
    from rich.table import Table

    from foundation.parallel.launch import again

    settings(arguments)  # a mistake is said here, once
    words = ["bench", "peers", *arguments.overrides, "--batch", str(arguments.batch), "--prototypes"]
    words += [str(arguments.prototypes), "--precision", arguments.precision, "--attention", arguments.attention]
    sides = {}
    for side in ("ours", "dinov2"):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if side == "dinov2":  # glibc's own default, said so that the command leaves it
            environment.setdefault("MALLOC_ARENA_TEST_", "8")
        sides[side] = subprocess.Popen(
            again([*words, "--side", side]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def step(side: str) -> dict[str, float]:
        process = sides[side]
        process.stdin.write("step\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        for side in sides:
            step(side), step(side)  # the first steps allocate
        pairs = [(step("ours"), step("dinov2")) for _ in range(arguments.pairs)]
    finally:
        for process in sides.values():
            process.stdin.close()
            process.wait()
    ratios = sorted(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    figures: dict[str, Any] = {
        "batch": arguments.batch,
        "prototypes": arguments.prototypes,
        "precision": arguments.precision,
        "attention_of_dinov2": arguments.attention,
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }
    for number, side in enumerate(("ours", "dinov2")):
        for key in ("seconds", "page_faults", "peak_mebibytes", "loss"):
            figures[f"{side}_{key}"] = statistics.median(pair[number][key] for pair in pairs)
    table = Table(title="one step, processor time", show_header=False, title_justify="left")
    for key, value in figures.items():
        table.add_row(key.replace("_", " "), f"{value:,.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


def serve(arguments: argparse.Namespace) -> None:
    """In a child process: one step for each line of the standard input, one line of figures for each step."""
    import resource
    import time

    import torch

    from foundation.measure.memory import peak_of_process
    from foundation.run.rehearsal import Rehearsal, random_batch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = settings(arguments)
    batch = random_batch(recipe, arguments.batch)
    step: Any = Rehearsal(recipe, arguments.batch) if arguments.side == "ours" else dinov2_step(recipe, arguments)
    for _ in sys.stdin:
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        loss = step(batch)
        seconds, faults = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        told = {"seconds": seconds, "page_faults": faults, "peak_mebibytes": peak_of_process() / 2**20}
        print(json.dumps(told | {"loss": float(loss)}), flush=True)


def dinov2_step(recipe: Any, arguments: argparse.Namespace) -> Any:
    """A callable: one optimiser step of DINOv2's loop on a batch; returns the loss."""
    import copy
    import math

    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    shape, head_shape, patch = recipe.encoder.shape, recipe.heads["shared"], recipe.encoder.tokenizer.patch_size
    width, depth, heads = shape.width, shape.depth, shape.heads
    half, drop_path = arguments.precision == "bfloat16", recipe.encoder.drop_path

    def residual(x, function, training: bool):
        if not (training and drop_path):
            return x + function(x)
        rows = len(x)  # a random subset is computed, and scaled up
        kept = torch.randperm(rows)[: max(int(rows * (1 - drop_path)), 1)]
        part = function(x[kept]).flatten(1)
        return torch.index_add(x.flatten(1), 0, kept, part.to(x.dtype), alpha=rows / len(kept)).view_as(x)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x):
            rows, tokens, _ = x.shape
            q, k, v = self.qkv(x).reshape(rows, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            if arguments.attention == "sdpa":
                mixed = F.scaled_dot_product_attention(q, k, v)
            else:
                mixed = ((q * (width // heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
            return self.proj(mixed.transpose(1, 2).reshape(rows, tokens, width))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
            self.attn = Attention()
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            self.ls1, self.ls2 = (nn.Parameter(torch.full((width,), 1e-5)) for _ in range(2))

        def forward(self, x):
            x = residual(x, lambda kept: self.attn(self.norm1(kept)) * self.ls1, self.training)
            return residual(x, lambda kept: self.mlp(self.norm2(kept)) * self.ls2, self.training)

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = nn.Conv2d(3, width, patch, patch)
            self.cls_token, self.mask_token = (
                nn.Parameter(torch.zeros(1, 1, width)),
                nn.Parameter(torch.zeros(1, width)),
            )
            self.side = 224 // patch
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, width))
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)

        def positions(self, side: int):
            table = self.pos_embed[:, 1:].reshape(1, self.side, self.side, width).permute(0, 3, 1, 2)
            scale = (side + 0.1) / self.side
            table = F.interpolate(table.float(), scale_factor=(scale, scale), mode="bicubic")
            return torch.cat((self.pos_embed[:, :1], table.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)

        def forward(self, images, mask=None):
            x = self.patch_embed(images).flatten(2).transpose(1, 2)
            if mask is not None:
                x = torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype).unsqueeze(0), x)
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
            x = x + self.positions(images.shape[-1] // patch)
            for block in self.blocks:
                x = block(x)
            x = self.norm(x)
            return x[:, 0], x[:, 1:]

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden, out = head_shape.hidden, head_shape.bottleneck
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
            )
            self.last_layer = weight_norm(nn.Linear(out, head_shape.prototypes, bias=False))

        def forward(self, x):
            x = self.mlp(x)
            return self.last_layer(F.normalize(x, dim=-1, p=2, eps=1e-6 if x.dtype != torch.float32 else 1e-12))

    student = nn.ModuleDict({"backbone": Backbone(), "head": Head()})
    for module in student.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.parametrizations.weight.original1 if hasattr(module, "parametrizations")
                                  else module.weight, std=0.02)  # fmt: skip
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.04)
    centres = {name: torch.zeros(1, head_shape.prototypes) for name in ("cls", "patch")}

    @torch.no_grad()
    def centred(scores, name: str, temperature: float = 0.07):
        targets = F.softmax((scores.float() - centres[name]) / temperature, dim=-1)
        mean = scores.float().sum(dim=0, keepdim=True) / len(scores)
        centres[name] = centres[name] * 0.9 + mean * 0.1
        return targets

    def cross_entropies(scores, targets, temperature: float = 0.1):
        total = 0.0
        for s in scores:
            logs = F.log_softmax(s.float() / temperature, dim=-1)
            for t in targets:
                total = total - torch.sum(t * logs, dim=-1).mean()
        return total

    def step(batch):
        mask = batch.masks["global", "masking"]
        large, small = batch.views["global"].data, batch.views["local"].data
        locals_, masked = batch.views["local"].count, len(mask.indices)
        bound = math.ceil(1.1 * masked)  # its buffer for masked tokens is as large as the largest number there may be
        terms = 2 + 2 * locals_

        def patches(tokens):
            buffer = tokens.new_zeros(bound, width)
            buffer[:masked] = tokens.flatten(0, 1).index_select(0, mask.indices)
            return buffer

        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with torch.no_grad():
                cls, tokens = teacher["backbone"](large)
                first, second = cls.chunk(2)
                seen = teacher["head"](torch.cat((second, first, patches(tokens))))  # the views change places
                pair = centred(seen[: len(cls)], "cls").view(2, len(cls) // 2, -1)
                wanted = centred(seen[len(cls) : len(cls) + masked], "patch")
            cls, tokens = student["backbone"](large, mask.masked)
            local, _ = student["backbone"](small)
            scores = student["head"](torch.cat((local, cls, patches(tokens))))
            of_local, of_cls, of_patch = scores.split((len(local), len(cls), bound))
            loss = cross_entropies(of_local.chunk(locals_), pair) / terms
            loss = loss + cross_entropies([of_cls], [pair.flatten(0, 1)]) * 2 / terms
            with torch.autocast("cpu", enabled=False):
                for part in cls.float().chunk(2):
                    x = F.normalize(part, eps=1e-8, p=2, dim=-1)
                    dots = (x @ x.t()).fill_diagonal_(-1)
                    loss = loss - 0.1 * torch.log(nn.PairwiseDistance(2, 1e-8)(x, x[dots.argmax(dim=1)]) + 1e-8).mean()
            each = -torch.sum(wanted * F.log_softmax(of_patch[:masked].float() / 0.1, dim=-1), dim=-1)
            loss = loss + (each * mask.weights).sum() / len(cls)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for module in student.values():
            nn.utils.clip_grad_norm_(module.parameters(), 3.0)
        optimizer.step()
        with torch.no_grad():
            new, old = list(student.parameters()), list(teacher.parameters())
            torch._foreach_mul_(old, 0.994)
            torch._foreach_add_(old, new, alpha=0.006)
        return loss.item()

    return step


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
