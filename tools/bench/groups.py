"""``foundation bench groups``: clouds per second of the point tokenizer's search beside the usual CPU code."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

DESCRIPTION = """\
Farthest-point sampling and nearest neighbours, as the point tokenizer does them, beside the same as it is usually
written: batched torch with a matrix of distances (the pure-torch PointNet++), and a loop over clouds in NumPy with
SciPy's tree. All take turns in this process, one thread, on the same random clouds, by processor time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.files import output_file
    from foundation.ranges import Count, Side, argument

    parser.add_argument("--clouds", type=argument(Count), default=32, help="clouds per batch (default: %(default)s)")
    parser.add_argument("--points", type=argument(Side), default=1024, help="points of a cloud (default: %(default)s)")
    parser.add_argument("--groups", type=argument(Count), default=64, help="centres of a cloud (default: %(default)s)")
    parser.add_argument(
        "--neighbours", type=argument(Count), default=32, help="points of a group (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=argument(Count), default=10, help="turns of each (default: %(default)s)")
    parser.add_argument("--json", type=output_file, help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.table import Table

    from foundation.errors import UserError
    from foundation.files import write_output

    least = max(arguments.groups, arguments.neighbours)
    if min(arguments.clouds, arguments.groups, arguments.neighbours, arguments.rounds) < 1 or arguments.points < least:
        raise UserError("--clouds, --groups, --neighbours and --rounds must be at least 1, --points at least as many")
    torch.set_num_threads(1)
    points = torch.randn(arguments.clouds, arguments.points, 3, generator=torch.Generator().manual_seed(0))
    ways = {"foundation": ours, "batched torch, as usual": usual, "loop over clouds, NumPy and SciPy": loop}
    found, seconds = {}, {name: [] for name in ways}
    for turn in range(arguments.rounds + 1):
        for name, way in ways.items():
            begun = time.process_time()
            found[name] = way(points, arguments.groups, arguments.neighbours)
            if turn:  # the first turn warms up
                seconds[name].append(time.process_time() - begun)
    table = Table(title="farthest points and neighbours, clouds per second", title_justify="left")
    for column in ("way", "median", "range", "same groups"):
        table.add_column(column, justify="left" if column == "way" else "right")
    figures = {}
    for name, times in seconds.items():
        rates = sorted(arguments.clouds / value for value in times)
        # As sets: a matrix product orders the nearly equally near otherwise.
        mine, theirs = (found[key][1].sort(dim=-1).values for key in (name, "foundation"))
        same = float((mine == theirs).all(dim=-1).float().mean())
        figures[name] = {"clouds_per_second": statistics.median(rates), "range": [rates[0], rates[-1]], "same": same}
        shown = f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
        table.add_row(name, f"{statistics.median(rates):,.0f}", shown, f"{100 * same:.1f} %")
    Console().print(table)
    if arguments.json:
        about = {"torch": torch.__version__, "threads": 1}
        sizes = {key: getattr(arguments, key) for key in ("clouds", "points", "groups", "neighbours", "rounds")}
        write_output(arguments.json, json.dumps({**about, **sizes, "ways": figures}, indent=1) + "\n")
    return 0


def ours(points, groups, neighbours):  # type: ignore[no-untyped-def]
    from foundation.modalities.points.neighbours import farthest_points, gather_points, nearest_points

    centres = farthest_points(points, groups)
    return centres, nearest_points(points, gather_points(points, centres), neighbours)


def usual(points, groups, neighbours):  # type: ignore[no-untyped-def]
    """Rows of points, one gather of a centre per step, a matrix of squared distances by the product of coordinates."""
    import torch

    rows, count, _ = points.shape
    batch = torch.arange(rows)
    taken = torch.zeros(rows, groups, dtype=torch.int64)
    nearest = torch.full((rows, count), 1e10)
    last = ((points - points.mean(1, keepdim=True)) ** 2).sum(-1).argmax(-1)
    for index in range(groups):
        taken[:, index] = last
        distance = ((points - points[batch, last][:, None]) ** 2).sum(-1)
        nearer = distance < nearest
        nearest[nearer] = distance[nearer]
        last = nearest.argmax(-1)
    centres = points[batch[:, None], taken]
    matrix = -2 * centres @ points.transpose(1, 2) + (centres**2).sum(-1)[:, :, None] + (points**2).sum(-1)[:, None]
    return taken, matrix.topk(neighbours, largest=False).indices


def loop(points, groups, neighbours):  # type: ignore[no-untyped-def]
    import numpy as np
    import torch
    from scipy.spatial import cKDTree

    taken, near = [], []
    for cloud in points.numpy():
        chosen = [int(((cloud - cloud.mean(0)) ** 2).sum(1).argmax())]
        nearest = np.full(len(cloud), np.inf, np.float32)
        while len(chosen) < groups:
            nearest = np.minimum(nearest, ((cloud - cloud[chosen[-1]]) ** 2).sum(1))
            chosen.append(int(nearest.argmax()))
        taken.append(chosen)
        near.append(cKDTree(cloud).query(cloud[chosen], k=neighbours)[1].reshape(groups, neighbours))
    return torch.tensor(taken), torch.from_numpy(np.stack(near))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
