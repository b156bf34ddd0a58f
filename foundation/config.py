"""A strict reader of recipes: YAML to typed, frozen dataclasses, with every mistake at once and in its place.

Values are read by the type that the dataclass declares, never guessed: ``1e-3`` is a number where a number is
declared, ``no`` is a word where text is. There are no references between recipes, no aliases and no tags; a recipe is a
whole run. How a type is read: ``foundation/config_reader.py``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from foundation.config_reader import Reader, compose, fields_of, hints_of, mapping_at, members_of, plugin_of, start_of
from foundation.errors import UserError
from foundation.plugins import name_of
from foundation.ranges import bare

T = TypeVar("T")


def load(cls: type[T], source: str | Path, overrides: Sequence[str] = (), name: str = "recipe") -> T:
    """Read a dataclass from YAML.

    Args:
        cls: dataclass to build.
        source: a file (a ``Path``, or one line that ends in ``.yaml`` or ``.yml``), else the YAML text itself.
        overrides: ``key.sub=value`` or ``objectives.0.weight=2``; the value is read as YAML. The last one wins.
        name: what messages call a text that comes from no file.

    Returns:
        An instance of ``cls``.

    Raises:
        UserError: lists all problems, each with file, line, key and, where there is one, the nearest right key.
    """
    if isinstance(source, Path) or (source.endswith((".yaml", ".yml")) and "\n" not in source):
        name = str(source)
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {name}: {error}") from None
    else:
        text = str(source)
    reader = Reader()
    root = compose(text, name) or mapping_at(start_of(name))
    for override in overrides:
        reader.override(root, override)
    value = reader.read(cls, root, "")
    if reader.problems:
        lines = [f"  {line}" for _, line in sorted(reader.problems, key=lambda problem: problem[0])]
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in {name}"
        raise UserError("\n".join([count, *lines]))
    return typing.cast(T, value)


def dump(obj: Any) -> str:
    """The whole dataclass as YAML; :func:`load` gives back an equal one."""
    plain = to_plain(obj)
    text: str = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text


def to_plain(obj: Any, hint: Any = None) -> Any:
    """Dataclasses as dictionaries (a plug-in with its ``name``), tuples as lists, paths as text.

    Args:
        obj: dataclass, container or scalar.
        hint: declared type of ``obj``; tells which dataclasses are plug-ins.
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        short = obj.to_yaml() if hasattr(obj, "to_yaml") else None
        if short is not None:
            return short
        hints, marker = hints_of(type(obj)), plugin_of(hint)
        named = {} if marker is None else {"name": name_of(marker.pattern, obj)}
        return named | {f.name: to_plain(getattr(obj, f.name), hints[f.name]) for f in fields_of(type(obj))}
    arguments = [a for member in members_of(hint) for a in get_args(bare(member))]
    if isinstance(obj, Mapping):
        return {key: to_plain(value, arguments[1] if len(arguments) > 1 else None) for key, value in obj.items()}
    if isinstance(obj, (tuple, list)):
        fixed = len(arguments) == len(obj) and Ellipsis not in arguments
        return [to_plain(x, arguments[i] if fixed else (arguments or [None])[0]) for i, x in enumerate(obj)]
    return str(obj) if isinstance(obj, Path) else obj


def from_plain(cls: type[T], plain: Mapping[str, Any], name: str = "card") -> T:
    """The inverse of :func:`to_plain`, as strict as :func:`load`."""
    return load(cls, yaml.safe_dump(dict(plain), sort_keys=False) + "\n", name=name)
