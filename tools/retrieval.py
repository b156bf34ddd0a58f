"""``foundation retrieval``: how well two sensors of one sample find each other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.errors import SampleError

DESCRIPTION = """\
Retrieval across the two views that a run compares, such as those of a wrist sensor and of a video: of all samples, is
the sample's own the one whose embedding is most alike? R@1, R@5 and R@10 both ways, on the embeddings of the first
objective that compares two branches, of evaluation views; where samples have labels, also how often the nearest is of
the same class."""
EXAMPLES = """\
examples:
  foundation retrieval runs/comodo "data/pairs/test-*.tar"
  foundation retrieval runs/comodo/checkpoints/step-00000300 "data/pairs/test-*.tar" --json r.json
during training, in the recipe:
  jobs: [{name: retrieval, every: 10 epochs, shards: ["data/pairs/test-*.tar"]}]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option
    from foundation.ranges import Count, Side, argument

    add_option(parser)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder or checkpoint folder")
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="samples to find each other among")
    parser.add_argument("--limit", type=argument(Count), metavar="N", help="at most N samples, spread evenly")
    parser.add_argument("--batch-size", type=argument(Side), default=64, help="samples per pass (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw some samples and the nearest to each")
    parser.add_argument(
        "--draw",
        nargs=2,
        metavar=("ONE", "OTHER"),
        help="modalities that the picture shows of samples and of the nearest (default: those of the views; a cached "
        "teacher has none of its own)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")


def run(arguments: argparse.Namespace) -> int:
    from foundation.data.shards import open_shards
    from foundation.files import replace_json
    from foundation.jobs.retrieval import caution, embedded, pair_of, recalls_of, said_of
    from foundation.printable import printable
    from foundation.probe_command import usable_device
    from foundation.report.nearest import draw_nearest, drawn_by
    from foundation.run.reload import reload
    from foundation.voice import to_stderr, to_stdout

    device = usable_device(arguments.device)
    recipe, learner, folder = reload(arguments.run_folder, device)
    pair, shards = pair_of(learner), open_shards(arguments.shards)
    bad: list[SampleError] = []
    seen = embedded(
        recipe, learner, pair, shards, limit=arguments.limit, batch_size=arguments.batch_size, device=device, bad=bad
    )
    found = recalls_of(seen)
    names = [said_of(request, learner.named_branches[request.branch]) for request in pair]
    if note := caution(recipe, learner, pair):
        to_stderr(f"note: {note}")
    if bad:
        to_stderr(f"{len(bad):,} samples were left out; the first: {printable(str(bad[0]))}")
    rows = []
    for one, other, recall, same in (
        (0, 1, found.forth, found.class_forth),
        (1, 0, found.back, found.class_back),
    ):
        figures = [f"R@{k} {100 * value:5.1f} %" for k, value in recall.items()]
        figures += [] if same is None else [f"nearest of the same class {100 * same:5.1f} %"]
        to_stdout(f"{names[one]} -> {names[other]}: {', '.join(figures)}")
        rows.append(
            {
                "query": str(pair[one]),
                "gallery": str(pair[other]),
                "compared": [names[one], names[other]],
                "recall": {str(k): v for k, v in recall.items()},
                "same_class": same,
            }
        )
    by_chance = ", ".join(f"R@{k} {100 * k / found.samples:.1f} %" for k in found.forth)
    to_stdout(f"{found.samples:,} pairs; by chance {by_chance}. {recipe.name}, {folder.name}")
    if arguments.picture is not None:
        drawn, decoders = drawn_by(recipe, pair, arguments.draw)
        draw_nearest(arguments.picture, *seen.rows, seen.labels, seen.ids, drawn, shards, decoders)
        to_stdout(f"drawn: {arguments.picture} (blue: the sample's own; green: another of its class)")
    if arguments.json is not None:
        replace_json(arguments.json, {"run": recipe.name, "samples": found.samples, "ways": rows})
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
