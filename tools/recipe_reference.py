"""Writes ``docs/recipe-reference.md`` from the types: every key of a recipe, its type, default and meaning."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = "Write docs/recipe-reference.md from the dataclasses that recipes are read into."

INTRODUCTION = """\
# Recipe reference

<!-- Written by tools/recipe_reference.py (make docs). Do not edit. -->

A recipe is one YAML file that describes one whole run. Unknown keys, wrong types and missing keys are errors; all of
them are reported at once, with their lines. On the command line any key can be changed by `key.sub=value`
(`objectives.0.weight=2` counts list entries from 0; the value is read as YAML). Every number has a range, which its
type tells (*from* and *to*: the ends belong to it); NaN and infinity are never in it.

- *number*: `0.1`, `1e-3`. *whole number*: `64`, `1_000`. *true or false*: nothing else (not `yes` or `on`).
- *duration*: `500 steps`, `10 epochs` or `5%` (of the run); at most 1e9 steps, 1e6 epochs, 10000%.
- *schedule*: a plain number, or a mapping with the keys of [Schedule](#schedule).
- *plug-in*: a mapping with the key `name` (a built-in name below, the name of an entry point, or a dotted module) and
  the keys of that plug-in.
- A mapping replaces the default of its key whole: keys that it leaves out get the defaults of this page.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is out of date")
    parser.add_argument("--out", type=Path, default=None, help="file to write (default: docs/recipe-reference.md)")


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out or Path(__file__).resolve().parents[1] / "docs" / "recipe-reference.md"
    text = reference()
    if arguments.check:
        fresh = out.is_file() and out.read_text(encoding="utf-8") == text
        print(f"{out} is {'up to date' if fresh else 'out of date: run `make docs`'}")
        return 0 if fresh else 1
    out.write_text(text, encoding="utf-8")
    print(f"wrote {out}")
    return 0


def reference() -> str:
    """The whole page."""
    from foundation.run.recipe import Recipe

    page = Page()
    page.section("The top level", Recipe)
    while page.waiting:
        page.section(*page.waiting.pop(0))
    return INTRODUCTION + "\n" + "\n".join(page.lines).rstrip() + "\n"


class Page:
    """Collects sections; each class gets one, in the order in which the keys lead to it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waiting: list[tuple[str, type]] = []
        self.titles: dict[type, str] = {}

    def section(self, title: str, cls: type) -> None:
        from foundation.config_reader import fields_of
        from foundation.ranges import hints_of

        self.titles.setdefault(cls, title)
        hints, meanings = hints_of(cls), field_docs(cls)
        self.lines += [f"## {title}", "", markdown(" ".join((cls.__doc__ or "").split("\n\n")[0].split())), ""]
        fields = fields_of(cls)
        if not fields:
            self.lines += ["No keys.", ""]
            return
        self.lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for field in fields:
            kind = self.kind(hints[field.name], field.name)
            cells = (f"`{field.name}`", kind, default_of(field, hints[field.name]), meanings.get(field.name, ""))
            self.lines.append("| " + " | ".join(markdown(cell).replace("|", "\\|") for cell in cells) + " |")
        self.lines.append("")

    def link(self, title: str, cls: type, text: str) -> str:
        if cls not in self.titles:
            self.titles[cls] = title
            self.waiting.append((title, cls))
        anchor = self.titles[cls].lower().replace(" ", "-").replace(":", "").replace("`", "").replace(".", "")
        return f"[{text}](#{anchor})"

    def kind(self, hint: Any, key: str) -> str:
        """A type in words, with links to the sections of the mappings that it may hold."""
        import dataclasses
        from typing import Annotated, Literal, get_args, get_origin

        from foundation.config_reader import members_of, plugin_of
        from foundation.plugins import available, resolve
        from foundation.ranges import Range, marks_of
        from foundation.schedules import Duration, Schedule

        members = members_of(hint)
        if len(members) > 1 and not marks_of(hint):
            return " or ".join(self.kind(member, key) for member in members)
        plugin = plugin_of(hint)
        if plugin is not None:
            file = plugin.suffix.removeprefix(".")
            titles = {name: f"{plugin.kind} {file} {name}".replace("  ", " ") for name in available(plugin.pattern)}
            links = [self.link(title, resolve(plugin.pattern, name).Config, name) for name, title in titles.items()]
            return f"plug-in: {', '.join(links) or 'none built in'}"
        origin, arguments = get_origin(hint) or hint, get_args(hint)
        if origin is Annotated:
            # A range stands right after the number, what holds for a whole list after a comma.
            marks = [f" {mark}" if isinstance(mark, Range) else f", {mark}" for mark in marks_of(hint)]
            return self.kind(arguments[0], key) + "".join(marks)
        if origin is Literal:
            return " or ".join(f"`{option}`" for option in arguments)
        if origin is Duration:
            return "duration"
        if origin is Schedule:
            return self.link("Schedule", Schedule, "schedule")
        if dataclasses.is_dataclass(origin):
            title = key if origin.__name__ == "Config" else origin.__name__
            return self.link(title, origin, "mapping")
        if origin in (tuple, list):
            entries = [a for a in arguments if a is not Ellipsis]
            if Ellipsis in arguments or origin is list:
                return f"list of {self.kind(entries[0], key)}"
            return f"list: {', '.join(self.kind(entry, key) for entry in entries)}"
        if origin is dict:
            return f"mapping from names to {self.kind(arguments[1], key)}"
        words = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}
        words |= {type(None): "null", Any: "anything"}
        return words.get(origin, getattr(origin, "__name__", str(origin)))


def markdown(text: str) -> str:
    """Docstring marks as Markdown: ``:func:`name` `` and double backquotes become single ones."""
    import re

    return re.sub(r":\w+:(?=`)", "", text).replace("``", "`")


def field_docs(cls: type) -> dict[str, str]:
    """The string that stands under each field, of the class and of those it inherits from."""
    import ast
    import inspect
    import textwrap

    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in zip(body.body, body.body[1:], strict=False):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and is_text:
                docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs


def default_of(field: Any, hint: Any) -> str:
    """The default as it would be written in a recipe."""
    import dataclasses

    import yaml

    from foundation.config import to_plain
    from foundation.inherited import INHERITED

    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "**required**"
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    if value is INHERITED:
        return "the recipe's"
    if dataclasses.is_dataclass(value) and value == _all_defaults(type(value)):
        plain = to_plain(value, hint)
        return f"`{{name: {plain['name']}}}`" if isinstance(plain, dict) and "name" in plain else "its defaults"
    text = yaml.safe_dump(to_plain(value, hint), default_flow_style=True, width=10**6, sort_keys=False)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _all_defaults(cls: type) -> Any:
    try:
        return cls()
    except TypeError:
        return None


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a checkout needs no install
    from foundation.cli import main_script

    sys.exit(main_script(__file__))
