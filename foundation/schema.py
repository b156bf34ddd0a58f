"""One reader for every JSON file that a run, a model or a data set leaves: what it gives has the declared form.

A form is a ``TypedDict`` (unknown keys are let through: newer versions write more), ``list[X]``, ``dict[str, X]``,
``tuple[X, Y]``, ``Literal[...]``, ``X | None``, ``str``, ``int``, ``float``, ``bool`` or ``Any``. Whole numbers fit
into 64 bits, numbers are finite, text can be written as UTF-8. The file is a regular one, bounded in size and in depth:
whoever wrote it need not be trusted.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NotRequired, TypeVar, Union, get_args, get_origin

from foundation.errors import UserError
from foundation.printable import printable

T = TypeVar("T")

MEBIBYTE = 1 << 20
DEEPEST = 64
"""Lists and mappings inside one another, at most."""
_LARGEST = 2**63 - 1
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_MOST_SHOWN = 60


class FormError(UserError):
    """A file that is not what it should be: damaged, of another kind, or made to do harm."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Raises:
        FileNotFoundError: there is none.
        FormError: it cannot be read, or is a folder, a pipe or a device.
    """
    name = printable(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise FormError(f"{name} is {_kind_of(mode)}, not a file")
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise FormError(f"{name} cannot be read: {reason}") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """Content of a regular file.

    Args:
        path: of the file.
        limit: bytes, at most.

    Raises:
        FileNotFoundError: there is none.
        FormError: it cannot be read, is larger, or is a folder, a pipe or a device.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        raise FormError(f"{printable(path)} has {max(size, len(content)):,} bytes; at most {limit:,} are read")
    return content


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_json(form: type[T], path: Path, limit: int = 16 * MEBIBYTE) -> T:
    """The value in a JSON file, of the declared form.

    Args:
        form: see the module.
        path: of the file.
        limit: bytes, at most.

    Raises:
        FileNotFoundError: there is no such file.
        FormError: naming the file and, where one is wrong, the field.
    """
    return check(form, parse(read_bytes(path, limit), str(path)), str(path))


def parse(content: bytes | str, where: str) -> Any:
    """The value that a JSON text holds, not deeper than :data:`DEEPEST`.

    Args:
        content: UTF-8 where it is bytes.
        where: path or address, for messages.

    Raises:
        FormError: it is no JSON.
    """
    where = printable(where)
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise FormError(f"{where} is damaged: byte {error.start} is not UTF-8 text") from None
    except RecursionError:
        raise FormError(f"{where} is damaged: nested too deeply") from None
    except ValueError as error:
        raise FormError(f"{where} is damaged: no JSON: {printable(error)}") from None
    if _too_deep(value):
        raise FormError(f"{where} is damaged: nested too deeply (more than {DEEPEST} levels)")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def check(form: type[T], value: Any, where: str) -> T:
    """The same value, once it has been compared with a form.

    Raises:
        FormError: naming file and field, what it must be and what it is.
    """
    _check(form, value, printable(where), "")
    return typing.cast(T, value)


def _check(form: Any, value: Any, where: str, key: str) -> None:
    origin, arguments = get_origin(form), get_args(form)
    if origin in (Annotated, NotRequired):
        _check(arguments[0], value, where, key)
    elif form is Any or form is object:
        return
    elif origin in (Union, types.UnionType):
        _check_union(arguments, value, where, key)
    elif origin is Literal:
        if value not in arguments or isinstance(value, bool):
            _refuse(where, key, " or ".join(map(repr, arguments)), value)
    elif typing.is_typeddict(form):
        if not isinstance(value, dict):
            _refuse(where, key, "a mapping", value)
        for name, (hint, required) in _fields(form).items():
            if name in value:
                _check(hint, value[name], where, _join(key, name))
            elif required:
                raise FormError(f"{where} is damaged: it lacks {_join(key, name)!r}")
    elif origin is dict:
        if not isinstance(value, dict):
            _refuse(where, key, "a mapping", value)
        for name, inner in value.items():
            _check(str, name, where, key)
            _check(arguments[1], inner, where, _join(key, name))
    elif origin in (list, tuple):
        fixed = origin is tuple and Ellipsis not in arguments
        if not isinstance(value, list) or (fixed and len(value) != len(arguments)):
            _refuse(where, key, f"a list of {len(arguments)}" if fixed else "a list", value)
        for index, inner in enumerate(value):
            _check(arguments[index] if fixed else arguments[0], inner, where, _join(key, str(index)))
    else:
        _check_plain(form, value, where, key)


@functools.cache
def _fields(form: Any) -> dict[str, tuple[Any, bool]]:
    """Form of each field of a ``TypedDict``, and whether it must be there."""
    hints = typing.get_type_hints(form, include_extras=True)
    return {name: (hint, form.__total__ and get_origin(hint) is not NotRequired) for name, hint in hints.items()}


def _check_union(members: tuple[Any, ...], value: Any, where: str, key: str) -> None:
    if value is None and type(None) in members:
        return
    problems = []
    for member in members:
        if member is type(None):
            continue
        try:
            return _check(member, value, where, key)
        except FormError as error:
            problems.append(error)
    raise problems[0]


def _check_plain(form: Any, value: Any, where: str, key: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if form is str and isinstance(value, str):
        if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            _refuse(where, key, "text", value)
        return
    good = {
        int: number and isinstance(value, int) and abs(value) <= _LARGEST,
        float: number and (math.isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST),
        bool: isinstance(value, bool),
        type(None): value is None,
        list: isinstance(value, list),
        dict: isinstance(value, dict),
    }.get(form, False)
    if not good:
        _refuse(where, key, _WORDS.get(form, getattr(form, "__name__", str(form))), value)


def _refuse(where: str, key: str, wanted: str, value: Any) -> typing.NoReturn:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        found = "a number of more than 64 bits"
    elif isinstance(value, (dict, list)):
        found = f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    else:
        found = json.dumps(value)
        found = found if len(found) <= _MOST_SHOWN else found[:_MOST_SHOWN] + "…"
    what = repr(key) if key else "its content"
    raise FormError(f"{where} is damaged: {what} must be {wanted}, found {found}")


def _join(key: str, name: str) -> str:
    name = name if len(name) <= _MOST_SHOWN else name[:_MOST_SHOWN] + "…"
    return f"{key}.{name}" if key else name
