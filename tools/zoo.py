"""``foundation zoo``: models by name: listed, pulled, checked, published; smaller ones cut out; others' converted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.zoo.cards import Listed

DESCRIPTION = "Models to load by name: list, pull, check and publish them, and cut smaller ones out of them."
EXAMPLES = """\
examples:
  foundation zoo list --modality image                      which models there are
  foundation zoo show NAME                                  its card: what it is, what it scored, its licence
  foundation zoo pull NAME                                  get it; foundation.load("NAME") does so by itself
  foundation zoo verify                                     compare every file on this machine with its card
  foundation zoo publish runs/mine --name mine --to /mnt/models --licence MIT --data CIFAR-10 "research use"
  FOUNDATION_ZOO=/mnt/models foundation zoo pull mine       others get it from there
  foundation zoo convert dinov2_vits14_pretrain.pth         weights that others published, with our card
  foundation zoo extract runs/mine --width 96 --depth 3     a smaller encoder out of it (POA)
  foundation zoo extract runs/mine --latency 5ms            the largest that encodes a sample within 5 ms here"""

NAME_HELP = "of a model, as 'foundation zoo list' shows it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    from foundation.plugins import add_option
    from foundation.probe_options import MODEL_HELP
    from foundation.ranges import Depth, Side, argument
    from foundation.zoo.amounts import parameters, seconds

    what = parser.add_subparsers(
        dest="what", metavar="{list,show,pull,verify,path,remove,publish,extract,convert}", required=True
    )
    listing = what.add_parser("list", help="the models that there are")
    listing.add_argument("words", nargs="*", metavar="WORD", help="that name, summary, recipe, data or licence contain")
    listing.add_argument("--modality", help="such as image")
    listing.add_argument("--pulled", action="store_true", help="those on this machine alone")
    listing.add_argument("--json", action="store_true", help="whole cards as JSON")
    _from(listing)
    show = what.add_parser("show", help="one model's card")
    show.add_argument("name", metavar="NAME", help=NAME_HELP)
    show.add_argument("--json", action="store_true", help="as JSON")
    _from(show)
    pull = what.add_parser("pull", help="get models, or go on with getting them")
    pull.add_argument("names", nargs="+", metavar="NAME", help=NAME_HELP)
    pull.add_argument("--heads", action="store_true", help="the heads too, to go on training with them")
    _from(pull)
    verify = what.add_parser("verify", help="read every byte and compare it with the card")
    verify.add_argument("names", nargs="*", metavar="NAME", help=f"{NAME_HELP} (default: all on this machine)")
    path = what.add_parser("path", help="where the weights of a model are")
    path.add_argument("name", metavar="NAME", help=NAME_HELP)
    remove = what.add_parser("remove", help="remove pulled models from this machine")
    remove.add_argument("names", nargs="+", metavar="NAME", help=NAME_HELP)

    publish = what.add_parser("publish", help="put a model into a folder or store that others pull from")
    add_option(publish)
    publish.add_argument("model", metavar="MODEL", help="a run, an export, or a name of the zoo")
    publish.add_argument("--name", required=True, help="that others load it by")
    publish.add_argument("--to", required=True, metavar="PLACE", help="folder, file://, s3:// or hf://OWNER/REPO")
    publish.add_argument("--licence", help="of the weights: SPDX identifier, such as CC-BY-4.0")
    publish.add_argument(
        "--data", action="append", nargs="+", metavar="WORD", help="trained on: NAME LICENCE [URL]; more than once"
    )
    publish.add_argument("--summary", help="one line")
    publish.add_argument("--units", help="of the numbers that it is fed")
    publish.add_argument(
        "--metrics", action="append", type=Path, metavar="FILE", help="result of a probe (JSON); more than once"
    )
    publish.add_argument("--reproduce", metavar="COMMAND", help="that trains it again")
    publish.add_argument("--notes", help="what else a user should know")
    publish.add_argument("--branch", help="which encoder of a run (default: the one that it was measured by)")
    publish.add_argument("--half", action="store_true", help="store the weights as float16: half the bytes")
    publish.add_argument(
        "--heads", action="store_true", help="publish the heads too, so that others can go on training with them"
    )

    extract = what.add_parser("extract", help="write sub-networks as stand-alone encoders with cards")
    add_option(extract)
    extract.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    extract.add_argument("--width", type=argument(Side), metavar="W", help="of the sub-network (default: the whole)")
    extract.add_argument(
        "--depth", nargs="+", type=argument(Depth), metavar="D", help="blocks; one number for each stage, where it has"
    )
    of = "of the sizes that the recipe trained; else of all from half the width and depth up"
    extract.add_argument("--params", type=parameters, metavar="N", help=f"the largest of at most so many, as 20M, {of}")
    extract.add_argument(
        "--latency", type=seconds, metavar="TIME", help=f"the largest of at most so long, as 5ms, {of}"
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


def _from(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="zoo", metavar="ZOO", help="folder or address of a zoo (default: the package's, and those that "
        "the words of FOUNDATION_ZOO name)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run one of the commands."""
    commands = {
        "list": _list, "show": _show, "pull": _pull, "verify": _verify, "path": _path, "remove": _remove,
        "publish": _publish, "extract": _extract, "convert": _convert,
    }  # fmt: skip
    return commands[arguments.what](arguments)


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


def _list(arguments: argparse.Namespace) -> int:
    from foundation.voice import to_stderr, to_stdout
    from foundation.zoo.entry import matches
    from foundation.zoo.home import Home
    from foundation.zoo.overview import states, table
    from foundation.zoo.registry import everything

    home = Home()
    words, modality = " ".join(arguments.words), arguments.modality or ""
    models = everything(arguments.zoo, home, pulled_only=arguments.pulled)
    found = [one for one in models if matches(one.entry, words, modality)]
    if arguments.json:
        _print_json(found)
    elif not found:
        kinds = sorted({one.entry.modality for one in models})
        hint = f"; modalities: {', '.join(kinds)}" if modality and kinds and modality not in kinds else ""
        to_stderr(f"no model of the zoo is like that ('foundation zoo list' shows all{hint})")
    else:
        to_stdout("\n".join(table(found, home)))
        for line in states(found, home):
            to_stderr(line)
    return 0


def _print_json(models: list[Listed]) -> None:
    import json

    from foundation.voice import to_stdout
    from foundation.zoo.entry import to_plain

    to_stdout(json.dumps([{**to_plain(one.entry), "from": one.origin} for one in models], indent=1, ensure_ascii=True))


def _show(arguments: argparse.Namespace) -> int:
    from foundation.voice import to_stdout
    from foundation.zoo.home import Home
    from foundation.zoo.overview import details
    from foundation.zoo.registry import require

    home = Home()
    one = require(arguments.name, home, arguments.zoo)
    if arguments.json:
        _print_json([one])
    else:
        to_stdout("\n".join(details(one, home, get_terminal_size().columns)))
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from foundation.voice import to_stdout
    from foundation.zoo.home import Home
    from foundation.zoo.registry import pull

    home = Home()
    for name in arguments.names:
        to_stdout(pull(name, home, arguments.zoo, arguments.heads))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.voice import to_stdout
    from foundation.zoo.home import Home
    from foundation.zoo.overview import verdict
    from foundation.zoo.registry import everything, require, troubles

    home = Home()
    here = [one for one in everything(None, home, local=True) if one.entry.files]
    chosen = [require(name, home) for name in arguments.names] or here
    bad = []
    for one in chosen:
        wrong = troubles(one, home)
        bad += [one.entry.name] if wrong else []
        to_stdout(verdict(one.entry, wrong))
    if bad:
        raise UserError(f"not as their cards say: {', '.join(bad)} ('foundation zoo pull NAME' gets them again)")
    return 0


def _path(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.voice import to_stdout
    from foundation.zoo.home import Home
    from foundation.zoo.registry import require, weights_of

    home = Home()
    entry = require(arguments.name, home).entry
    if entry.weights is None:
        how = f"it is loaded by {entry.loads}" if entry.loads else f"to train it: {entry.reproduce}"
        raise UserError(f"{entry.name} has no files: {how}")
    to_stdout(str(weights_of(entry.name, home, fetch=False)))
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from foundation.voice import to_stdout
    from foundation.zoo.home import Home
    from foundation.zoo.registry import remove

    home = Home()
    for name in arguments.names:
        to_stdout(remove(name, home))
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from foundation.errors import UserError
    from foundation.voice import to_stdout
    from foundation.zoo.entry import Data
    from foundation.zoo.overview import size_of
    from foundation.zoo.publish import publish, said_of
    from foundation.zoo.registry import named

    data = []
    for words in arguments.data or []:
        if len(words) not in (2, 3):
            raise UserError(f"--data takes NAME LICENCE [URL], not {' '.join(map(repr, words))}")
        data.append(Data(**dict(zip(("name", "licence", "url"), words, strict=False))))
    known = None if Path(arguments.model).exists() else named(arguments.model)
    said = said_of(
        known,
        licence=arguments.licence,
        data=tuple(data),
        summary=arguments.summary,
        units=arguments.units,
        reproduce=arguments.reproduce,
        notes=arguments.notes,
    )
    entry = publish(
        arguments.model,
        arguments.name,
        arguments.to,
        said,
        results=arguments.metrics or (),
        branch=arguments.branch,
        half=arguments.half,
        heads=arguments.heads,
    )
    to_stdout(f"published {entry.name} ({size_of(entry.size)}) to {arguments.to}; others get it by")
    to_stdout(f"  foundation zoo pull {entry.name} --from {arguments.to}")
    return 0


def _extract(arguments: argparse.Namespace) -> int:
    from foundation.probe_command import usable_device
    from foundation.zoo.extract_command import extract

    return extract(arguments, usable_device)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
