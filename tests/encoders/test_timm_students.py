"""Backbones of timm as students: they lower their loss on real pictures, whatever their family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foundation import config
from foundation.run.recipe import Recipe

pytestmark = pytest.mark.usefixtures("timm_itself")

RECIPE = """
name: student
data: {{shards: ["{shards}/train-000000.tar"], workers: 0, samples_per_epoch: 256}}
views:
  name: image
  global_views: {{count: 2, size: 32, scale: [0.3, 1.0], blur: [0.0], solarise: [0.0]}}
  local_views: {{count: 2, size: {local}, scale: [0.1, 0.3], blur: [0.0], solarise: [0.0]}}
{masking}
encoder: {{name: timm, model: {model}, size: [32, 32], drop_path: 0.1, arguments: {arguments}}}
heads:
  cls: {{prototypes: 64, hidden: 64, bottleneck: 32, layers: 2}}
objectives:
  - {{name: dino, head: cls, target: sinkhorn, teacher_temperature: 0.04}}
{patches}
branches: {{teacher: {{name: ema, momentum: 0.9}}}}
optimizer: {{learning_rate: 2e-3, scaling: none, weight_decay: 0.05, freeze_last_layer: 0 steps, layer_decay: 0.9,
  patch_embed_multiplier: 0.5}}
train: {{length: {steps} steps, batch_size: 16, log_every: 1, precision: float32, device: cpu}}
checkpoints: {{every: 1000 steps}}
"""
MASKING = "masking: {probability: 0.5, ratio: [0.2, 0.5], kind: block, min_patches: 1}"
IBOT = "  - {name: ibot, head: cls, target: sinkhorn, teacher_temperature: 0.04}"
SWIN = "{patch_size: 2, embed_dim: 24, depths: [1, 1, 1], num_heads: [1, 2, 4], window_size: 4}"
STUDENTS = {
    "vit": ("vit_tiny_patch16_224", "{patch_size: 8, embed_dim: 64, depth: 2, num_heads: 4}", True),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, True),
    "resnet": ("test_resnet", "{}", False),
    "convnext": ("convnext_atto", "{depths: [1, 1, 2, 1], dims: [16, 32, 48, 64]}", False),
}


def recipe(family: str, shards: Path, steps: int = 24) -> Recipe:
    model, arguments, hides = STUDENTS[family]
    local = 32 if family == "convnext" else 16  # its stride is 32, and it rounds down
    parts = {"masking": MASKING if hides else "", "patches": IBOT if hides else ""}
    text = RECIPE.format(shards=shards, model=model, arguments=arguments, steps=steps, local=local, **parts)
    return config.load(Recipe, text, ())


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.slow) if name in ("swin", "convnext") else name for name in STUDENTS],
)
def test_a_student_lowers_its_loss_on_real_pictures(family, shared_data, train, metrics, tmp_path):
    asked = recipe(family, shared_data("cifar10"))
    trained = train(asked, tmp_path / "run").learner.named_branches["student"].encoder
    losses = torch.tensor([line["loss"] for line in metrics(tmp_path / "run")])
    assert losses[-6:].mean() < losses[:6].mean() - 0.3
    torch.manual_seed(asked.seed)
    first = dict(asked.encoder.build().named_parameters())
    still = {name for name, parameter in trained.named_parameters() if torch.equal(parameter, first[name])}
    assert still == set(), "every parameter of the encoder has learnt, the mask token of those that hide included"


@pytest.mark.slow
def test_swin_fills_in_what_is_hidden(shared_data, train, metrics, tmp_path):
    """SimMIM (Xie et al. 2022): a mask token, and the pixels under it from one linear layer."""
    asked = config.load(
        Recipe,
        RECIPE.format(
            shards=shared_data("cifar10"), model=STUDENTS["swin"][0], arguments=SWIN, steps=30, local=16,
            masking="masking: {probability: 1.0, ratio: [0.5, 0.5], kind: random}", patches="",
        ),
        ("objectives=[{name: reconstruction, distance: l1}]", "branches={}", "heads={}"),
    )  # fmt: skip
    train(asked, tmp_path / "run")
    losses = torch.tensor([line["loss"] for line in metrics(tmp_path / "run")])
    assert losses[-8:].mean() < 0.9 * losses[:8].mean()
