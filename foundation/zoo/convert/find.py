"""From the name of a file to the encoder that its weights are of: which source it is, and what it needs to be told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from foundation import config
from foundation.errors import UserError
from foundation.plugins import Plugin, available, resolve
from foundation.printable import printable
from foundation.weights import check_finite, check_fits, layout_of
from foundation.zoo.convert.base import PATTERN, Converted, Source
from foundation.zoo.convert.read import ENDINGS, Level, levels, read

_NAMED = re.compile(rf"(?P<file>.+?({'|'.join(map(re.escape, ENDINGS))}))(?P<given>(,[a-z_]+=[^,]*)*)")
_SHOWN = 6


@dataclass(frozen=True)
class Foreign:
    """A file of foreign weights, and what the user says of it.

    Attributes:
        path: of the file.
        source: its name, such as ``dinov2``; None: found by the names and shapes of the tensors.
        given: fields of the source's ``Config``, as text.
    """

    path: Path
    source: str | None = None
    given: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Result:
    """Weights under our names.

    Attributes:
        source: name of the source.
        title: for a person.
        converted: see :class:`foundation.zoo.convert.base.Converted`; ``left_out`` with what lay beside the weights.
        path: what they were wrapped in, from outside.
    """

    source: str
    title: str
    converted: Converted
    path: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Given:
    source: Annotated[Any, Plugin(PATTERN)]


def foreign(text: str) -> Foreign | None:
    """``dinov2_vits14.pth`` or ``weights.pth,as=dinov2,heads=6``; None where it names no file of weights.

    A ``.safetensors`` file with a card beside it is an export, unless ``as=`` says otherwise.

    Raises:
        UserError: options without ``as=SOURCE``.
    """
    found = _NAMED.fullmatch(text)
    if found is None or "://" in text:
        return None
    path = Path(found["file"])
    if path.is_dir():  # a run whose name ends so
        return None
    given = dict(part.split("=", 1) for part in found["given"].split(",") if part)
    source = given.pop("as", None)
    if given and source is None:
        raise UserError(f"{text}: say whose weights they are, {path},as=SOURCE,{found['given'][1:]}; {known()}")
    if source is None and path.suffix == ".safetensors" and (path.with_suffix(".json").exists() or not path.is_file()):
        return None
    return Foreign(path, source, given)


def known() -> str:
    """The sources, for a message."""
    return f"sources are {', '.join(available(PATTERN))}"


def convert(named: Foreign, branch: str | None = None) -> Result:
    """Read and convert a file.

    Args:
        named: which, and as what.
        branch: which of several encoders in it, such as ``student``; None: the average of the training.

    Raises:
        UserError: it cannot be read; it is of no source, or of several (with those); its tensors do not fit.
    """
    path = named.path
    level, name, source = _source(named, read(path), branch)
    try:
        converted = source.convert(level.state)
        check_fits(converted.encoder, layout_of(converted.tensors), f"the converted {path.name}")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_finite(converted.tensors, str(path))
    whole = Converted(
        converted.encoder, converted.modality, converted.evaluation, converted.tensors,
        {**level.left_out, **converted.left_out}, converted.notes,
    )  # fmt: skip
    return Result(name, source.title, whole, level.path)


def _source(named: Foreign, content: Mapping[str, Any], branch: str | None) -> tuple[Level, str, Source]:
    """The first level of a file that a source knows."""
    path = named.path
    if named.source is not None:
        plain = {"name": named.source, **{key: _value(text) for key, text in (named.given or {}).items()}}
        candidates = {named.source: config.from_plain(_Given, {"source": plain}, name=str(path)).source}
    else:
        candidates = {name: resolve(PATTERN, name).Config() for name in available(PATTERN)}
    last: Mapping[str, Tensor] = {}
    for level in levels(content, branch):
        fitting = [name for name, source in candidates.items() if source.matches(level.state)]
        if len(fitting) > 1:
            options = ", ".join(f"{path},as={name}" for name in fitting)
            raise UserError(
                f"{path}: names and shapes of its tensors are those of {', '.join(fitting)} alike, which differ in how "
                f"images are prepared and positions resized: say which, as one of {options}"
            )
        if fitting:
            return level, fitting[0], candidates[fitting[0]]
        last = level.state
    whose = f"of {candidates[named.source].title}" if named.source is not None else "that are known here"
    if named.source is None and path.suffix == ".safetensors":
        whose += f" (an export of ours is two files, and its card {path.with_suffix('.json').name} is missing)"
    there = ", ".join(printable(key) for key in [*last][:_SHOWN]) or "no tensors by name"
    alike = "" if named.source is None else _alike(path, content, branch)
    raise UserError(f"{path} holds no weights {whose}{alike}; there are: {there}; {known()}")


def _alike(path: Path, content: Mapping[str, Any], branch: str | None) -> str:
    """The sources that do know the tensors of a file, for a message."""
    sources = {name: resolve(PATTERN, name).Config() for name in available(PATTERN)}
    for level in levels(content, branch):
        if found := [f"{path},as={name}" for name, source in sources.items() if source.matches(level.state)]:
            return f", but such as {' or '.join(found)} takes"
    return ""


def _value(text: str) -> Any:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
