"""``foundation recipes``: the recipes that come with the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DESCRIPTION = "List the shipped recipes, show one, or copy one to make it your own."
EXAMPLES = """\
examples:
  foundation recipes list
  foundation recipes show quickstart
  foundation recipes copy quickstart my.yaml      then edit it and: foundation pretrain my.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="{list,show,copy}", required=True)
    what.add_parser("list", help="names and first lines of all recipes")
    show = what.add_parser("show", help="print a recipe")
    show.add_argument("name", help="name of a shipped recipe")
    copy = what.add_parser("copy", help="write a recipe into a file of your own")
    copy.add_argument("name", help="name of a shipped recipe")
    copy.add_argument("to", type=Path, help="new YAML file, or a folder to put it in")


def run(arguments: argparse.Namespace) -> int:
    from foundation import paths

    if arguments.what == "list":
        return _list()
    file = paths.recipe(arguments.name)
    if arguments.what == "show":
        print(file.read_text(encoding="utf-8"), end="")
        return 0
    return _copy(file, arguments.to)


def _list() -> int:
    from foundation import paths

    shipped = paths.recipes()
    width = max(map(len, shipped), default=0) + 2
    for name, file in shipped.items():
        print(f"{name:<{width}}{_first_line(file)}")
    return 0


def _first_line(file: Path) -> str:
    """The first comment of a recipe says what it is for."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _copy(file: Path, to: Path) -> int:
    from foundation.errors import UserError
    from foundation.voice import to_stdout

    target = to / file.name if to.is_dir() else to
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target} should end in .yaml (or be an existing folder)")
    try:
        with target.open("x", encoding="utf-8") as out:
            out.write(file.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{target} exists already; choose another name or remove it first") from None
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    to_stdout(f"{target}  (train it: foundation pretrain {target})")
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
