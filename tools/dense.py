"""``foundation dense``: features of every point of some samples, as shards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = (
    "Write the features of every point of some samples, for segmentation, parts or matching: shards whose samples hold "
    "points.npy [P, 3], features.npy [P, D] (float16) and, where known, cls."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option

    add_option(parser)
    from foundation.probe_options import MODEL_HELP
    from foundation.ranges import Count, Depth, Side, argument

    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards")
    parser.add_argument("--shards", nargs="+", required=True, metavar="SHARDS", help="samples to look at")
    parser.add_argument("--split", default="dense", help="name of the shards written (default: %(default)s)")
    parser.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    parser.add_argument(
        "--blocks", type=argument(Depth), default=1, help="last blocks, side by side (default: %(default)s)"
    )
    parser.add_argument("--size", type=argument(Side), help="size of the evaluation view; default: the model's")
    parser.add_argument("--limit", type=argument(Count), metavar="N", help="at most N samples, spread evenly")
    parser.add_argument(
        "--batch-size", type=argument(Side), default=16, help="samples per forward pass (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace shards of this split that exist")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses

    from foundation.data.write import write_shards
    from foundation.errors import SampleError, UserError
    from foundation.modalities.parts import evaluation_config
    from foundation.printable import printable
    from foundation.probe_command import usable_device
    from foundation.probes.dense import dense_features
    from foundation.voice import plural, to_stdout
    from foundation.zoo.load import load_encoder

    for name in ("batch_size", "limit", "blocks"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    device = usable_device(arguments.device)
    loaded = load_encoder(arguments.model, device, arguments.branch)
    evaluation = evaluation_config(loaded.modality, loaded.evaluation, arguments.size)
    loaded = dataclasses.replace(loaded, evaluation=evaluation)
    bad: list[SampleError] = []
    samples = dense_features(
        loaded,
        arguments.shards,
        blocks=arguments.blocks,
        batch_size=arguments.batch_size,
        limit=arguments.limit,
        device=device,
        bad=bad,
    )
    about = {"features_of": loaded.description, "blocks": arguments.blocks}
    entries = write_shards(samples, arguments.out, arguments.split, overwrite=arguments.overwrite, about=about)
    if bad:
        print(f"{plural(len(bad), 'unreadable sample')} left out, the first: {printable(bad[0])}", file=sys.stderr)
    count = sum(entry.samples for entry in entries)
    counted = f"{plural(count, 'sample')} in {plural(len(entries), 'shard')}"
    to_stdout(f"written: {counted}, {arguments.out}/{arguments.split}-*.tar")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
