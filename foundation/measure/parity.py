"""One step of a recipe on the CPU and on another device: views, masks, losses, gradients, weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation import config, paths
from foundation.data.build import load
from foundation.data.shards import open_shards, write_shards
from foundation.data.sources import single
from foundation.data.stream import build_loader
from foundation.run import build
from foundation.run.recipe import Recipe
from foundation.run.rehearsal import STEP, Rehearsal
from foundation.types import Batch, each_tensor

SMALL = {
    "image": ("letters", "quickstart"),
    "audio": ("calls", "quickstart-audio"),
    "points": ("wires", "quickstart-points"),
    "video": ("camera_moves", "quickstart-video"),
    "imu": ("motions", "quickstart-imu"),
}
"""Data set, made by a program, and recipe of each modality."""
TOLERANCES = {"views": 0.05, "views_mean": 2e-3, "masks": 0.0, "loss": 1e-4, "gradients": 2e-3, "step": 0.1}
"""Largest and mean difference of views (normalised values), differing entries of masks, relative difference of the
loss; distance of all gradients over their length; distance of the weights behind a step over the length of the step
(AdamW's first step is the sign of each gradient, which rounding can turn where a gradient is nearly 0)."""


def compare(data: str, recipe_name: str, device: torch.device, folder: Path, samples: int, seed: int) -> dict[str, Any]:
    """Compare a device with the CPU on real batches of a data set that is made by a program.

    Args:
        data: name of the data set.
        recipe_name: a shipped recipe for it.
        device: to compare.
        folder: for its shards.
        samples: of the batch.
        seed: of views and weights.

    Returns:
        a difference for each of :data:`TOLERANCES`, and ``within`` for whether all are.
    """
    make_shards(data, folder, samples)
    settings = [
        f"data.shards=[{folder}/train-*.tar]",
        "data.workers=0",
        f"train.batch_size={samples}",
        "train.accumulate=1",
        "train.precision=float32",
        f"seed={seed}",
    ]
    recipe = without_drop_path(config.load(Recipe, paths.recipe(recipe_name), [*settings, "train.device=cpu"]))
    views = recipe.views.build(True)
    pending = first_batch(recipe, views, folder, samples)
    with exact_products():
        here = complete(pending, views, torch.device("cpu"))
        there = complete(pending, views, device)
        differences = views_apart(here, there) | {"masks": masks_apart(here, there)}
        cpu, other = Rehearsal(recipe, samples), Rehearsal(on(recipe, device), samples)
        differences |= steps_apart(cpu, other, here, here.to(device))
    within = all(differences[name] <= limit for name, limit in TOLERANCES.items())
    return {**differences, "within": "yes" if within else "NO"}


def make_shards(data: str, folder: Path, samples: int) -> None:
    """Write shards of a data set that a program makes."""
    script = load(data)
    parser = argparse.ArgumentParser()
    script.module.add_arguments(parser)
    arguments = parser.parse_args(["--train", str(samples), "--test", "1"])
    write_shards(script.module.samples(arguments)["train"], folder, "train")


def without_drop_path(recipe: Recipe) -> Recipe:
    """The recipe without what is drawn on the device."""
    return replace(recipe, encoder=replace(recipe.encoder, drop_path=0.0))


def on(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe for a kind of device."""
    return replace(recipe, train=replace(recipe.train, device="cuda" if device.type == "cuda" else "cpu"))


def first_batch(recipe: Recipe, views: Any, folder: Path, samples: int) -> Batch:
    """A batch as the loader gives it to a GPU, its views unfinished."""
    stream = single(open_shards(folder), seed=recipe.seed, window=samples)
    pipeline = build.pipeline(recipe, views, False)
    loader = build_loader(stream, pipeline, batch_size=samples, global_batch=samples, samples=samples)
    try:
        return next(iter(loader))
    finally:
        loader.close()


def complete(batch: Batch, views: Any, device: torch.device) -> Batch:
    """A batch on a device, with its views."""
    batch = batch.to(device, False)
    if batch.pending is None:
        return batch
    return replace(batch, views=views.finish(batch.pending), pending=None)


@contextmanager
def exact_products() -> Iterator[None]:
    """No TF32 in matrix products and convolutions."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def views_apart(one: Batch, other: Batch) -> dict[str, float]:
    """Largest and mean difference over all views."""
    largest = total = count = 0.0
    for name, view in one.views.items():
        apart = (view.data.double() - other.views[name].data.cpu().double()).abs()
        largest = max(largest, apart.max().item())
        total, count = total + apart.sum().item(), count + apart.numel()
    return {"views": largest, "views_mean": total / max(count, 1)}


def masks_apart(one: Batch, other: Batch) -> float:
    """Entries of masks and their indices that differ."""
    first: list[Tensor] = []
    second: list[Tensor] = []
    each_tensor(one.masks, first.append)
    each_tensor(other.masks, second.append)
    return float(sum((a != b.cpu()).sum().item() for a, b in zip(first, second, strict=True)))


def steps_apart(one: Rehearsal, other: Rehearsal, batch: Batch, its_batch: Batch) -> dict[str, float]:
    """Relative differences of loss, gradients and weights of one step from the same weights."""
    before = weights(one)
    other.learner.load_state_dict(one.learner.state_dict())
    losses, gradients = [], []
    for rehearsal, some in ((one, batch), (other, its_batch)):
        result = rehearsal.learner(some, STEP, watched=False)
        result.loss.backward()
        losses.append(result.loss.item())
        gradients.append({n: p.grad.cpu() for n, p in rehearsal.learner.named_parameters() if p.grad is not None})
        rehearsal.optimizer.zero_grad()
    # Centres and queues have seen that batch: both steps begin where the first has left them.
    other.learner.load_state_dict(one.learner.state_dict())
    one(batch)
    other(its_batch)
    after, its_after = weights(one), weights(other)
    step = {name: after[name] - before[name] for name in after}
    return {
        "loss": abs(losses[0] - losses[1]) / max(abs(losses[0]), 1e-12),
        "gradients": distance(gradients[0], gradients[1]) / max(length(gradients[0]), 1e-12),
        "step": distance(after, its_after) / max(length(step), 1e-12),
    }


def weights(rehearsal: Rehearsal) -> dict[str, Tensor]:
    """Copies of the trained parameters in main memory."""
    return {n: p.detach().cpu().clone() for n, p in rehearsal.learner.named_parameters() if p.requires_grad}


def length(tensors: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all numbers together."""
    return float(sum(t.double().square().sum().item() for t in tensors.values()) ** 0.5)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Euclidean distance of all numbers together.

    Raises:
        KeyError: they have not the same names.
    """
    return length({name: tensor.double() - other[name].double() for name, tensor in one.items()})
