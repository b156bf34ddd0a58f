"""Recipes whose steps are measured: DINOv2's for a ViT with patches of 16 pixels, and how they are made small."""

from __future__ import annotations

from collections.abc import Sequence

from foundation import config, paths
from foundation.run.recipe import Recipe

DINOV2_16 = """
name: dinov2-vit16
data: {shards: ["none-*.tar"], samples_per_epoch: 1281167}
views:
  name: image
  global_views: {count: 2, size: 224, scale: [0.32, 1.0], blur: [0.0, 0.9], solarise: [0.0, 0.2]}
  local_views: {count: 8, size: 96, scale: [0.05, 0.32], blur: [0.5], solarise: [0.0]}
  blur_radius: 4
masking: {probability: 0.5, ratio: [0.1, 0.5], kind: block}
encoder:
  name: vit
  preset: large
  tokenizer: {name: image, patch_size: 16}
  layer_scale: 1e-5
heads:
  shared: {prototypes: 65536, hidden: 2048, bottleneck: 256, layers: 3, freeze_scale: false}
objectives:
  - {name: dino, head: shared, target: sinkhorn}
  - {name: ibot, head: shared, target: sinkhorn}
  - {name: koleo, weight: 0.1, across_processes: false}
branches:
  teacher: {name: ema, momentum: {start: 0.994, end: 1.0}}
optimizer: {learning_rate: 2e-4, weight_decay: 0.04, clip: 3.0, clip_mode: module}
train: {length: 1000 steps, batch_size: 32, log_every: 1000}
"""
"""What DINOv2's short configuration of ViT-L/16 trains (2 views of 224 and 8 of 96 pixels, K = 65,536, one head),
with Sinkhorn-Knopp, and without drop path unless it is said: ``train.batch_size`` and ``encoder.preset`` are given."""

TINY = (
    "encoder.preset=nano",
    "encoder.tokenizer.patch_size=8",
    "views.global_views.size=32",
    "views.local_views.size=16",
    "heads.shared.prototypes=64",
    "heads.shared.hidden=32",
    "heads.shared.bottleneck=16",
)
"""Settings that make it small enough for a rehearsal on a CPU."""


def dinov2(preset: str, batch: int, *overrides: str, tiny: bool = False) -> Recipe:
    """The recipe for an encoder of a preset's shape and a number of samples per step."""
    small = TINY if tiny else (f"encoder.preset={preset}",)
    return config.load(Recipe, DINOV2_16, [*small, f"train.batch_size={batch}", *overrides])


def shipped(name: str, batch: int, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe for a number of samples per step."""
    words = [f"train.batch_size={batch}", "train.accumulate=1", "data.samples_per_epoch=10000", *overrides]
    return config.load(Recipe, paths.recipe(name), words, own=True)
