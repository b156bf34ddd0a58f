"""``foundation bench neighbours``: exact nearest neighbours, against faiss (flat) and scikit-learn (brute force)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Exact search of the k nearest by cosine, as foundation knn does it, against faiss-cpu's IndexFlatIP and scikit-learn's
brute force: seconds and peak memory, each in a process of its own, one after the other in one run, and the share of
neighbours that faiss finds too. Data are random unit vectors. With several --rounds the searches take turns."""

METHODS = ("foundation", "faiss", "sklearn")
QUERIES, BANK, WIDTH = 100_000, 1_000_000, 384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, PositiveShare, Seed, argument

    parser.add_argument(
        "--scale", type=argument(PositiveShare), default=0.01,
        help=f"share of {QUERIES:,} queries and of {BANK:,} rows (default: %(default)s; 1 takes half an hour)",
    )  # fmt: skip
    parser.add_argument("--k", type=argument(Count), default=20, help="neighbours (default: %(default)s)")
    parser.add_argument("--threads", type=argument(Count), default=2, help="of each search (default: %(default)s)")
    parser.add_argument("--rounds", type=argument(Count), default=1, help="searches of each (default: %(default)s)")
    parser.add_argument("--seed", type=argument(Seed), default=0, help="of the vectors (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which (default: all)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the figures there")
    parser.add_argument("--search", choices=METHODS, help=argparse.SUPPRESS)  # one search, in this process
    parser.add_argument("--neighbours", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    import tempfile

    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from foundation.errors import FoundationError
    from foundation.files import write_output
    from foundation.parallel.placement import processor
    from foundation.voice import to_stderr, to_stdout

    if arguments.search:
        print(json.dumps(_search(arguments)))
        return 0
    sizes = _sizes(arguments.scale)
    rounds: dict[str, list[dict[str, Any]]] = {method: [] for method in arguments.methods}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for method in arguments.methods:
                to_stderr(f"{method}, round {number + 1} of {arguments.rounds}")
                words = ["--scale", str(arguments.scale), "--k", str(arguments.k), "--threads", str(arguments.threads)]
                words += ["--seed", str(arguments.seed), "--search", method, "--neighbours", f"{folder}/{method}.npy"]
                threads = {
                    name: str(arguments.threads)
                    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
                }
                done = subprocess.run(
                    [sys.executable, __file__, *words], capture_output=True, text=True, env={**os.environ, **threads}
                )
                if done.returncode:
                    raise FoundationError(f"the search by {method} failed:\n{done.stderr[-2000:]}")
                rounds[method].append(json.loads(done.stdout.splitlines()[-1]))
        found = {method: np.load(f"{folder}/{method}.npy") for method in arguments.methods}
    reference = found.get("faiss", found[arguments.methods[0]])
    rows = []
    for method, of in rounds.items():
        best = min(of, key=lambda one: one["seconds"])
        recall = float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found[method], reference, strict=True)]))
        rows.append({"method": method, **best, "recall": recall / arguments.k, "rounds": len(of)})
    queries, bank = sizes
    title = f"{queries:,} queries x {bank:,} rows x {WIDTH}, k = {arguments.k}, {arguments.threads} threads"
    table = Table(title=title)
    for name in ("search", "seconds", "processor s", "peak MB", "without libraries MB", "recall"):
        table.add_column(name, justify="left" if name == "search" else "right")
    for row in rows:
        memory = f"{row['peak'] / 1e6:,.0f}", f"{(row['peak'] - row['before']) / 1e6:,.0f}"
        seconds = f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}"
        table.add_row(row["method"], *seconds, *memory, f"{row['recall']:.6f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    to_stdout(processor())
    if arguments.json is not None:
        content = {"queries": queries, "bank": bank, "width": WIDTH, "k": arguments.k, "threads": arguments.threads,
                   "seed": arguments.seed, "machine": processor(), "rows": rows}  # fmt: skip
        write_output(arguments.json, json.dumps(content, indent=1) + "\n")
    return 0


def _sizes(scale: float) -> tuple[int, int]:
    return max(64, round(QUERIES * scale)), max(256, round(BANK * scale))


def _search(arguments: argparse.Namespace) -> dict[str, Any]:
    """One search: seconds, processor seconds, peak of memory, and memory before the vectors were made."""
    import numpy as np

    from foundation.measure.memory import peak_of_process

    if arguments.search == "foundation":
        import torch

        from foundation.probes import knn

        torch.set_num_threads(arguments.threads)
    elif arguments.search == "faiss":
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
    else:
        from sklearn.neighbors import NearestNeighbors
    before = peak_of_process()
    bank, queries = _vectors(arguments.scale, arguments.seed)
    k = arguments.k
    begun, worked = time.perf_counter(), time.process_time()
    if arguments.search == "foundation":
        places = knn.search(torch.from_numpy(bank), torch.from_numpy(queries), k).indices.numpy()
    elif arguments.search == "faiss":
        index = faiss.IndexFlatIP(WIDTH)
        index.add(bank)
        _, places = index.search(queries, k)
    else:
        searcher = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="euclidean", n_jobs=arguments.threads)
        places = searcher.fit(bank).kneighbors(queries, return_distance=False)
    spent = {"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - worked}
    np.save(arguments.neighbours, np.asarray(places, dtype=np.int64))
    return {**spent, "peak": peak_of_process(), "before": before}


def _vectors(scale: float, seed: int) -> tuple[Any, Any]:
    """Bank and queries of length 1, float32; made in blocks, so that making them is not what takes the memory."""
    import numpy as np

    generator = np.random.default_rng(seed)
    queries, bank = _sizes(scale)
    found = []
    for count in (bank, queries):
        whole = np.empty((count, WIDTH), np.float32)
        for start in range(0, count, 16_384):
            part = whole[start : start + 16_384]
            generator.standard_normal(part.shape, np.float32, part)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        found.append(whole)
    return found[0], found[1]


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
