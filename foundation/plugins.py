"""From a name in a recipe to the module that answers to it.

A plug-in is a module that exposes a dataclass ``Config`` with a method ``build``. A field of a recipe says which kind
it takes by a pattern: ``Annotated[Any, Plugin("foundation.objectives.{name}")]``. The name is looked up in this order:

1. a built-in file: ``foundation/objectives/NAME.py``;
2. an entry point ``NAME`` of an installed package, in the group called like the pattern's folder
   (``foundation.objectives``, ``foundation.modalities``), whose value is a module;
3. a dotted module: ``my_package.my_objective``.

No registry and no import side effects: the listing of a folder is the catalogue.

To import a module is to run it. Names stand in exports, checkpoints, indices and run folders as well, which someone
else may have written; there only 1 and 2 count. A dotted module must be named by the user: in a recipe of the user's
own, or by :func:`allow` (``--allow-plugins``).
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from foundation.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
_DEFINES_CONFIG = re.compile(r"^(class\s+Config\b|Config\s*[:=])", re.MULTILINE)
_SINGULAR = {"branches": "branch", "modalities": "modality", "convert": "source"}
_allowed: set[str] = set()


@dataclass(frozen=True)
class Plugin:
    """Marks a field as a plug-in: a mapping with a key that names it.

    Attributes:
        pattern: dotted name of the built-in module with the placeholder ``{name}``; what follows the placeholder is
            the file inside a plug-in that is a package (``foundation.modalities.{name}.views``).
        key: the key that holds the name.
        usual: name where a mapping has no such key; None: it must have one, or the field a default.
    """

    pattern: str
    key: str = "name"
    usual: str | None = None

    @property
    def group(self) -> str:
        """Entry-point group and folder: ``foundation.objectives``."""
        return self.pattern.partition(".{name}")[0]

    @property
    def suffix(self) -> str:
        """What follows the name: empty or such as ``.views``."""
        return self.pattern.partition("{name}")[2]

    @property
    def kind(self) -> str:
        """One word for messages: ``objective``."""
        folder = self.group.rpartition(".")[2]
        return _SINGULAR.get(folder, folder.removesuffix("s"))


def _file(plugin: Plugin, name: str) -> Path:
    """Where the built-in plug-in of this name would lie; ``name`` is an identifier, so it cannot leave the folder."""
    parts = plugin.pattern.format(name=name).split(".")[1:]
    return _PACKAGE.joinpath(*parts).with_suffix(".py")


def _is_plugin(file: Path) -> bool:
    return file.is_file() and _DEFINES_CONFIG.search(file.read_text(encoding="utf-8")) is not None


def available(pattern: str) -> list[str]:
    """Names that :func:`resolve` knows: built-in ones by reading the folder (nothing is imported) and entry points."""
    plugin = Plugin(pattern)
    folder = _PACKAGE.joinpath(*plugin.group.split(".")[1:])
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    stems = {entry.stem for entry in entries if entry.stem.isidentifier() and not entry.stem.startswith("_")}
    built_in = {stem for stem in stems if _is_plugin(_file(plugin, stem))}
    return sorted(built_in | {point.name for point in entry_points(group=plugin.group)})


def near(name: str, names: Iterable[str], most: int = 1) -> str:
    """``; did you mean 'dino'?`` when one of the names is close, or some (``most``) are; else nothing."""
    matches = difflib.get_close_matches(name, list(names), n=most, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def allow(*names: str) -> None:
    """Let names in data lead to these modules, and to those below them, for the rest of this process.

    Args:
        names: dotted names of modules or packages that the user trusts: ``my_package``, ``my_package.align``.

    Raises:
        UserError: what can be no module.
    """
    for name in names:
        if not _is_dotted(name):
            raise UserError(f"{name!r} cannot name a module or package: use letters, digits, '_' and '.'")
    _allowed.update(names)


def add_option(parser: argparse.ArgumentParser) -> None:
    """``--allow-plugins``, for every command that reads runs, models or shards."""
    parser.add_argument(
        "--allow-plugins", action=_Allow, default=[], metavar="NAME",
        help="a module or package outside this one that the files named here may run, such as my_package (repeatable)",
    )  # fmt: skip


class _Allow(argparse.Action):
    """Takes effect as it is read, before anything is opened."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        allow(str(values))
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), str(values)])


def is_allowed(name: str) -> bool:
    """Whether the user has named this module or a package above it."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in _allowed for count in range(1, len(parts) + 1))


def resolve(pattern: str, name: str, *, own: bool = False) -> ModuleType:
    """The module of a plug-in.

    Args:
        pattern: as in :class:`Plugin`.
        name: a built-in name, the name of an entry point or a dotted module.
        own: the name is the user's own word: a dotted one is imported, and is allowed from then on. Otherwise it comes
            from data, and is imported only if it is allowed (see :func:`allow`).

    Returns:
        A module with a class ``Config``.

    Raises:
        UserError: nothing answers to the name (the message lists what there is), the module has no ``Config``, or it
            is not allowed.
    """
    plugin = Plugin(pattern)
    if not _is_dotted(name):
        raise UserError(f"{name!r} cannot name a module: use letters, digits, '_' and '.' (as in {_example(plugin)})")
    if "." in name and own:
        allow(name)
    elif "." in name and not is_allowed(name):
        raise UserError(
            f"{plugin.kind} {name!r} is a module outside this package, and names in data are not trusted: to import it "
            f"is to run it. If you trust it, add --allow-plugins {name}"
        )
    module = _find(plugin, name)
    if module is None:
        names = available(pattern)
        raise UserError(
            f"no {plugin.kind} called {name!r}{near(name, names)} (available: {', '.join(names) or 'none'}; "
            f"or give a dotted module, such as {_example(plugin)})"
        )
    if not hasattr(module, "Config"):
        raise UserError(f"module {module.__name__!r} is no {plugin.kind}: it has no class 'Config'")
    return module


def name_of(pattern: str, config: object) -> str:
    """The name by which :func:`resolve` finds the module of a plug-in's ``Config`` instance again."""
    plugin, module = Plugin(pattern), type(config).__module__
    name = module.removesuffix(plugin.suffix)
    short = name.removeprefix(plugin.group + ".")
    for point in entry_points(group=plugin.group):
        if point.module == name:
            return point.name
    return short if short != name and "." not in short and _is_plugin(_file(plugin, short)) else name


def _is_dotted(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _example(plugin: Plugin) -> str:
    return f"my_package.my_{plugin.kind}"


def _find(plugin: Plugin, name: str) -> ModuleType | None:
    if "." not in name:
        if _is_plugin(_file(plugin, name)):
            return importlib.import_module(plugin.pattern.format(name=name))
        for point in entry_points(group=plugin.group):
            if point.name == name:
                return importlib.import_module(point.module + plugin.suffix)
        return None
    target = name + plugin.suffix
    try:
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        # Only "there is no such module" is a wrong name; a module that exists and misses a library must say so itself.
        if error.name is not None and (target == error.name or target.startswith(error.name + ".")):
            return None
        raise
