"""Two optimiser steps of every shipped recipe, or a dry run of those that are too large for a small machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from foundation.paths import recipes

TOO_LARGE = (
    "dinov2-reg", "dinov2-vitl14", "dinov3-gram", "discovr", "g2sd-vits", "gpfm", "ph-reg", "poa-resnet", "poa-swin",
    "poa-vitb", "poa-vitl", "video-dino-ibot", "vjepa2",
)  # fmt: skip
EXPERTS = {"gpfm": ("uni", "conch", "phikon"), "cifar10-gpfm-nano": ("dino", "mae")}
"""Branches by recipe whose weights are the user's to bring; timm's smallest ViT, 64 wide, stands in for them."""
SHARDS = Path("smoke/shards")
DATA_SETS = {
    "image": ("digits", "--copies", "1"),
    "audio": ("calls", "--train", "48", "--test", "12"),
    "points": ("wires", "--train", "48", "--test", "12", "--points", "2048"),
    "video": ("camera_moves", "--train", "48", "--test", "12"),
    "imu": ("motions", "--train", "80", "--test", "16"),
    "paired": ("synthetic", "--train", "16", "--test", "8"),
    "sounding": ("singing_balls", "--train", "16", "--test", "6"),
}
"""By modality: a data set that needs no download, and the words that make it small."""
OF_FRAMES = ("branches.teacher.weights='timm:test_vit,random'", "branches.teacher.frames=mean")
"""In the place of a teacher that has to be trained or fetched first: a tiny one of random weights."""
MORE = {
    "audio-visual": (*OF_FRAMES, "objectives.0.queue=8", "views.members.audio.decode={}"),
    "audio-visual-nano": (*OF_FRAMES, "objectives.0.queue=8"),
    "comodo": (*OF_FRAMES, "objectives.0.queue=8"),
    "comodo-infonce": OF_FRAMES,
    "comodo-l2": OF_FRAMES,
    "dcglr": ("objectives.1.queue=8",),
    "shapes16-dcglr-nano": ("objectives.1.queue=8",),
    "utd-comodo-infonce-nano": (*OF_FRAMES, "views.members.imu.decode={}"),
    "utd-comodo-l2-nano": (*OF_FRAMES, "views.members.imu.decode={}"),
    "utd-comodo-nano": (*OF_FRAMES, "objectives.0.queue=8", "views.members.imu.decode={}"),
}
"""Further settings of single recipes."""
DATA = {"audio-visual": "sounding", "audio-visual-nano": "sounding"}
"""Recipes that need another data set than their modality's."""
SETTINGS = (
    "data.samples_per_epoch=null",
    "data.workers=0",
    "train.batch_size=4",
    "train.accumulate=1",
    "train.stop_after=2 steps",
    "probes=[]",
)


def foundation(*words: str) -> int:
    """Run a command, show it and how long it took; show its output when it fails."""
    begun = time.perf_counter()
    done = subprocess.run(["foundation", *words], capture_output=True, text=True, timeout=900)
    lines = [f"foundation {' '.join(words)}", f"  exit code {done.returncode}, {time.perf_counter() - begun:.0f} s"]
    if done.returncode:
        lines += [done.stdout[-3000:], done.stderr[-5000:]]
    print("\n".join(lines), flush=True)
    return done.returncode


def build(modality: str) -> int:
    """Make the shards of a modality."""
    name, *words = DATA_SETS[modality]
    return foundation("data", "build", name, str(SHARDS / modality), *words)


def train(name: str) -> int:
    """Two steps of a recipe, or its dry run; the plans of all recipes are made by tests."""
    text = recipes()[name].read_text(encoding="utf-8")
    experts = [f"branches.{expert}.weights='timm:test_vit,random'" for expert in EXPERTS.get(name, ())]
    if name in TOO_LARGE:
        heads = [f"heads.{expert}.prototypes=64" for expert in EXPERTS.get(name, ())]
        return foundation("pretrain", name, *experts, *heads, "--dry-run")
    data = DATA.get(name) or yaml.safe_load(text)["views"]["name"]
    shards = f"data.shards=['{SHARDS / data}/train-*.tar']"
    run = Path("smoke", name)
    code = foundation("pretrain", name, shards, *experts, *SETTINGS, *MORE.get(name, ()), "--run", str(run))
    if code == 0:
        shutil.rmtree(run)  # all together they are large
    return code


def main() -> int:
    """Run all recipes and return 1 if one of them failed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # two at a time
    with ThreadPoolExecutor(2) as pool:
        codes = [*pool.map(build, DATA_SETS), *pool.map(train, recipes())]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
