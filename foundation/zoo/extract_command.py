"""``foundation zoo extract``: which sizes its words ask for, and what it says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from foundation.encoders.elastic import SubNetwork, size_named
from foundation.errors import UserError
from foundation.voice import to_stderr, to_stdout
from foundation.zoo.extract import Family, stopwatch_for, write_sizes
from foundation.zoo.latency import Timing, milliseconds, misgivings
from foundation.zoo.load import LoadedEncoder, load_encoder


def extract(arguments: argparse.Namespace, usable_device: Callable[[str], torch.device]) -> int:
    """Write the sub-networks that the words of the command ask for.

    Args:
        arguments: of the command.
        usable_device: gives the device of a name, for times.

    Raises:
        UserError: they ask for no size, or for one that there is not.
    """
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
    sizes = list(family.sizes) if arguments.all else [_chosen(arguments, loaded, family, usable_device)]
    if doubts := family.doubts(sizes):
        to_stderr(f"warning: {doubts}")
    for path in write_sizes(loaded, sizes, out, trained=family.trained, overwrite=arguments.overwrite):
        to_stdout(f"wrote {path} and {path.with_suffix('.json').name}")
    return 0


def _chosen(
    arguments: argparse.Namespace, loaded: LoadedEncoder, family: Family, usable_device: Callable[[str], torch.device]
) -> SubNetwork:
    """The one size that is asked for."""
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
    lines = [("size", "parameters", "median", "spread", "runs")]
    lines += [
        (str(size), f"{count:,}", *times[size].shown())
        for size, count in zip(family.sizes, family.parameters, strict=True)
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        to_stdout("  ".join([first.ljust(widths[0]), *cells]))
