"""The options that the probe commands share. Imported for ``--help``, so nothing heavy stands at the top."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.ranges import Count, Seed, Side, Workers, argument

if TYPE_CHECKING:
    from foundation.probes.treatments import Treatment

MODEL_HELP = (
    "run folder, checkpoint folder, exported .safetensors, a name of 'foundation zoo list', weights that others "
    "published (dinov2_vits14.pth; FILE,as=SOURCE; hf://OWNER/REPO/FILE), a timm model: timm:NAME (its published "
    "weights), timm:NAME,weights=FILE.safetensors or timm:NAME,random; or the image tower of an open_clip model: "
    "open_clip:NAME,pretrained=TAG, open_clip:NAME,weights=FILE.safetensors or open_clip:NAME,random"
)


TREATMENTS = ("as-is", "standardised", "whitened")
"""Names of treatments on the command line."""

GROUP_HELP = (
    "samples that belong together (one subject, one recording) stay on one side where training samples are kept back, "
    "are no neighbours of each other where one is left out, and count together in intervals: json:FIELD for a field of "
    "their json, else a regular expression for their keys, of which the part in brackets counts, such as '^(s[0-9]+)'"
)


def add_arguments(parser: argparse.ArgumentParser, *, cache: bool = True, result: bool = True) -> None:
    """Options of every probe command.

    Args:
        parser: of the command.
        cache: it keeps features on disk.
        result: it takes one model, and writes one file.
    """
    from foundation.plugins import add_option

    add_option(parser)
    if result:
        parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--train", nargs="+", metavar="SHARDS", help="labelled shards to learn from; default: those of the run's recipe"
    )
    parser.add_argument("--test", nargs="+", metavar="SHARDS", help="labelled shards to score; default as for --train")
    parser.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    parser.add_argument(
        "--size", type=argument(Side), metavar="PIXELS", help="side of the evaluation view; default: the model's"
    )
    parser.set_defaults(pieces=1)
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--bfloat16", action="store_true", help="run the encoder in bfloat16")
    parser.add_argument(
        "--batch-size", type=argument(Side), default=256, help="samples per forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=argument(Workers), default=None, help="loader processes (default: processors less one)"
    )
    parser.add_argument(
        "--limit", type=argument(Count), metavar="N", help="at most N samples of each split, spread evenly"
    )
    parser.add_argument(
        "--seed", type=argument(Seed), default=0, help="of splits, draws and intervals (default: %(default)s)"
    )
    if cache:
        parser.add_argument("--no-cache", action="store_true", help="neither read nor keep features on disk")
    if not result:
        parser.set_defaults(json=None)
        return
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also score the same encoder untrained, the raw input, and simple features of the modality",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="result file (default: in the model's folder; none for a model of timm, which has no folder)",
    )


def add_tokens(parser: argparse.ArgumentParser) -> None:
    """The option of probes that see one vector for each sample."""
    parser.add_argument(
        "--tokens",
        choices=("cls", "patches", "both"),
        default="cls",
        help="class token, mean of the patch tokens, or both side by side (default: %(default)s)",
    )


def add_pieces(parser: argparse.ArgumentParser, cover: bool = False) -> None:
    """The option of commands that average the features of a recording; ``cover``: all of it unless told otherwise."""
    parser.add_argument(
        "--pieces",
        type=argument(Count),
        default=None if cover else 1,
        metavar="N",
        help="views of a recording that is longer than one (audio, video, IMU), spread evenly over it; their features "
        f"are averaged (default: {'as many as cover it, at most 8' if cover else 'its middle alone'})",
    )


def add_treatments(parser: argparse.ArgumentParser) -> None:
    """The options of probes that compare features by accuracy: treatments and groups."""
    parser.add_argument(
        "--treatments",
        nargs="+",
        choices=TREATMENTS,
        help="what is done to every feature alike before it is scored, fitted on the training split: nothing, mean 0 "
        "and deviation 1, or PCA whitening (default: each, and best is compared with best)",
    )
    parser.add_argument("--group", metavar="RULE", help=GROUP_HELP)


def treatments(arguments: argparse.Namespace) -> tuple[Treatment, ...]:
    """What the command line asks for, in the order in which tables show it."""
    from foundation.probes.treatments import TREATMENTS as known

    wanted = [name.replace("-", " ") for name in arguments.treatments or TREATMENTS]
    return tuple(name for name in known if name in wanted)
