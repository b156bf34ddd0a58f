"""A small run folder as a trainer leaves it, with a real encoder and real shards."""

from __future__ import annotations

import io
import math
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from foundation import config
from foundation.run.metrics import MetricsWriter
from foundation.run.recipe import Recipe
from foundation.zoo.export import write_export

RECIPE = """
name: sample <run> & co
data: {{shards: ["{train}"]}}
views:
  name: image
  global_views: {{count: 2, size: 16, blur: [0.0]}}
  local_views: {{count: 2, size: 8, blur: [0.0]}}
masking: {{probability: 0.5, ratio: [0.1, 0.5]}}
encoder:
  {{name: vit, preset: null, width: 24, depth: 4, heads: 3, size: [16, 16], tokenizer: {{name: image, patch_size: 4}}}}
heads: {{cls: {{prototypes: 16, hidden: 16, bottleneck: 8}}}}
objectives: [{{name: dino}}, {{name: koleo, weight: 0.1}}]
optimizer: {{learning_rate: 1e-3, weight_decay: 0.04}}
train: {{length: 80 steps, batch_size: 8}}
probes: [{{name: knn, every: 20 steps, train: ["{train}"], test: ["{test}"]}}]
"""


def write_shard(path: Path, count: int, seed: int = 0, classes: int = 3, labels: bool = True) -> Path:
    """Small images whose colour is their class."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for index in range(count):
            pixels = generator.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[..., index % classes] += 120
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            members = {"png": stream.getvalue()} | ({"cls": str(index % classes).encode()} if labels else {})
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{index:04d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def write_run(folder: Path, labels: bool = True) -> Path:
    """Recipe, exported teacher and shards; no metrics and no probes yet."""
    train = write_shard(folder / "shards" / "train-000000.tar", 45, labels=labels)
    test = write_shard(folder / "shards" / "test-000000.tar", 24, seed=1, labels=labels)
    recipe = config.load(Recipe, RECIPE.format(train=train, test=test), name="sample")
    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(config.dump(recipe))
    (run / "export").mkdir()
    torch.manual_seed(0)
    write_export(run / "export" / "teacher.safetensors", recipe.encoder.build().state_dict(), recipe, "teacher", 80)
    return run


def write_metrics(run: Path) -> None:
    """Lines as the trainer writes them, one of them not finite, and a last one cut short."""
    writer = MetricsWriter(run)
    for step in range(1, 81):
        loss = 3 + math.exp(-step / 20) + 0.05 * math.sin(9 * step)
        values = {
            "loss": loss if step != 40 else math.nan,
            "loss/dino": loss - 0.2,
            "loss/koleo": 0.2,
            "dino/entropy": 2.0 - 0.01 * step,
            "dino/kl": 0.5,
            "dino/prototypes": 0.7,
            "gradient/norm": 1 + 1 / step,
            "schedule/learning_rate": 1e-3 * (1 - step / 80),
            "schedule/teacher_momentum": 0.99,
            "throughput/samples_per_second": 50.0 + step,
            "data/wait_fraction": 0.1,
            "epoch": step * 8 / 45,
        }
        writer.write(step, values)
        if step % 20 == 0:
            writer.write(step, {"probe/knn_top1": 0.3 + step / 200, "probe/knn_top5": 0.9})
    writer.close()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 81, "lo')
