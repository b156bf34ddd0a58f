"""From whatever a person calls a model to an encoder that is ready to use. Loading never unpickles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from foundation import config, schema
from foundation.checkpoints import checkpoint
from foundation.encoders.elastic import SubNetwork, size_named, stand_alone
from foundation.errors import UserError
from foundation.modalities.parts import check_evaluation
from foundation.paths import near_path
from foundation.plugins import Plugin
from foundation.printable import isolated
from foundation.seeded import seeded
from foundation.weights import check_finite, check_fits, header, layout_of
from foundation.zoo import hub
from foundation.zoo.convert import find
from foundation.zoo.entry import Entry, to_plain
from foundation.zoo.export import (
    CARD_FORMAT,
    Card,
    Numbers,
    encoder_tensors,
    export_of,
    file_of,
    heads_tensors,
    measured_of,
    without_download,
)
from foundation.zoo.heads import HeadsFile, read_heads, reader_of
from foundation.zoo.home import Home
from foundation.zoo.libraries import from_open_clip, from_timm, near_model
from foundation.zoo.loaded import LoadedEncoder, evaluation_of
from foundation.zoo.partial import read_sub_network
from foundation.zoo.registry import named, near_name, weights_of
from foundation.zoo.sections import branches, sections


@dataclass(frozen=True, kw_only=True)
class _EncoderCard:
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]


def load_encoder(
    source: str | Path,
    device: torch.device | str = "cpu",
    branch: str | None = None,
    fetch: bool = True,
    width: int | None = None,
    depth: int | Sequence[int] | None = None,
) -> LoadedEncoder:
    """Load an encoder.

    Args:
        source: a run folder, a checkpoint folder, an exported ``.safetensors`` file, the name of a model of the zoo
            (a path of that name wins; what is not on this machine is pulled), a model of timm: ``timm:NAME`` (its
            published weights), ``timm:NAME,weights=FILE.safetensors`` (from a file) or ``timm:NAME,random``; or the
            image tower of one of open_clip: ``open_clip:NAME,pretrained=TAG``,
            ``open_clip:NAME,weights=FILE.safetensors`` or ``open_clip:NAME,random``; or a file of weights that others
            have published (``.pth``, ``.pt``, ``.safetensors``), where needed with its source, ``FILE,as=dinov2``, also
            by its address on the hub of Hugging Face, ``hf://OWNER/REPO/FILE@REVISION``.
        device: where it shall compute.
        branch: which of a run's encoders, such as ``teacher`` or ``student``; None: the one that it was
            measured by.
        fetch: published weights are fetched where they are not on this machine; False: a plan is made, and of a
            published model there are no weights, but the layers on the meta device.
        width: of a sub-network to load in place of the whole (POA), see
            :class:`foundation.encoders.elastic.SubNetwork`; of an export only its slices are read.
        depth: likewise; one number, or one for each stage.

    Raises:
        UserError: naming what was looked for and what is there.
    """
    text = str(source)
    if width is None and depth is None:
        return _whole(text, device, branch, fetch)
    size = _Size(width, [depth] if isinstance(depth, int) else depth)
    path = Path(text)
    if path.suffix == ".safetensors" and find.foreign(text) is None:
        return _from_export(path, device, size=size)
    if not path.exists() and (entry := named(text)) is not None and not entry.loads:
        return _from_zoo(entry, device, branch, fetch, size)
    return _cut(_whole(text, "cpu", branch, fetch), size, device)


@dataclass(frozen=True)
class _Size:
    """Of a sub-network, as it is asked for."""

    width: int | None
    depths: Sequence[int] | None


def _whole(text: str, device: torch.device | str, branch: str | None, fetch: bool) -> LoadedEncoder:
    if text.startswith(hub.PREFIX):
        text = hub.on_this_machine(text, fetch)
    if text.startswith("timm:"):
        return from_timm(text.removeprefix("timm:"), device, fetch)
    if text.startswith("open_clip:"):
        return from_open_clip(text.removeprefix("open_clip:"), device, fetch)
    if (foreign := find.foreign(text)) is not None:
        return _from_foreign(foreign, device, branch)
    path = Path(text)
    if path.suffix == ".safetensors":
        return _from_export(path, device)
    if (path / checkpoint.MANIFEST).exists():
        return _from_checkpoint(path, device, branch, path.parent.parent)
    if (path / "checkpoints").is_dir():
        newest, skipped = checkpoint.newest(path / "checkpoints")
        if newest is not None:
            return _from_checkpoint(newest, device, branch, path)
        reasons = "; ".join(f"{p.name}: {reason}" for p, reason in skipped) or "there is none yet"
        raise UserError(f"no usable checkpoint in {path}: {reasons}")
    if (weights := export_of(path / "export", branch)) is not None:
        return _from_export(weights, device)
    if not path.exists() and (entry := named(text)) is not None:
        return _from_zoo(entry, device, branch, fetch)
    what = "is no run, checkpoint or export" if path.exists() else f"does not exist{near_path(path)}"
    raise UserError(
        f"model {text!r} {what} (give a run folder, a checkpoint folder such as step-00001000, an exported "
        f"NAME.safetensors, weights of others such as dinov2_vits14.pth, a name of 'foundation zoo list', timm:NAME or "
        f"open_clip:NAME,pretrained=TAG){near_name(text)}{near_model(text)}"
    )


def _from_zoo(
    entry: Entry, device: torch.device | str, branch: str | None, fetch: bool, size: _Size | None = None
) -> LoadedEncoder:
    """A model of the zoo, pulled where it is not here; its weights have been compared with their card."""
    if entry.loads:
        loaded = _whole(entry.loads, device, branch, fetch)
    elif entry.weights is None:
        raise UserError(f"{entry.name}: its weights are not published; to train it again: {entry.reproduce}")
    else:
        loaded = _from_export(weights_of(entry.name, fetch=fetch), device, entry.weights.sha256, size)
    heads = None
    if loaded.heads is not None and entry.heads is not None:
        heads = partial(_heads_from_zoo, entry.name, loaded.card["heads"], fetch)
    name = entry.name + loaded.name.removeprefix(str(loaded.card.get("name", loaded.name)))  # with the part's size
    said = f"{isolated(name)} of the model zoo, step {loaded.step:,}" if entry.files else loaded.description
    return replace(loaded, folder=None, name=name, description=said, card=to_plain(entry), heads=heads)


def _heads_from_zoo(name: str, said: HeadsFile, fetch: bool) -> dict[str, torch.Tensor]:
    """Heads of a model of the zoo, which are pulled when they are first wanted."""
    return read_heads(weights_of(name, fetch=fetch, heads=True), said)


def _from_export(path: Path, device: torch.device | str, known: str = "", size: _Size | None = None) -> LoadedEncoder:
    """An export, or a sub-network of it.

    Args:
        path: of the weights.
        device: where it shall compute.
        known: SHA-256 that the file has been found to have; empty: it is read to be compared with its card.
        size: of the sub-network; its slices alone are read, once the whole has been compared.
    """
    from safetensors.torch import load_file

    card_path = path.with_suffix(".json")
    if not path.is_file() and not card_path.exists():
        raise UserError(
            f"model '{path}' does not exist{near_path(path)} (an export is NAME.safetensors and its card NAME.json; "
            "weights that others publish: timm:MODEL,weights=FILE.safetensors; to try without them: timm:MODEL,random)"
        )
    if not path.is_file() or not card_path.exists():
        raise UserError(f"an export is two files: {path} and {card_path.name}; one is missing")
    card = schema.read_json(Card, card_path)
    if card["format"] != CARD_FORMAT:
        raise UserError(f"{card_path} has format {card['format']}, this version reads {CARD_FORMAT}")
    home = Home()
    found = known or (size and home.known_digest(path)) or checkpoint.sha256(path)
    if found != card["sha256"]:
        said = f"its card {card_path.name} says {card['sha256'][:12]}…"
        raise UserError(f"checksum mismatch: {path} is {found[:12]}…, {said}")
    encoder_config = config.from_plain(_EncoderCard, {"encoder": card["encoder"]}, name=str(card_path)).encoder
    bare = without_download(encoder_config)
    check_fits(bare, header(path), str(path))
    name = card["name"]
    if size is None:
        encoder, digest = _fill(bare, load_file(path), str(path)), found
    else:
        with suppress(OSError, UserError):  # read whole once; a home that can only be read is of use too
            home.remember(path, found)
        encoder, part = read_sub_network(path, bare, size.width, size.depths)[:2]
        check_finite(encoder.state_dict(), str(path))
        encoder, encoder_config = encoder.eval().requires_grad_(False), encoder.config
        name, digest = f"{name}-{part}", _part_digest(found, part)
    return LoadedEncoder(
        encoder=encoder.to(device),
        modality=card["modality"],
        evaluation=evaluation_of(card["modality"], card["evaluation"], str(card_path)),
        description=f"{isolated(name)} {_where_from(card)} ({path})",
        sha256=digest,
        folder=path.parent.parent if path.parent.name == "export" else path.parent,
        config=encoder_config,
        recipe=card["recipe"],
        stage=card.get("stage", 0),
        name=name,
        branch=card["branch"],
        step=card["step"],
        computed=card.get("computed", {}),
        card=card,
        heads=reader_of(path, card.get("heads")) if size is None else None,  # they were trained behind the whole
    )


def _where_from(card: Card) -> str:
    """Of a run its step; of weights of others what they were."""
    origins = card.get("parents", [])
    converted = ", ".join(f"converted from {isolated(origin['file'])} ({origin['source']})" for origin in origins)
    return converted or f"at step {card['step']:,}"


def _cut(loaded: LoadedEncoder, size: _Size, device: torch.device | str) -> LoadedEncoder:
    """A sub-network of an encoder that is in memory."""
    part = size_named(loaded.encoder, size.width, size.depths)
    alone: Any = stand_alone(loaded.encoder, part).requires_grad_(False)
    return replace(
        loaded,
        encoder=alone.to(device),
        config=alone.config,
        name=f"{loaded.name}-{part}",
        description=f"{part} of {loaded.description}",
        sha256=_part_digest(loaded.sha256 or loaded.description, part),
        heads=None,
    )


def _part_digest(whole: str, part: SubNetwork) -> str:
    """What stands for the weights of a sub-network: others than those of the whole, so that nothing that was computed
    by the one is taken for the other's."""
    return hashlib.sha256(f"{whole} {part}".encode()).hexdigest()


def _from_checkpoint(folder: Path, device: torch.device | str, branch: str | None, run: Path) -> LoadedEncoder:
    content = checkpoint.read(folder, ())[1]
    numbers = schema.check(Numbers, content, f"{folder}/{checkpoint.STATE}")
    text, origin = numbers["recipe"], f"{folder}/{checkpoint.STATE}"
    stage = numbers.get("stage", 0)
    branch = branch or measured_of(folder, numbers)
    recipe = sections(text, origin, stage, branch)
    weights = encoder_tensors(folder, branch)
    if not weights:
        there = [name for name in ("student", *branches(text, origin, stage)) if encoder_tensors(folder, name)]
        raise UserError(f"{folder} has no encoder of a branch {branch!r}; there are: {', '.join(there)}")
    evaluation = recipe.views.evaluation()
    check_evaluation(recipe.views.modality, evaluation, origin)
    group = file_of(folder, branch)
    source = folder / checkpoint.files_of(checkpoint.manifest_of(folder), group)[0]
    bare = without_download(recipe.encoder)
    check_fits(bare, layout_of(weights), str(source))
    encoder = _fill(bare, weights, str(source))
    return LoadedEncoder(
        encoder=encoder.to(device),
        modality=recipe.views.modality,
        evaluation=evaluation,
        description=f"{isolated(recipe.name)} {branch} at step {numbers['step']:,} ({folder})",
        sha256=checkpoint.digest_of(folder, group),
        folder=run,
        config=recipe.encoder,
        recipe=text,
        stage=stage,
        name=f"{recipe.name}-{branch}",
        branch=branch,
        step=int(numbers["step"]),
        computed=numbers.get("computed", {}),
        heads=partial(heads_tensors, folder, branch),
    )


def _from_foreign(named: find.Foreign, device: torch.device | str, branch: str | None) -> LoadedEncoder:
    result = find.convert(named, branch)
    made, path = result.converted, named.path
    bare = without_download(made.encoder)
    return LoadedEncoder(
        encoder=_fill(bare, made.tensors, str(path)).to(device),
        modality=made.modality,
        evaluation=made.evaluation,
        description=f"{isolated(path.stem)} of {result.title} ({path})",
        sha256=checkpoint.sha256(path),
        folder=path.parent,
        config=made.encoder,
        name=path.stem,
    )


def _fill(encoder_config: Any, weights: Mapping[str, torch.Tensor], source: str) -> nn.Module:
    """The encoder with these weights, which have been found to fit."""
    with seeded(0):  # first weights, which are written over, must not come out of the run's generator
        encoder: nn.Module = encoder_config.build()
    encoder.load_state_dict(dict(weights))
    check_finite(encoder.state_dict(), source)  # as they are now: 1e300 in 64 bits is infinite in 32
    return encoder.eval().requires_grad_(False)
