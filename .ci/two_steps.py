"""Two optimiser steps of every shipped recipe, or a dry run of those that are too large for a small machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from foundation.paths import recipes

TOO_LARGE = ("dinov2-vitl14",)
SHARDS = Path("smoke/digits")
SETTINGS = (
    f"data.shards=['{SHARDS}/train-*.tar']",
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
    print(
        f"foundation {' '.join(words)}\n  exit code {done.returncode}, {time.perf_counter() - begun:.0f} s", flush=True
    )
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-5000:], sep="\n", flush=True)
    return done.returncode


def main() -> int:
    """Run all recipes and return 1 if one of them failed."""
    failures = foundation("data", "build", "digits", str(SHARDS)) != 0
    for name, file in recipes().items():
        large = "samples_per_epoch" in file.read_text(encoding="utf-8")  # says all that a plan needs, without its data
        failures += foundation("pretrain", name, "--dry-run", *(() if large else SETTINGS[:1])) != 0
        if name not in TOO_LARGE:
            failures += foundation("pretrain", name, *SETTINGS, "--run", f"smoke/{name}") != 0
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
