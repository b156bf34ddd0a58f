"""Foreign weights written as an export of ours, and what a person is told about it."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.errors import UserError
from foundation.plugins import Plugin
from foundation.version import VERSION
from foundation.weights import unfilled
from foundation.zoo.convert.find import Result, convert, foreign, known
from foundation.zoo.convert.read import ENDINGS
from foundation.zoo.export import CARD_FORMAT, Card, file_stem, make_folder, without_download, write_weights


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


def write_converted(
    text: str, out: Path, *, source: str | None = None, branch: str | None = None, overwrite: bool = False
) -> tuple[Path, Result]:
    """Convert a file of weights into an export: ``NAME.safetensors`` and its card.

    Args:
        text: the file, also with options: ``weights.pth,as=dinov2,heads=6``.
        out: folder.
        source: name of the source, with options as in ``dinov2,heads=6``; None: found by the tensors.
        branch: which of several encoders in the file.
        overwrite: replace files that are there.

    Returns:
        Path of the weights, and what was converted.

    Raises:
        UserError: it cannot be read or is of no source; the export is there already.
    """
    named = foreign(text if source is None else f"{text},as={source}")
    if named is None:
        raise UserError(f"{text} is no file of weights: its name must end in {', '.join(ENDINGS)}; {known()}")
    result = convert(named, branch)
    made, path = result.converted, named.path
    stem = file_stem(re.sub(rf"({'|'.join(map(re.escape, ENDINGS))})$", "", path.name), text)
    target = out / f"{stem}.safetensors"
    there = next((file for file in (target, target.with_suffix(".json")) if file.exists()), None)
    if there is not None and not overwrite:
        raise UserError(f"{there} exists: choose another folder by --out, or add --overwrite")
    digest = checkpoint.sha256(path)
    bare = without_download(made.encoder)
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in made.tensors.items()}
    parameters = dict(unfilled(bare, len(tensors), str(path)).named_parameters())
    card: Card = {
        "format": CARD_FORMAT,
        "name": stem,
        "branch": "",
        "step": 0,
        "modality": made.modality,
        "encoder": dict(config.to_plain(_Encoder(encoder=bare))["encoder"]),
        "evaluation": config.to_plain(made.evaluation),
        "parameters": sum(tensor.numel() for name, tensor in tensors.items() if name in parameters),
        "file": target.name,
        "sha256": "",
        "recipe": "",
        "foundation_version": VERSION,
        "parents": [{"of": digest, "how": "converted", "source": result.source, "file": path.name}],
    }
    make_folder(out)
    return write_weights(target, {name: tensor.contiguous() for name, tensor in tensors.items()}, card), result


def told(result: Result) -> list[str]:
    """Lines for a person: whose weights, what was left out, and the encoder of a recipe that takes them."""
    made = result.converted
    wrapped = f", taken out of {' > '.join(result.path)}" if result.path else ""
    lines = [f"weights of {result.title}{wrapped}"]
    lines += [f"left out: {name} ({why})" for name, why in made.left_out.items()]
    lines += [f"note: {note}" for note in made.notes]
    return [*lines, "the encoder of a recipe that goes on from them:", *encoder_lines(made.encoder)]


def encoder_lines(encoder: Any) -> list[str]:
    """The section ``encoder`` of a recipe, with what differs from the defaults."""
    plain = dict(config.to_plain(_Encoder(encoder=encoder))["encoder"])
    kept = _unusual(plain, encoder)
    text: str = yaml.safe_dump({"encoder": kept}, default_flow_style=None, sort_keys=False, width=110)
    return [f"  {line}" for line in text.splitlines()]


def _unusual(plain: dict[str, Any], settings: Any) -> dict[str, Any]:
    """Fields that are not at their defaults, those of sections inside too; ``name`` stays."""
    found: dict[str, Any] = {"name": plain["name"]} if "name" in plain else {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.default_factory is not dataclasses.MISSING:
            usual: Any = item.default_factory()
        else:
            usual = item.default
        if item.name not in plain or value == usual:
            continue
        inner = dataclasses.is_dataclass(value) and isinstance(plain[item.name], dict)
        found[item.name] = _unusual(plain[item.name], value) if inner else json.loads(json.dumps(plain[item.name]))
    return found
