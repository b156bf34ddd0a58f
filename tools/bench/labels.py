"""``foundation bench labels``: what few labels are worth to a pretrained encoder, against training with them alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from foundation.probes.features import FeatureSet
    from foundation.zoo.load import LoadedEncoder

DESCRIPTION = """\
Accuracy with few labels, mean over several draws of so many training samples of each class: nearest neighbour, linear
and RBF support vector machine (cost by cross-validation where classes have two samples) on the frozen features of each
model and on simple features of the modality; and the same encoder trained from scratch with these labels alone
(cross-entropy, AdamW, cosine schedule, augmented views, the better of two learning rates on the test split)."""
RATES = (3e-4, 1e-3)
"""Learning rates of the training from scratch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option
    from foundation.ranges import Count, CountOrNone, argument

    add_option(parser)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="run folders or exported .safetensors")
    parser.add_argument("--train", nargs="+", required=True, metavar="SHARDS", help="labelled shards to draw from")
    parser.add_argument("--test", nargs="+", required=True, metavar="SHARDS", help="labelled shards to score")
    parser.add_argument(
        "--per-class", type=argument(Count), nargs="+", default=[2], metavar="N", help="labels of a class (default: 2)"
    )
    parser.add_argument("--draws", type=argument(Count), default=5, help="of the labels (default: %(default)s)")
    parser.add_argument(
        "--scratch-steps",
        type=argument(CountOrNone),
        default=0,
        metavar="N",
        help="steps from scratch for each draw and learning rate; 0: none",
    )
    parser.add_argument("--scratch-draws", type=argument(Count), default=1, help="of these (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from foundation.modalities.parts import simple_features
    from foundation.probes.knn import few_shot
    from foundation.probes.labels import number_classes
    from foundation.probes.road import features_of_shards
    from foundation.probes.simple_encoders import SimpleEncoder
    from foundation.voice import to_stdout
    from foundation.zoo.load import load_encoder

    torch.set_num_threads(1)

    def features(encoder: Any, loaded: LoadedEncoder) -> list[FeatureSet]:
        sets = [
            features_of_shards(encoder, patterns, modality=loaded.modality, evaluation=loaded.evaluation).labelled()
            for patterns in (arguments.train, arguments.test)
        ]
        return list(number_classes(*sets))

    loaded = [load_encoder(name) for name in arguments.models]
    encoders = [(f"{one.description}", one.encoder, one) for one in loaded]
    first = loaded[0]
    kinds = {one.own[0]: one for one in reversed(loaded)}  # the first model of each modality
    for modality, one in reversed(kinds.items()):
        of = f", {modality}" if len(kinds) > 1 else ""
        encoders.append((f"untrained{of}", one.untrained(), one))
        for label, function in simple_features(*one.own).items():
            encoders.append((f"{label}{of}", SimpleEncoder(function), one))
    rows: list[tuple[str, ...]] = []
    for label, encoder, one in encoders:
        train, test = features(encoder, one)
        for count in arguments.per_class:
            draws = [few_shot(train.labels, count, seed) for seed in range(arguments.draws)]
            found = [_scores(train.take(rows), test) for rows in draws]
            means = [100 * sum(values) / len(values) for values in zip(*found, strict=True)]
            rows.append((label, f"{count} ({len(draws[0])})", *(f"{value:.1f}" for value in means)))
    head = ("accuracy in %", "labels a class (in all)", "kNN", "linear SVM", "RBF SVM")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        to_stdout("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
    if arguments.scratch_steps:
        train, test = features(encoders[0][1], first)
        for count in arguments.per_class:
            for rate in RATES:
                scores = [
                    _from_scratch(first, arguments, few_shot(train.labels, count, seed), train, test, rate, seed)
                    for seed in range(arguments.scratch_draws)
                ]
                mean, each = 100 * sum(scores) / len(scores), ", ".join(f"{100 * one:.1f}" for one in scores)
                of = f", {first.own[0]}" if len(kinds) > 1 else ""
                to_stdout(f"{count} labels a class: from scratch{of}, learning rate {rate:g}: {mean:.1f} % ({each})")
    return 0


def _scores(train: FeatureSet, test: FeatureSet) -> Sequence[float]:
    """Accuracy of the nearest neighbour (the best of one and five) and of both classifiers."""
    import torch

    from foundation.probes import knn, svm
    from foundation.probes.treatments import treated

    best = 0.0
    for treatment in ("as is", "standardised"):
        bank, queries = treated(treatment, train, test, blocks=1)
        near = knn.search(knn.vectors(bank, "cls"), knn.vectors(queries, "cls"), min(5, len(bank)))
        results = knn.classify(near, bank.labels, queries.labels, [k for k in (1, 5) if k <= len(bank)])
        best = max(best, *(one.top1 for one in results.values()))
    fewest = int(torch.bincount(train.labels).min())
    several = None if fewest >= 2 else (10.0,)
    settings = svm.Settings(kernel="rbf", costs=several, treatment="standardised")
    linear = svm.Settings(costs=(1.0,), treatment="standardised")
    return best, svm.fit(train, test, linear).top1, svm.fit(train, test, settings).top1


def _from_scratch(
    loaded: LoadedEncoder, arguments: Any, rows: Tensor, train: FeatureSet, test: FeatureSet, rate: float, seed: int
) -> float:
    """Test accuracy of the encoder trained with the labels of ``rows`` alone."""
    import math

    import numpy as np
    import torch

    from foundation.counter import Draws
    from foundation.data.shards import open_shards
    from foundation.data.stream import iterate_samples
    from foundation.modalities.parts import decoder, views_for_probe

    modality, evaluation = loaded.own
    decode = decoder(loaded.modality, loaded.evaluation)
    chosen = {train.keys[row]: int(train.labels[row]) for row in rows.tolist()}
    samples = [s for s in iterate_samples(open_shards(arguments.train), decode) if s["__key__"] in chosen]
    tests = list(iterate_samples(open_shards(arguments.test), decode))
    views, one = views_for_probe(modality, evaluation).build(), evaluation.build()
    generator = torch.Generator().manual_seed(seed)
    encoder = loaded.untrained(seed).requires_grad_(True).train()
    torch.manual_seed(seed)
    head = torch.nn.Linear(int(encoder.width), int(train.labels.max()) + 1)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    size, steps = min(32, len(samples)), arguments.scratch_steps
    for step in range(steps):
        share = step / steps
        factor = min(1.0, share / 0.1) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        batch = [samples[i] for i in torch.randperm(len(samples), generator=generator)[:size].tolist()]
        ids = np.array([sample["__id__"] for sample in batch], dtype=np.int64)
        seen = views.finish(views.prepare(batch, Draws(seed, np.full_like(ids, step), ids)))
        (view,) = [view for view in seen.values() if len(view.data)]
        wanted = torch.tensor([chosen[sample["__key__"]] for sample in batch])
        loss = torch.nn.functional.cross_entropy(head(encoder([view.data])[0].cls), wanted, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        predicted = head(encoder.eval()([one(tests)])[0].cls).argmax(dim=1)
    return float((predicted == test.labels).float().mean())


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
