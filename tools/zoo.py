"""``foundation zoo``: smaller encoders out of a larger one, and exports out of weights that others have published."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundation.encoders.elastic import SubNetwork
    from foundation.zoo.extract import Family
    from foundation.zoo.latency import Timing
    from foundation.zoo.load import LoadedEncoder

DESCRIPTION = "Cut smaller encoders out of one that was pretrained for all sizes (POA), each a model of its own."
EXAMPLES = """\
examples:
  foundation zoo extract runs/mine --width 96 --depth 3     that size
  foundation zoo extract runs/mine --params 20M             the largest with at most 20 million parameters
  foundation zoo extract runs/mine --latency 5ms --device cpu
                                                            the largest that encodes a sample within 5 ms here
  foundation zoo extract runs/mine --all --out sizes        every size that the recipe trained (POA)
  foundation knn sizes/mine-teacher-w96-d3.safetensors --train TRAIN --test TEST"""

_OF = "of the sizes that the recipe trained; else of all from half the width and depth up"
_FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    from foundation.plugins import add_option
    from foundation.probe_options import MODEL_HELP
    from foundation.ranges import Depth, Side, argument

    what = parser.add_subparsers(dest="what", metavar="{extract,convert}", required=True)
    extract = what.add_parser("extract", help="write sub-networks as stand-alone encoders with cards")
    add_option(extract)
    extract.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    extract.add_argument("--width", type=argument(Side), metavar="W", help="of the sub-network (default: the whole)")
    extract.add_argument(
        "--depth", nargs="+", type=argument(Depth), metavar="D", help="blocks; one number for each stage, where it has"
    )
    extract.add_argument(
        "--params", type=parameters, metavar="N", help=f"the largest of at most so many, as 20M, {_OF}"
    )
    extract.add_argument(
        "--latency", type=seconds, metavar="TIME", help=f"the largest of at most so long, as 5ms, {_OF}"
    )
    extract.add_argument(
        "--all", action="store_true", help="every size that the recipe trained, if it has an elastic branch"
    )
    extract.add_argument("--out", type=Path, metavar="DIR", help="folder (default: that of the run's exports)")
    extract.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    extract.add_argument("--device", default="cpu", help="that --latency is measured on (default: %(default)s)")
    extract.add_argument("--overwrite", action="store_true", help="replace files that are there")
    convert = what.add_parser("convert", help="write weights that others have published as an export with its card")
    add_option(convert)
    convert.add_argument("file", metavar="FILE", help="such as dinov2_vits14.pth (.pth, .pt, .ckpt, .safetensors)")
    convert.add_argument(
        "--as", dest="source", metavar="SOURCE", help="whose weights they are, such as dinov2 or dinov2,heads=6"
    )
    convert.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder (default: this one)")
    convert.add_argument("--branch", help="which of several encoders in the file (default: the average)")
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")


def parameters(word: str) -> int:
    """``20M`` as a number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGB]?)", word)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of parameters such as 20M, 1.5M or 300k")
    return int(float(found[1]) * _FACTORS[found[2]])


def seconds(word: str) -> float:
    """``5ms`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", word)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{word!r} is no time such as 5ms, 800us or 0.1s")
    return float(found[1]) * _SECONDS[found[2]]


def run(arguments: argparse.Namespace) -> int:
    """Run one of the commands."""
    return {"extract": _extract, "convert": _convert}[arguments.what](arguments)


def _convert(arguments: argparse.Namespace) -> int:
    from foundation.voice import to_stdout
    from foundation.zoo.convert.command import told, write_converted

    path, result = write_converted(
        arguments.file, arguments.out, source=arguments.source, branch=arguments.branch, overwrite=arguments.overwrite
    )
    for line in told(result):
        to_stdout(line)
    to_stdout(f"wrote {path} and {path.with_suffix('.json').name}")
    return 0


def _extract(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.voice import to_stderr, to_stdout
    from foundation.zoo.extract import Family, write_sizes
    from foundation.zoo.load import load_encoder

    ways = {
        "--width or --depth": arguments.width is not None or arguments.depth is not None,
        "--params": arguments.params is not None,
        "--latency": arguments.latency is not None,
        "--all": arguments.all,
    }
    if sum(ways.values()) != 1:
        asked = " and ".join(way for way, given in ways.items() if given) or "none"
        raise UserError(f"say which size by one of {', '.join(ways)}; given: {asked}")
    loaded = load_encoder(arguments.model, "cpu", arguments.branch)
    family = Family.of(loaded)
    model = Path(arguments.model)
    beside = model.parent if model.suffix == ".safetensors" else loaded.folder and loaded.folder / "export"
    out = arguments.out or beside
    if out is None:
        raise UserError("this model has no folder: say where to write by --out DIR")
    if arguments.all and not family.trained:
        raise UserError(
            "--all writes the sizes that an elastic branch of the recipe trained, and no objective of this model's "
            "recipe trained any: name a size by --width and --depth, or choose one by --params or --latency"
        )
    sizes = list(family.sizes) if arguments.all else [_chosen(arguments, loaded, family)]
    if doubts := family.doubts(sizes):
        to_stderr(f"warning: {doubts}")
    for path in write_sizes(loaded, sizes, out, trained=family.trained, overwrite=arguments.overwrite):
        to_stdout(f"wrote {path} and {path.with_suffix('.json').name}")
    return 0


def _chosen(arguments: argparse.Namespace, loaded: LoadedEncoder, family: Family) -> SubNetwork:
    """The one size that is asked for."""
    from foundation.probe_command import usable_device
    from foundation.voice import to_stderr, to_stdout
    from foundation.zoo.extract import size_named, stopwatch_for
    from foundation.zoo.latency import milliseconds, misgivings

    if arguments.params is not None:
        size = family.within(arguments.params)
        count = family.parameters[family.sizes.index(size)]
        to_stdout(f"{size}: {count:,} parameters, the largest of at most {arguments.params:,}")
        return size
    if arguments.latency is not None:
        stopwatch = stopwatch_for(loaded, usable_device(arguments.device))
        size, times = family.as_fast_as(arguments.latency, stopwatch)
        _show(family, times)
        for warning in misgivings(times):
            to_stderr(f"warning: {warning}")
        taken = milliseconds(times[size].seconds)
        to_stdout(f"{size}: {taken}, the largest of at most {milliseconds(arguments.latency)}; {stopwatch.setting}")
        return size
    return size_named(loaded.encoder, arguments.width, arguments.depth)


def _show(family: Family, times: Mapping[SubNetwork, Timing]) -> None:
    """The times of the sizes that a latency chooses among."""
    from foundation.voice import to_stdout

    lines = [("size", "parameters", "median", "spread", "runs")]
    lines += [
        (str(size), f"{count:,}", *times[size].shown())
        for size, count in zip(family.sizes, family.parameters, strict=True)
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        to_stdout("  ".join([first.ljust(widths[0]), *cells]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
