"""What a small variant of a recipe must do in a few steps on real data: lower its loss and beat its untrained self."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from foundation.cli import main
from foundation.encoders.elastic import SubNetwork, stand_alone
from foundation.probes import knn
from foundation.zoo.load import load_encoder


def learns(
    recipe: str,
    data: Path,
    folder: Path,
    *settings: str,
    sizes: tuple[SubNetwork, ...] = (),
    loss: str = "loss",
    fall: float = 0.02,
    limit: int = 600,
) -> dict[str, tuple[float, float]]:
    """Train a recipe and measure what it has learnt; an assertion where it has learnt nothing.

    Args:
        recipe: its name.
        data: folder with ``train-*.tar`` and labelled ``test-*.tar``.
        folder: new, for the run.
        settings: that make the run short.
        sizes: sub-networks to measure beside the whole encoder.
        loss: key in the metrics.
        fall: share that the mean of the loss must have lost from the first fifth of the steps to the last.
        limit: samples that vote, and samples that are classified.

    Returns:
        kNN accuracy (leave nothing out: training shards vote on test shards), trained and untrained, for ``whole`` and
        each size.
    """
    words = [f"data.shards=['{data}/train-*.tar']", "data.workers=0", "train.log_every=1", *settings]
    assert main(["pretrain", recipe, *words, "--run", str(folder)]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line[loss] for line in lines if loss in line]
    part = max(1, len(losses) // 5)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    assert last < (1 - fall) * first, f"{loss} went from {first:.4f} to {last:.4f}"
    loaded = load_encoder(folder)
    probe = knn.Config(train=(f"{data}/train-*.tar",), test=(f"{data}/test-*.tar",), k=10, limit=limit)
    where = {"modality": loaded.modality, "evaluation": loaded.evaluation}
    found: dict[str, tuple[float, float]] = {}
    for size in (None, *sizes):
        trained = loaded.encoder if size is None else stand_alone(loaded.encoder, size)
        untrained = replace(loaded, config=trained.config).untrained()
        scores = [probe.measure(encoder, **where)["probe/knn_top1"] for encoder in (trained, untrained)]
        found["whole" if size is None else str(size)] = (scores[0], scores[1])
    worse = {name: scores for name, scores in found.items() if scores[0] <= scores[1]}
    assert not worse, f"kNN trained, untrained: {worse}"
    return found
