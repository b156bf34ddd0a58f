"""``foundation knn``: score a frozen encoder by its nearest neighbours."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

DESCRIPTION = "Score a frozen encoder by weighted k-nearest-neighbour classification (cosine, temperature 0.07)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation import probe_options as options
    from foundation.ranges import Count, Temperature, argument

    options.add_arguments(parser)
    options.add_pieces(parser)
    parser.add_argument("--k", nargs="+", type=argument(Count), help="numbers of neighbours (default: 10 20 100 200)")
    options.add_tokens(parser)
    options.add_treatments(parser)
    parser.add_argument(
        "--temperature", type=argument(Temperature), default=0.07, help="of the votes (default: %(default)s)"
    )
    parser.add_argument(
        "--per-class", type=argument(Count), metavar="N", help="few-shot: keep N random training samples of each class"
    )


def run(arguments: argparse.Namespace) -> int:
    import torch

    from foundation import probe_command as command
    from foundation import probe_options as options
    from foundation.errors import UserError
    from foundation.probes import knn, neighbours, table
    from foundation.probes.labels import class_names
    from foundation.probes.road import open_limited
    from foundation.probes.treatments import treated
    from foundation.voice import to_stderr, to_stdout

    begun = time.time()
    if arguments.temperature <= 0:
        raise UserError(f"--temperature must be above 0, got {arguments.temperature}")
    job = command.prepare(arguments, needs_test=False)
    alone = not job.test
    if arguments.per_class is not None and (alone or arguments.per_class < 1):
        raise UserError("--per-class needs --test shards and at least 1 sample of each class")
    shards = open_limited(job.train, arguments.limit)
    knn.choose_k(arguments.k, neighbours.neighbours_of(shards.num_samples, alone))
    rows: list[dict[str, Any]] = []
    looked: dict[str, Any] = {}
    confusion: dict[str, Any] = {}
    ks: tuple[int, ...] = ()
    for candidate in job.candidates(simple=True):
        bank, queries = job.splits(candidate)
        if candidate.name == "model":
            looked = job.look(bank, queries, arguments.tokens)
        if arguments.per_class is not None:
            bank = bank.take(knn.few_shot(bank.labels, arguments.per_class, arguments.seed))
        groups = bank.groups if alone and len(bank.groups) else None
        ks, note = knn.choose_k(arguments.k, neighbours.neighbours_of(len(bank), alone, groups))
        if note and candidate.name == "model":
            to_stderr(note)
        for treatment in options.treatments(arguments):
            patches = arguments.tokens != "cls"
            known, asked = treated(treatment, bank, queries, blocks=1, patches=patches)
            near = knn.search(
                knn.vectors(known, arguments.tokens),
                knn.vectors(asked, arguments.tokens),
                max(ks),
                leave_one_out=alone,
                groups=groups,
                device=job.device,
                what=f"{candidate.name}, {treatment}: search",
            )
            found = knn.classify(
                near, bank.labels, queries.labels, ks, temperature=arguments.temperature, groups=queries.groups
            )
            for k, accuracy in found.items():
                result = {"k": k, "n": len(queries), "top1": accuracy.top1, "balanced": accuracy.balanced}
                if accuracy.top5 is not None:
                    result["top5"] = accuracy.top5
                row = {"name": candidate.name, "features": candidate.label, "treatment": treatment, **result}
                rows.append(row | {"interval": accuracy.interval})
                if candidate.name == "model" and accuracy.top1 > confusion.get("top1", -1):
                    confusion = {"k": k, "treatment": treatment, "top1": accuracy.top1, "counts": None, "classes": None}
                    classes = len(bank.classes)
                    if classes <= 200:
                        pairs = torch.bincount(queries.labels * classes + accuracy.predictions, minlength=classes**2)
                        confusion |= {"counts": pairs.reshape(classes, classes).tolist(), "classes": list(bank.classes)}
                        confusion["names"] = list(class_names(bank.classes, shards.classes))
    content = {
        "metric": "top1",
        **looked,
        "settings": {
            "k": list(ks),
            "temperature": arguments.temperature,
            "per_class": arguments.per_class,
            "tokens": arguments.tokens,
            "treatments": list(options.treatments(arguments)),
            "group": arguments.group,
            "limit": arguments.limit,
            "pieces": arguments.pieces,
            "baselines": arguments.baselines,
        },
        "results": rows,
        "confusion": confusion,
    }
    written = command.save(job, "knn", content, begun)
    title = f"kNN, {'leave one out' if alone else 'train to test'}"
    chosen = f"k = {ks[0]}." if len(ks) == 1 else f"Each figure at the best k of {', '.join(map(str, ks))}."
    table.show(title, job.loaded.description, rows, chosen, looked["data"])
    to_stdout(written)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
