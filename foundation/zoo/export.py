"""Exports: one encoder as safetensors with a card beside it, for use without the run that made it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

from torch import Tensor

from foundation import config, schema
from foundation.checkpoints import checkpoint, stream
from foundation.errors import UserError
from foundation.files import replace_file
from foundation.parallel.blocks import any_sharded
from foundation.parallel.collective import rank
from foundation.parallel.shards import whole
from foundation.printable import printable
from foundation.version import VERSION
from foundation.weights import unfilled
from foundation.zoo.heads import HeadsFile, write_heads
from foundation.zoo.sections import branches, sections

CARD_FORMAT = 1
_LONGEST = 200
"""Bytes of a file's name before its ending, at most; with all that is added while it is written, 255 are allowed."""


class Part(TypedDict):
    """Which sub-network of a larger encoder an export is (POA).

    Attributes:
        width: see :class:`foundation.encoders.elastic.SubNetwork`.
        depths: likewise.
        of: SHA-256 of the larger one's weights; None where it had no file of its own.
        trained: an elastic branch of the recipe trained such sub-networks.
    """

    width: int
    depths: list[int]
    of: str | None
    trained: bool


class Origin(TypedDict):
    """A file that an export was made of.

    Attributes:
        of: SHA-256 of the file.
        how: ``converted``.
        source: see :mod:`foundation.zoo.convert.base`.
        file: its name.
    """

    of: str
    how: str
    source: str
    file: str


class Card(TypedDict):
    """What stands beside an export's weights; ``parameters`` counts no buffers, such as running statistics."""

    format: int
    name: str
    branch: str
    step: int
    modality: str
    encoder: dict[str, Any]
    evaluation: dict[str, Any]
    parameters: int
    file: str
    sha256: str
    computed: NotRequired[dict[str, str]]
    recipe: str
    foundation_version: str
    measured: NotRequired[bool]
    stage: NotRequired[int]
    sub_network: NotRequired[Part]
    parents: NotRequired[list[Origin]]
    heads: NotRequired[HeadsFile]


class Numbers(TypedDict):
    """What an encoder needs to know of a checkpoint's ``state.json``."""

    step: int
    recipe: str
    computed: NotRequired[dict[str, str]]
    stage: NotRequired[int]
    measured: NotRequired[str]
    exports: NotRequired[list[str]]


class Described(Protocol):
    """A recipe, or those sections of one that a card tells of."""

    @property
    def name(self) -> str: ...

    @property
    def views(self) -> Any: ...

    @property
    def encoder(self) -> Any: ...


def write_export(
    path: Path,
    tensors: Mapping[str, Tensor],
    recipe: Described,
    branch: str,
    step: int,
    computed: Mapping[str, str] | None = None,
    text: str | None = None,
    measured: bool = True,
    stage: int = 0,
    parameters: Collection[str] | None = None,
    read: Callable[[str], Tensor] | None = None,
    heads: HeadsFile | None = None,
) -> Path:
    """Write ``path`` (``.safetensors``) and its card (``.json``), each replaced whole.

    Args:
        path: of the weights.
        tensors: the encoder's state dictionary; with ``read`` dtypes and shapes alone count.
        recipe: it was trained with.
        branch: ``student`` or a teacher's name.
        step: optimiser steps done.
        computed: device, processor and precision of the training; None: not known (of an older checkpoint).
        text: of the whole recipe; None: ``recipe`` is the whole.
        measured: the run was measured by this branch.
        stage: of the recipe that the weights are of, from 0.
        parameters: names of the tensors that are no buffers; None: as the recipe's encoder has them.
        read: gives a tensor by its name; one at a time is asked for.
        heads: what was written beside it.
    """
    if parameters is None:
        parameters = dict(unfilled(without_download(recipe.encoder), len(tensors), str(path)).named_parameters())
    card: Card = {
        "format": CARD_FORMAT,
        "name": f"{recipe.name}-{branch}",
        "branch": branch,
        "step": step,
        "modality": recipe.views.modality,
        "encoder": dict(config.to_plain(recipe)["encoder"]),
        "evaluation": config.to_plain(recipe.views.evaluation()),
        "parameters": sum(tensor.numel() for name, tensor in tensors.items() if name in parameters),
        "file": path.name,
        "sha256": "",
        "computed": dict(computed or {}),
        "recipe": config.dump(recipe) if text is None else text,
        "foundation_version": VERSION,
        "measured": measured,
        "stage": stage,
    }
    if heads is not None:
        card["heads"] = heads
    return write_weights(path, tensors, card, read)


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], card: Card, read: Callable[[str], Tensor] | None = None
) -> Path:
    """Write weights (``.safetensors``) and then their card (``.json``), each replaced whole.

    Args:
        path: of the weights.
        tensors: the encoder's state dictionary; with ``read`` dtypes and shapes alone count.
        card: its ``sha256`` is filled in.
        read: gives a tensor by its name; one at a time is asked for.
    """
    digest = stream.write(path, tensors, tensors.__getitem__ if read is None else read)
    replace_file(path.with_suffix(".json"), json.dumps({**card, "sha256": digest}, indent=1).encode())
    return path


def without_download(encoder_config: Any) -> Any:
    """The same encoder, whose weights come from elsewhere: it must not fetch or read those that its settings name."""
    fields = {item.name: item.default for item in dataclasses.fields(encoder_config)}
    nothing = {name: fields[name] for name in ("pretrained", "weights") if name in fields}
    return dataclasses.replace(encoder_config, **nothing) if nothing else encoder_config


def file_stem(name: str, source: object) -> str:
    """A name of a run, branch or model as the name of a file without its ending.

    Args:
        name: as a card or a checkpoint says it, which need not be trusted.
        source: of the name, for messages.

    Raises:
        UserError: a file of that name would lie elsewhere than beside the others, or cannot be.
    """
    plain = name.strip(". ") and name.isprintable() and not any(part in name for part in ("/", "\\", ".."))
    if not plain or len(name.encode()) > _LONGEST:
        shown = printable(name[:60]) + ("..." if len(name) > 60 else "")
        raise UserError(
            f"{source}: name '{shown}' cannot be the name of a file: it must have 1 to {_LONGEST} bytes of visible "
            "characters, without '/', '\\' and '..'"
        )
    return name


def make_folder(out: Path) -> None:
    """Make the folder of exports.

    Raises:
        UserError: it cannot be; names it and the reason.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is no folder" if out.exists() else error.strerror
        raise UserError(f"cannot write into {out}: {reason}; name another folder by --out") from None


def export_branch(
    path: Path, recipe: Any, learner: Any, branch: str, step: int, computed: Mapping[str, str] | None = None
) -> Path:
    """Export the encoder of a branch of a run, as it stands; arguments as of :func:`write_export`.

    Where its weights are sharded, all processes call this together, and process 0 writes: it gets one tensor at a time.
    """
    built = learner.branch(branch)
    encoder, heads = built.encoder, built.heads.state_dict()
    text, tensors, named = config.dump(recipe), encoder.state_dict(), dict(encoder.named_parameters())

    def read(key: str) -> Tensor:
        return whole(tensors[key])

    def read_head(key: str) -> Tensor:
        return whole(heads[key])

    own = sections(text, recipe.name, branch=branch)
    if rank() != 0 and any_sharded({"encoder": tensors, "heads": heads}):
        for some, give in ((heads, read_head), (tensors, read)) if heads else ((tensors, read),):
            stream.write(None, some, give)
        return path
    measured, beside = branch == learner.measured, write_heads(path, heads, read_head)
    return write_export(
        path, tensors, own, branch, step, computed, text, measured, parameters=named, read=read, heads=beside
    )


def export_branches(
    recipe: Any, learner: Any, folder: Path, step: int, computed: Mapping[str, str] | None = None
) -> list[Path]:
    """Export the encoder of every branch that is trained or an average."""
    return [
        export_branch(folder / f"{name}.safetensors", recipe, learner, name, step, computed) for name in learner.exports
    ]


def export_checkpoint(folder: Path, out: Path, *, verify: bool = True) -> list[Path]:
    """Export all encoders of a checkpoint without building the run; one tensor at a time is in memory.

    Args:
        folder: a valid checkpoint, of any number of processes.
        out: folder for the exports.
        verify: compare every byte with the manifest first; False for one that has just been written.

    Raises:
        UserError: when the checkpoint is damaged, or ``out`` cannot be made.
    """
    content = checkpoint.read(folder, (), verify=verify)[1]
    numbers = schema.check(Numbers, content, f"{folder}/{checkpoint.STATE}")
    text, source, step = numbers["recipe"], f"{folder}/{checkpoint.STATE}", int(numbers["step"])
    stage, computed = numbers.get("stage", 0), numbers.get("computed")
    names = numbers.get("exports", ["student", *branches(text, source, stage)])
    chosen = measured_of(folder, numbers)
    written: list[Path] = []
    with checkpoint.Reader(folder) as reader:
        there = {name: _encoder(reader, name) for name in names if file_stem(name, source)}
        make_folder(out)
        for name, (group, prefix, like) in there.items():
            if like:
                own, path = sections(text, source, stage, name), out / f"{name}.safetensors"
                read = partial(_read, reader, group, prefix)
                _, heads_prefix, heads = _part(reader, name, "heads")
                beside = write_heads(path, heads, partial(_read, reader, group, heads_prefix))
                write_export(
                    path, like, own, name, step, computed, text, name == chosen, stage, read=read, heads=beside
                )
                written.append(path)
    return written


def _read(reader: checkpoint.Reader, group: str, prefix: str, key: str) -> Tensor:
    return reader.tensor(group, prefix + key)


def export_of(folder: Path, branch: str | None = None) -> Path | None:
    """Weights that a run has exported; None where there are none.

    Args:
        folder: where the exports lie, ``RUN/export``.
        branch: whose; None: of the branch that the run is measured by, in older runs the teacher where there is one.

    Raises:
        FormError: a card in the folder is damaged.
    """
    if branch is not None:
        return found if (found := folder / f"{branch}.safetensors").exists() else None
    cards = {path: schema.read_json(Card, path) for path in sorted(folder.glob("*.json")) if path.exists()}
    chosen = [path for path, card in cards.items() if card.get("measured")]
    older = [path for name in ("teacher", "student") if (path := folder / f"{name}.json") in cards]
    return next((path.with_suffix(".safetensors") for path in (*chosen, *older)), None)


def measured_of(folder: Path, numbers: Numbers) -> str:
    """The branch that a checkpoint's run is measured by; in older ones the teacher, where there is one."""
    if "measured" in numbers:
        return numbers["measured"]
    with checkpoint.Reader(folder) as reader:
        return "teacher" if _encoder(reader, "teacher")[2] else "student"


def encoder_tensors(folder: Path, branch: str) -> dict[str, Tensor]:
    """The encoder's tensors of a branch in a verified checkpoint; empty where the branch has none or is not there."""
    with checkpoint.Reader(folder) as reader:
        group, prefix, like = _encoder(reader, branch)
        return {key: reader.tensor(group, prefix + key) for key in like}


def heads_tensors(folder: Path, branch: str) -> dict[str, Tensor]:
    """Tensors of the heads of a branch in a verified checkpoint, by ``HEAD.NAME``; empty where it has none."""
    with checkpoint.Reader(folder) as reader:
        group, prefix, like = _part(reader, branch, "heads")
        return {key: reader.tensor(group, prefix + key) for key in like}


def _encoder(reader: checkpoint.Reader, branch: str) -> tuple[str, str, dict[str, Tensor]]:
    """Group and beginning of the keys of a branch's encoder, and its tensors without memory."""
    return _part(reader, branch, "encoder")


def _part(reader: checkpoint.Reader, branch: str, part: str) -> tuple[str, str, dict[str, Tensor]]:
    """The same of its ``encoder`` or its ``heads``."""
    group = file_of(reader.folder, branch)
    prefix = f"{part}." if group == branch else f"{branch}.branch.{part}."
    keys = [key for key in reader.contents.get(group, {}) if key.startswith(prefix)]
    return group, prefix, {key.removeprefix(prefix): reader.like(group, key) for key in keys}


def file_of(folder: Path, branch: str) -> str:
    """Group of a checkpoint's tensors that a branch is in; teachers shared one in older versions."""
    return "teachers" if "teachers" in checkpoint.files(folder) and branch != "student" else branch
