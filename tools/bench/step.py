"""``foundation bench step``: one training step of a recipe against a plain reference loop over the same modules."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

DESCRIPTION = """\
Time of one training step (forward, backward, clipping, AdamW, EMA) of a recipe on random views, against a reference
loop over the same modules in the same process, in turn: it runs each view resolution and each head call by itself, each
pair of views as its own cross-entropy, and AdamW and the EMA tensor by tensor. With --against, the same recipe with
other settings takes the place of that loop. Reports medians, their ratio, and the share of our step that is spent in
matrix products."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, argument

    parser.add_argument("recipe", nargs="?", default="ibot-vits16", help="recipe to time (default: ibot-vits16)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--batch", type=argument(Count), default=4, help="samples per step (default: 4)")
    parser.add_argument("--rounds", type=argument(Count), default=5, help="timed steps of each, in turn (default: 5)")
    parser.add_argument(
        "--against", action="append", default=[], metavar="key=value",
        help="compare with the same recipe under this setting, such as train.compile=blocks (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--threads", type=argument(Count), help="threads of torch (default: its own choice)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import statistics
    import time

    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation import config, paths
    from foundation.errors import UserError
    from foundation.files import write_output
    from foundation.run.recipe import Recipe
    from foundation.run.rehearsal import Rehearsal, random_batch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    overrides = [*arguments.overrides, f"train.batch_size={arguments.batch}", "train.accumulate=1"]
    recipe = config.load(Recipe, paths.recipe(arguments.recipe), overrides, own=True)
    ours = Rehearsal(recipe, arguments.batch)
    placement = ours.placement
    batch = random_batch(recipe, arguments.batch).to(placement.device)
    if arguments.against:
        text = [*overrides, *arguments.against]
        other = Rehearsal(config.load(Recipe, paths.recipe(arguments.recipe), text, own=True), arguments.batch)
        if other.placement.device != placement.device:
            raise UserError("--against: both steps must be on the same device")
    else:
        other = PlainStep(ours.learner, recipe, placement)

    # Of one thread the processor's time counts, which other programs of the machine disturb least.
    alone = placement.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def timed(step) -> float:
        if placement.device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        step(batch)
        if placement.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    for step in (ours, other) * 2:
        timed(step)
    pairs = [(timed(ours), timed(other)) for _ in range(arguments.rounds)]
    share = matrix_share(ours, batch)
    figures = {
        "recipe": recipe.name,
        "batch": arguments.batch,
        "device": str(placement.device),
        "precision": str(placement.autocast or torch.float32),
        "threads": torch.get_num_threads(),
        "clock": "processor time" if alone else "wall time",
        "ours_seconds": statistics.median(a for a, _ in pairs),
        "against": " ".join(arguments.against) or "plain loop",
        "against_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "ratio_min": min(b / a for a, b in pairs),
        "ratio_max": max(b / a for a, b in pairs),
        "matrix_product_share": share,
    }
    table = Table(title=f"one step of {recipe.name}, batch {arguments.batch}", show_header=False, title_justify="left")
    for key, value in figures.items():
        table.add_row(key.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        write_output(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


class PlainStep:
    """The same mathematics as the papers' own loops write it, on the same modules."""

    def __init__(self, learner, recipe, placement) -> None:
        import torch

        self.learner, self.recipe, self.placement = learner, recipe, placement
        self.parameters = [p for p in learner.branch("student").parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, foreach=False, fused=False)

    def __call__(self, batch) -> None:
        import torch

        placement = self.placement
        with torch.autocast(placement.device.type, placement.autocast, enabled=placement.autocast is not None):
            loss = self.loss(batch)
        loss.backward()
        for parameter in self.parameters:
            if parameter.grad is not None:
                norm = parameter.grad.norm(2).item()
                if norm > 3.0:
                    parameter.grad.mul_(3.0 / (norm + 1e-6))
        self.optimizer.step()
        self.optimizer.zero_grad()
        teacher = self.learner.branch()
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), self.learner.branch("student").parameters(), strict=True):
                old.mul_(0.996).add_(0.004 * new.detach())

    def loss(self, batch):
        import torch
        import torch.nn.functional as F

        from foundation.encoders.protocol import EncoderInput

        student, teacher = self.learner.branch("student"), self.learner.branch()
        names = {type(c).__module__.rsplit(".", 1)[-1]: c for c in self.recipe.objectives}
        total = torch.zeros(())
        views = {}
        masks = {name: mask.masked for (name, _), mask in batch.masks.items()}
        for name, view in batch.views.items():
            views[name] = student.encoder([EncoderInput(view=view.data, mask=masks.get(name))])[0]
        with torch.no_grad():
            seen = teacher.encoder([batch.views["global"].data])[0]
        count = batch.views["global"].count
        if "dino" in names:
            head = names["dino"].head
            with torch.no_grad():
                targets = [(t.float() / 0.07).softmax(-1) for t in teacher.heads[head](seen.cls).chunk(count)]
            scores = []
            for name, view in views.items():
                scores += student.heads[head](view.cls).chunk(batch.views[name].count)
            pairs = 0
            for i, target in enumerate(targets):
                for j, score in enumerate(scores):
                    if i != j:
                        total = total - (target * F.log_softmax(score.float() / 0.1, -1)).sum(-1).mean()
                        pairs += 1
            total = total / pairs
        if "ibot" in names:
            head, mask = names["ibot"].head, batch.masks["global", "masking"]
            with torch.no_grad():
                target = (teacher.heads[head](seen.patches.flatten(0, 1)[mask.indices]).float() / 0.07).softmax(-1)
            score = student.heads[head](views["global"].patches.flatten(0, 1)[mask.indices])
            losses = -(target * F.log_softmax(score.float() / 0.1, -1)).sum(-1)
            total = total + (losses * mask.weights).sum() / len(mask.masked)
        if "koleo" in names:
            for chunk in views["global"].cls.float().chunk(count):
                x = F.normalize(chunk, dim=-1)
                near = (x @ x.T).fill_diagonal_(-1.0).argmax(1)
                total = total - 0.1 * (F.pairwise_distance(x, x[near]) + 1e-8).log().mean()
        return total


def matrix_share(step, batch) -> float:
    """Share of a step's own time that profiled operators spend in matrix products, attention and convolutions."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step(batch)
    products = ("mm", "matmul", "linear", "attention", "convolution", "conv")
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    inside = sum(e.self_cpu_time_total for e in events if any(word in e.key.lower() for word in products))
    return inside / max(total, 1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
