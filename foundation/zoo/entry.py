"""Cards of the model zoo: what ``model_zoo/NAME.yaml`` says of a model, read strictly.

A card is data that somebody else may have written: it is read as plain YAML, unknown keys are refused, and no name in
it can lead out of the folder that its files are kept in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml

from foundation import config
from foundation.data.addresses import has_password
from foundation.errors import UserError
from foundation.plugins import near
from foundation.printable import printable
from foundation.ranges import Count, Length, Number, Range, Rate, Side
from foundation.redact import redact

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://[!-~]{1,4000}")
_SCHEMES = ("https", "http", "s3", "gs", "hf", "file")
_LOADS = re.compile(r"timm:[A-Za-z0-9][\w.-]*|open_clip:[A-Za-z0-9][\w.-]*,pretrained=[A-Za-z0-9][\w.-]*", re.ASCII)
LARGEST = 2**50
"""Bytes of a file, at most."""
WEIGHTS = ".safetensors"
"""Ending of the file with the encoder's weights."""
HEADS = ".heads.safetensors"
"""Ending of the file with the heads that it was trained with, behind the same name."""
How = Literal["extracted", "converted", "distilled", "continued"]


def check_name(name: str, what: str = "name") -> str:
    """The name of a model of the zoo, which is that of a folder and of a card as well.

    Raises:
        UserError: it is none.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{what} {printable(name[:100])!r} is no name of a model: small letters, digits, '.', '_' and '-', at most "
            "100, with a letter or digit at both ends"
        )
    return name


def is_name(text: str) -> bool:
    """Whether a text can be the name of a model, and is no path or address."""
    try:
        return bool(check_name(text))
    except UserError:
        return False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The encoder."""

    encoder: str
    """Kind of encoder: a file of ``foundation/encoders``."""
    parameters: Count
    """Trainable numbers."""
    width: Side
    """Numbers of a feature."""
    depth: Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Length(1, 64)]
    """Blocks; one number for a transformer, one for each stage of a hierarchical network."""
    details: dict[str, Any] = field(default_factory=dict)
    """Other settings of the encoder that matter to a user, such as ``heads``, ``patch_size``, ``registers``."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What the encoder is fed."""

    shape: Annotated[tuple[Side, ...], Length(1, 8)]
    """Of one sample without the batch, as the probes see it: for images channels, height, width."""
    rate: Rate | None = None
    """Samples, readings or frames per second."""
    units: str = ""
    """Of the numbers before they are normalised."""
    mean: Annotated[tuple[Number, ...], Length(0, 4096)] = ()
    """That is taken away, for each channel."""
    deviation: Annotated[tuple[Number, ...], Length(0, 4096)] = ()
    """By which the rest is divided, for each channel."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set that the model was trained on."""

    name: str
    """As its authors call it."""
    licence: str
    """SPDX identifier, or words where there is none."""
    url: str = ""
    """Where it is described."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score, with what is needed to measure it again."""

    task: str
    """What was scored, such as ``knn``."""
    metric: str
    """Name of the number, such as ``top1``."""
    value: Number
    """The number."""
    interval: tuple[Number, Number] | None = None
    """95 % interval."""
    n: Count | None = None
    """Test samples."""
    protocol: str
    """Data, split, feature, settings."""
    command: str = ""
    """That measured it; the source of the number where it was measured elsewhere."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the model."""

    name: str
    """It has in the folder of the model."""
    size: Annotated[int, Range(1, LARGEST)]
    """Bytes."""
    sha256: str
    """Hexadecimal."""
    sources: Annotated[tuple[str, ...], Length(1, 64)]
    """Where to get it, the first first: paths beside the card, or addresses with https, http, s3, gs, hf or file."""

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.name) or ".." in self.name:
            raise UserError(f"name {printable(self.name[:100])!r} is no plain name of a file")
        if not _SHA256.fullmatch(self.sha256):
            raise UserError("sha256 must be 64 hexadecimal digits in small letters")
        for source in self.sources:
            _check_source(source)


def _check_source(source: str) -> None:
    found = _SOURCE.fullmatch(source)
    if has_password(source):
        raise UserError(f"sources: {redact(source)} has a user name or password: whoever reads the card would see it")
    if found and found["scheme"] not in _SCHEMES:
        raise UserError(f"sources: no kind of storage is called {found['scheme']}:// ({', '.join(_SCHEMES)})")
    plain = all(_FILE.fullmatch(part) and ".." not in part for part in PurePosixPath(source).parts)
    if not found and (not plain or source.startswith("/")):
        raise UserError(f"sources: {printable(source[:100])!r} is neither a path beside the card nor an address")


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A model that this one comes from."""

    of: str
    """Its name, address or SHA-256."""
    how: How
    """What was done with it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of the zoo."""

    name: str
    """By which it is loaded: ``foundation.load(name)``."""
    summary: str
    """One line."""
    modality: str
    """Folder name in ``foundation/modalities``."""
    architecture: Architecture
    input: Input
    recipe: str = ""
    """Name of the shipped recipe, or what is known of the training."""
    data: Annotated[tuple[Data, ...], Length(0, 100)] = ()
    """That it was trained on."""
    licence: str
    """Of the weights: SPDX identifier, or words where there is none."""
    metrics: Annotated[tuple[Metric, ...], Length(0, 1000)] = ()
    files: Annotated[tuple[File, ...], Length(0, 100)] = ()
    """Of an export: the weights ``NAME.safetensors`` and, beside them, their card ``NAME.json``; perhaps the heads
    ``NAME.heads.safetensors``, which are pulled when they are asked for."""
    parents: Annotated[tuple[Parent, ...], Length(0, 100)] = ()
    loads: str = ""
    """A model of a library, in place of files: ``timm:NAME`` or ``open_clip:NAME,pretrained=TAG``."""
    reproduce: str = ""
    """Command that trains it again."""
    notes: str = ""
    """What else a user should know."""

    def __repr__(self) -> str:
        """One line; ``dump`` gives the whole card."""
        millions = f"{self.architecture.parameters / 1e6:,.2f} M parameters"
        return f"<{self.name}: {self.modality}, {millions}, {printable(self.licence)}; {printable(self.summary)}>"

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.loads and (self.files or not _LOADS.fullmatch(self.loads)):
            raise UserError(
                "loads is timm:NAME or open_clip:NAME,pretrained=TAG with names of the library's own models, and "
                "stands in place of files"
            )
        if not (self.loads or self.files or self.reproduce):
            raise UserError("reproduce is needed where neither files nor loads say how to get the model")
        names = [file.name for file in self.files]
        if len({name.lower() for name in names}) != len(names):
            raise UserError("files must have different names")
        weights = [name.removesuffix(WEIGHTS) for name in names if name.endswith(WEIGHTS) and not name.endswith(HEADS)]
        if self.files and (len(weights) != 1 or f"{weights[0]}.json" not in names):
            raise UserError("files must be one NAME.safetensors and its card NAME.json, and what else belongs to them")
        if any(name.endswith(HEADS) and name != f"{weights[0]}{HEADS}" for name in names):
            raise UserError(f"files: heads are called {weights[0]}{HEADS}, as the weights that they belong to")

    @property
    def weights(self) -> File | None:
        """The file with the encoder's weights."""
        return next((file for file in self.needed if file.name.endswith(WEIGHTS)), None)

    @property
    def heads(self) -> File | None:
        """The file with the heads that it was trained with; None where they are not published."""
        return next((file for file in self.files if file.name.endswith(HEADS)), None)

    @property
    def needed(self) -> tuple[File, ...]:
        """The files without which it cannot be used: all but the heads."""
        return tuple(file for file in self.files if not file.name.endswith(HEADS))

    @property
    def size(self) -> int:
        """Bytes of the files that are needed."""
        return sum(file.size for file in self.needed)


def read(path: Path) -> Entry:
    """The card in a file.

    Raises:
        UserError: it is no card; names the keys and lines, and the nearest right keys.
    """
    entry = config.load(Entry, path)
    if entry.name != path.stem:
        raise UserError(f"{path}: the card is called {entry.name!r}, and must lie in {entry.name}.yaml")
    return entry


def from_plain(plain: Mapping[str, Any], source: str) -> Entry:
    """The card that a mapping says, of an index; ``source`` is what messages call it.

    Raises:
        UserError: it is no card.
    """
    return config.from_plain(Entry, plain, name=source)


def dump(entry: Entry) -> str:
    """The card as YAML, without the keys that say nothing; :func:`read` gives back an equal one."""
    text: str = yaml.safe_dump(to_plain(entry), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text


def to_plain(entry: Entry) -> dict[str, Any]:
    """The card as plain values, without the keys that say nothing; :func:`from_plain` gives back an equal one."""
    plain: dict[str, Any] = _said(config.to_plain(entry))
    return plain


def _said(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _said(value) for key, value in plain.items() if value not in (None, "", [], {})}
    return [_said(value) for value in plain] if isinstance(plain, list) else plain


def matches(entry: Entry, text: str = "", modality: str = "") -> bool:
    """Whether a card is of a modality, and all words of a text stand in its name, summary, recipe, data or licence."""
    said = [entry.name, entry.summary, entry.modality, entry.recipe, entry.licence, entry.architecture.encoder]
    whole = " ".join([*said, *(data.name for data in entry.data)]).lower()
    return (not modality or entry.modality == modality) and all(word in whole for word in text.lower().split())


def no_such(name: str, names: list[str]) -> str:
    """The words for a name that the zoo does not have."""
    return f"no model {printable(name)!r} in the zoo{near(name, names, most=3)} ('foundation zoo list' shows them)"
