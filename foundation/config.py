"""A strict reader of recipes: YAML to typed, frozen dataclasses, with every mistake at once and in its place.

Values are read by the type that the dataclass declares, never guessed: ``1e-3`` is a number where a number is
declared, ``no`` is a word where text is. There are no references between recipes, no aliases and no tags; a recipe is a
whole run. How a type is read: ``foundation/config_reader.py``.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from yaml.nodes import Node

from foundation import schema
from foundation.config_nodes import compose, mapping_at, node_of, refuse_spaces, start_of, written_at
from foundation.config_reader import Reader, fields_of, members_of, plugin_of
from foundation.errors import RecipeError, UserError
from foundation.inherited import INHERITED
from foundation.plugins import name_of
from foundation.printable import printable
from foundation.ranges import bare, hints_of
from foundation.redact import redact
from foundation.voice import plural

T = TypeVar("T")

MOST_BYTES = 4 * schema.MEBIBYTE
"""Size of a recipe, at most."""


def load(
    cls: type[T], source: str | Path, overrides: Sequence[str] = (), name: str = "recipe", *, own: bool = False
) -> T:
    """Read a dataclass from YAML.

    Args:
        cls: dataclass to build.
        source: a file (a ``Path``, or one line that ends in ``.yaml`` or ``.yml``), else the YAML text itself.
        overrides: ``key.sub=value`` or ``objectives.0.weight=2``; the value is read as YAML. The last one wins.
        name: what messages call a text that comes from no file.
        own: the user has named this very file as a recipe, so that it may name dotted modules as parts. All else, such
            as the recipe in a run folder or an export, is data: see ``foundation/plugins.py``.

    Returns:
        An instance of ``cls``.

    Raises:
        UserError: lists all problems, each with file, line, key and, where there is one, the nearest right key.
    """
    reader = Reader(own)
    root, name = _tree(reader, source, overrides, name)
    value = reader.read(cls, root, "")
    if reader.problems:
        raise _together(reader.problems, name)
    return typing.cast(T, value)


def located(error: RecipeError, source: str | Path, overrides: Sequence[str] = (), name: str = "recipe") -> UserError:
    """The mistakes of a recipe that could be read but not built, each with the file and line, or the override, that
    its key stands in; a key that is not written stands where the nearest section around it does.

    Args:
        error: what building said.
        source: as :func:`load` was given it.
        overrides: likewise.
        name: likewise.
    """
    reader = Reader()
    root, name = _tree(reader, source, overrides, name)
    for key, text in error.problems:
        inner = re.match(rf"{re.escape(key)}(?:\.[\w-]+)*(?=:? )", text)  # a text that names the very key, or one below
        reader.problem(written_at(root, inner[0] if inner else key), text if inner else f"{key}: {text}")
    return _together(reader.problems, name)


def _tree(reader: Reader, source: str | Path, overrides: Sequence[str], name: str) -> tuple[Node, str]:
    """The nodes of a recipe with its overrides, and what messages call it."""
    if isinstance(source, Path) or (source.endswith((".yaml", ".yml")) and "\n" not in source):
        name = str(source)
        try:
            text = read_text(Path(source))
        except FileNotFoundError as error:
            raise UserError(f"cannot read {name}: {error}") from None
    else:
        text = str(source)
    root = compose(text, name) or mapping_at(start_of(name))
    refuse_spaces(overrides)
    for override in overrides:
        reader.override(root, override)
    return root, name


def _together(problems: Sequence[tuple[int, str]], name: str) -> UserError:
    """All problems in the order of their lines, those of overrides last."""
    lines = [f"  {line}" for _, line in sorted(problems, key=lambda problem: problem[0])]
    return UserError("\n".join([f"{plural(len(lines), 'problem')} in {name}", *lines]))


def read_text(path: Path) -> str:
    """The text of a recipe.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read, is too long or no UTF-8.
    """
    try:
        return schema.read_bytes(path, MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {printable(path)}: {error}") from None


def read_plain(path: Path) -> dict[str, Any]:
    """A YAML file as plain values, whatever it says: to look at a recipe without building it, so nothing is imported.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read, or is no mapping in plain YAML.
    """
    return plain_of(read_text(path), printable(path))


def plain_of(text: str, name: str) -> dict[str, Any]:
    """As :func:`read_plain`, of a text; ``name`` is what messages call it."""
    reader, root = Reader(), compose(text, name)
    value = {} if root is None else reader.read_any(root, "")
    if reader.problems or not isinstance(value, dict):
        raise UserError(f"{reader.problems[0][1] if reader.problems else f'{name} is no mapping'}")
    return value


def dump(obj: Any) -> str:
    """The whole dataclass as YAML; :func:`load` gives back an equal one, but for the secrets of addresses, which are
    masked."""
    plain = to_plain(obj)
    text: str = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text


def to_plain(obj: Any, hint: Any = None) -> Any:
    """Dataclasses as dictionaries (a plug-in with its name), tuples as lists, paths as text.

    Args:
        obj: dataclass, container or scalar. Secrets of addresses are masked: what is plain gets written.
        hint: declared type of ``obj``; tells which dataclasses are plug-ins.
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        short = obj.to_yaml() if hasattr(obj, "to_yaml") else None
        if short is not None:
            return short
        hints, marker = hints_of(type(obj)), plugin_of(hint)
        named = {} if marker is None else {marker.key: name_of(marker.pattern, obj)}
        given = [(f.name, getattr(obj, f.name)) for f in fields_of(type(obj))]
        return named | {name: to_plain(value, hints[name]) for name, value in given if value is not INHERITED}
    arguments = [a for member in members_of(hint) for a in get_args(bare(member))]
    if isinstance(obj, Mapping):
        return {key: to_plain(value, arguments[1] if len(arguments) > 1 else None) for key, value in obj.items()}
    if isinstance(obj, (tuple, list)):
        fixed = len(arguments) == len(obj) and Ellipsis not in arguments
        return [to_plain(x, arguments[i] if fixed else (arguments or [None])[0]) for i, x in enumerate(obj)]
    return redact(str(obj)) if isinstance(obj, (str, Path)) else obj


def from_plain(cls: type[T], plain: Mapping[str, Any], name: str = "card") -> T:
    """The inverse of :func:`to_plain`, as strict as :func:`load`.

    Raises:
        UserError: lists all problems with their keys; ``name`` stands in front of them.
    """
    reader = Reader()
    value = reader.read(cls, node_of(dict(plain), name), "")
    if reader.problems:
        raise _together(reader.problems, name)
    return typing.cast(T, value)
