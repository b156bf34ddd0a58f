"""``foundation artefacts``: patch tokens of far too high norm, before and after registers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = (
    "Look for artefacts among the patch tokens of a model: a histogram of their norms, the share of outliers and their "
    "places, maps of some samples, and how well a linear map reconstructs from a token the patch that it stands for "
    "(and its class, where there are labels of patches). Writes artefacts.json and one self-contained page, "
    "artefacts.html."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from foundation.plugins import add_option

    add_option(parser)
    from foundation.probe_options import MODEL_HELP
    from foundation.ranges import Count, CountOrNone, Positive, Side, argument

    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="samples to look at")
    parser.add_argument(
        "--after", metavar="MODEL2", help="a second model to compare with, such as MODEL with registers"
    )
    parser.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    parser.add_argument("--train", nargs="+", metavar="SHARDS", help="shards that linear maps are fitted on")
    parser.add_argument(
        "--test", nargs="+", metavar="SHARDS", help="shards they are scored on; without both, one half of SHARDS each"
    )
    parser.add_argument(
        "--labels",
        metavar="MEMBER",
        help="array member with the class of each patch token, for a dense probe (cells.npy)",
    )
    parser.add_argument(
        "--deviations", type=argument(Positive), default=6.0, help="outliers: so many robust deviations above the "
        "median (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--cut", type=argument(Positive), help="also count norms above this; default: the cut of Darcet et al. for "
        "DINOv2, 150",
    )  # fmt: skip
    parser.add_argument("--size", type=argument(Side), help="size of the evaluation view; default: the model's")
    parser.add_argument(
        "--limit", type=argument(Count), default=1000, metavar="N", help="at most N samples, spread evenly (default: "
        "%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=argument(CountOrNone), default=6, metavar="N", help="samples to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=argument(Side), default=32, help="samples per forward pass (default: %(default)s)"
    )
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also write the samples and maps as one picture")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--out", type=Path, default=Path("artefacts"), metavar="FOLDER", help="for both files (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    import dataclasses
    import time

    from foundation.errors import UserError
    from foundation.files import replace_file, replace_json, require_writable
    from foundation.modalities.parts import evaluation_config
    from foundation.printable import printable
    from foundation.probe_command import usable_device
    from foundation.probes import artefacts
    from foundation.probes.results import FORMAT, versions
    from foundation.probes.road import find_shards
    from foundation.report.artefacts import Shown, render, rows, sheet
    from foundation.voice import plural, to_stderr, to_stdout
    from foundation.zoo.load import load_encoder

    if bool(arguments.train) != bool(arguments.test):
        raise UserError("--train and --test belong together: give both, or neither for one half of SHARDS each")
    device, page = usable_device(arguments.device), arguments.out / "artefacts.html"
    require_writable(page)
    if arguments.picture is not None:
        if arguments.picture.suffix.lower() != ".png":
            raise UserError(f"--picture is a PNG: give a name that ends in .png, not {arguments.picture}")
        require_writable(arguments.picture)
    for patterns in (arguments.shards, *(given for given in (arguments.train, arguments.test) if given)):
        find_shards(patterns)  # what is missing is said before the first forward pass
    sources = [arguments.model] + ([arguments.after] if arguments.after else [])
    models = []
    for source in sources:
        loaded = load_encoder(source, device, arguments.branch)
        evaluation = evaluation_config(loaded.modality, loaded.evaluation, arguments.size)
        models.append(dataclasses.replace(loaded, evaluation=evaluation))
    if len({loaded.modality for loaded in models}) > 1:
        raise UserError(
            f"MODEL is of {models[0].modality}, and --after of {models[1].modality}: compare models of one kind"
        )
    shown: list[Shown] = []
    first: artefacts.Limit | None = None
    for number, loaded in enumerate(models):
        options = {
            "limit": arguments.limit, "batch_size": arguments.batch_size, "device": device, "labels": arguments.labels,
        }  # fmt: skip
        seen = artefacts.look(loaded, arguments.shards, shown=arguments.samples, **options)
        rule = artefacts.Limit.of(seen.norms, arguments.deviations)
        train, test = (
            artefacts.look(loaded, p, shown=0, **options) if p else seen for p in (arguments.train, arguments.test)
        )
        norms = artefacts.summary(seen, arguments.deviations, arguments.cut or artefacts.DINOV2_CUT, first)
        role = ("before", "after")[number] if len(models) > 1 else "model"
        shown.append(Shown(role, loaded, seen, norms, artefacts.readout(train, test, rule)))
        first = first or rule
        if seen.bad:
            to_stderr(
                f"{plural(len(seen.bad), 'unreadable sample')} left out, the first: {printable(str(seen.bad[0]))}"
            )
    content = {
        "format": FORMAT, "probe": "artefacts", "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": versions(),
        "shards": arguments.shards, "train": arguments.train, "test": arguments.test, "labels": arguments.labels,
        "limit": arguments.limit,
        "models": [
            {"role": m.role, "model": name, "description": m.loaded.description, "norms": m.norms, "readout": m.readout}
            for name, m in zip(sources, shown, strict=True)
        ],
    }  # fmt: skip
    replace_json(arguments.out / "artefacts.json", content)
    replace_file(page, render(shown).encode())
    if arguments.picture is not None:
        from PIL import Image

        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet(shown)).save(arguments.picture)
    lines = [("", *(m.role for m in shown)), *rows(shown)]
    width = max(len(line[0]) for line in lines)
    to_stdout("\n".join(f"{line[0]:<{width}}" + "".join(f"{value:>12}" for value in line[1:]) for line in lines))
    to_stdout(f"written: {arguments.out / 'artefacts.json'}, {page} ({page.stat().st_size / 1e3:,.0f} kB)")
    for model in shown:
        of = f"{model.role}: " if len(shown) > 1 else ""
        for line in artefacts.warnings(model.norms):
            to_stderr(f"warning: {of}{line}")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
