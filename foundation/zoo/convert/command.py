"""Foreign weights written as an export of ours, and what a person is told about it."""

from __future__ import annotations

import re
from pathlib import Path

from foundation import config
from foundation.checkpoints import checkpoint
from foundation.errors import UserError
from foundation.version import VERSION
from foundation.weights import unfilled
from foundation.zoo.convert.find import Result, convert, foreign, known
from foundation.zoo.convert.read import ENDINGS
from foundation.zoo.export import CARD_FORMAT, Card, file_stem, make_folder, without_download, write_weights
from foundation.zoo.shown import encoder_lines, plain_encoder


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
        "encoder": plain_encoder(bare),
        "evaluation": config.to_plain(made.evaluation),
        "parameters": sum(tensor.numel() for name, tensor in tensors.items() if name in parameters),
        "file": target.name,
        "sha256": "",
        "recipe": "",
        "foundation_version": VERSION,
        "parents": [{"of": digest, "how": "converted", "source": result.source, "file": path.name}],
    }
    make_folder(out)
    try:
        return write_weights(target, {name: tensor.contiguous() for name, tensor in tensors.items()}, card), result
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None


def told(result: Result) -> list[str]:
    """Lines for a person: whose weights, what was left out, and the encoder of a recipe that takes them."""
    made = result.converted
    wrapped = f", taken out of {' > '.join(result.path)}" if result.path else ""
    lines = [f"weights of {result.title}{wrapped}"]
    lines += [f"left out: {name} ({why})" for name, why in made.left_out.items()]
    lines += [f"note: {note}" for note in made.notes]
    return [*lines, "the encoder of a recipe that goes on from them:", *encoder_lines(made.encoder)]
