"""``foundation knn``: score a frozen encoder by its nearest neighbours."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

DESCRIPTION = "Score a frozen encoder by weighted k-nearest-neighbour classification (cosine, temperature 0.07)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.probes import command
    from foundation.ranges import Count, Temperature, argument

    command.add_arguments(parser)
    parser.add_argument("--k", nargs="+", type=argument(Count), help="numbers of neighbours (default: 10 20 100 200)")
    command.add_tokens(parser)
    parser.add_argument(
        "--temperature", type=argument(Temperature), default=0.07, help="of the votes (default: %(default)s)"
    )
    parser.add_argument(
        "--per-class", type=argument(Count), metavar="N", help="few-shot: keep N random training samples of each class"
    )


def run(arguments: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.errors import UserError
    from foundation.probes import command, knn
    from foundation.voice import to_stderr, to_stdout

    begun = time.time()
    if arguments.temperature <= 0:
        raise UserError(f"--temperature must be above 0, got {arguments.temperature}")
    job = command.prepare(arguments, needs_test=False)
    alone = not job.test
    table = Table(title=f"kNN, {'leave one out' if alone else 'train to test'}")
    for name in ("features", "k", "top-1 %", "95 %", "top-5 %"):
        table.add_column(name, justify="left" if name == "features" else "right")
    rows, confusion, data, ks, best_k, names = [], None, {}, (), 0, ()
    for candidate in job.candidates(simple=True):
        bank, queries = job.splits(candidate)
        if arguments.per_class is not None:
            if alone or arguments.per_class < 1:
                raise UserError("--per-class needs --test shards and at least 1 sample of each class")
            bank = bank.take(knn.few_shot(bank.labels, arguments.per_class, arguments.seed))
        ks, note = knn.choose_k(arguments.k, len(bank) - alone)
        near = knn.search(
            knn.vectors(bank, arguments.tokens),
            knn.vectors(queries, arguments.tokens),
            max(ks),
            leave_one_out=alone,
            device=job.device,
            what=f"{candidate.name}: search",
        )
        found = knn.classify(
            near, bank.labels, queries.labels, ks, temperature=arguments.temperature, seed=arguments.seed
        )
        best = max(found.values(), key=lambda accuracy: accuracy.top1)
        if candidate.name == "model":
            command.report_skipped(bank, "train")
            command.report_skipped(queries, "test")
            if note:
                to_stderr(note)
            data = {"train": command.describe_data(job.train, bank)}
            data["test"] = "leave one out" if alone else command.describe_data(job.test, queries)
            names, classes, best_k = bank.classes, len(bank.classes), best.k
            if classes <= 200:
                pairs = queries.labels * classes + best.predictions
                confusion = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
        for k, accuracy in found.items():
            result = {"top1": accuracy.top1, "top5": accuracy.top5, "interval": list(accuracy.interval)}
            rows.append({"name": candidate.name, "features": candidate.label, "k": k, "n": len(queries), **result})
            mark = "bold" if accuracy is best else None
            cells = (command.percent(accuracy.top1), command.span(accuracy.interval), command.percent(accuracy.top5))
            table.add_row(candidate.label, str(k), *cells, style=mark)
        table.add_section()
    content = {
        "metric": "top1",
        "data": data,
        "settings": {
            "k": list(ks),
            "temperature": arguments.temperature,
            "per_class": arguments.per_class,
            "tokens": arguments.tokens,
            "limit": arguments.limit,
            "baselines": arguments.baselines,
        },
        "results": rows,
        "confusion": {"k": best_k, "counts": confusion, "classes": list(names) if confusion else None},
    }
    path = command.save(job, "knn", content, begun)
    Console().print(table)
    to_stdout(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
