"""``foundation recipes``: the recipes that come with the package."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundation.catalogue import About

DESCRIPTION = "List the shipped recipes, show one, or copy one to make it your own."
EXAMPLES = """\
examples:
  foundation recipes list
  foundation recipes list audio
  foundation recipes show quickstart
  foundation recipes copy quickstart my.yaml      then edit it and: foundation pretrain my.yaml
"""

_INDENT = " " * 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="{list,show,copy}", required=True)
    listing = what.add_parser("list", help="what each recipe is for: modality, size of the data, hardware, minutes")
    listing.add_argument("modality", nargs="?", help="only the recipes for this modality, such as image")
    show = what.add_parser("show", help="print a recipe")
    show.add_argument("name", help="name of a shipped recipe")
    copy = what.add_parser("copy", help="write a recipe into a file of your own")
    copy.add_argument("name", help="name of a shipped recipe")
    copy.add_argument("to", type=Path, help="new YAML file, or a folder to put it in")


def run(arguments: argparse.Namespace) -> int:
    from foundation import paths

    if arguments.what == "list":
        return _list(arguments.modality)
    file = paths.recipe(arguments.name)
    if arguments.what == "show":
        print(file.read_text(encoding="utf-8"), end="")
        return 0
    return _copy(file, arguments.to)


def _list(modality: str | None) -> int:
    from itertools import groupby
    from textwrap import fill

    from foundation.catalogue import entries
    from foundation.errors import UserError
    from foundation.plugins import near

    found = sorted(entries(), key=lambda entry: (entry.modality, entry.name))
    there = list(dict.fromkeys(entry.modality for entry in found))
    if modality is not None and modality not in there:
        raise UserError(f"no recipe for {modality!r}{near(modality, there)} (there are recipes for {', '.join(there)})")
    wide = min(get_terminal_size().columns, 120)
    for name, group in groupby(found, key=lambda entry: entry.modality):
        if modality not in (None, name):
            continue
        print(f"{name}:")
        for entry in group:
            print(f"  {entry.name}")
            for text in (entry.about.summary, _needs(entry.about)):
                print(fill(text, wide, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False))
        print()
    print("foundation recipes copy NAME mine.yaml      makes one your own")
    return 0


def _needs(about: About) -> str:
    """Size of the data, hardware and time, as far as they are known."""
    from foundation.voice import plural

    size = f"for about {plural(about.samples, 'sample')}" if about.samples else ""
    time = f"{about.minutes:g} min" if about.minutes is not None else "time not measured"
    return "; ".join(part for part in (size, about.hardware, time) if part)


def _copy(file: Path, to: Path) -> int:
    import yaml

    from foundation.errors import UserError
    from foundation.voice import to_stdout

    target = to / file.name if to.is_dir() else to
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", target.stem) or ".." in target.stem:
        raise UserError(f"{target.name}: the run is named after the file: use letters, digits, '_', '.' and '-'")
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target} should end in .yaml (or be an existing folder)")
    name = target.stem if isinstance(yaml.safe_load(target.stem), str) else json.dumps(target.stem)  # null, 1e3
    try:
        with target.open("x", encoding="utf-8") as out:  # the run gets the file's name, and so a folder of its own
            out.write(re.sub(r"(?m)^name: .*$", f"name: {name}", file.read_text(encoding="utf-8"), count=1))
    except FileExistsError:
        raise UserError(f"{target} exists already; choose another name or remove it first") from None
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    train = f"foundation pretrain {shlex.quote(str(target))} 'data.shards=[FOLDER/train-*.tar]'"
    to_stdout(f"{target}  (train it: {train}; --dry-run first says what does not fit)")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
