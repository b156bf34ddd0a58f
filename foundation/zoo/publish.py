"""Putting a model into a zoo: its export, a card that says what it is, and the index that tells others of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from foundation import config, schema
from foundation.checkpoints import checkpoint
from foundation.data.addresses import RemoteError, check_secrets, is_remote, shown
from foundation.data.storages import file_system
from foundation.errors import UserError
from foundation.files import held, replace_file
from foundation.modalities.parts import evaluation_shape
from foundation.plugins import name_of
from foundation.zoo.cards import INDEX, fetched_index, index_of, parsed
from foundation.zoo.entry import (
    WEIGHTS,
    Architecture,
    Data,
    Entry,
    File,
    Input,
    Metric,
    Parent,
    check_name,
    dump,
    read,
)
from foundation.zoo.export import Card, export_checkpoint, export_of, make_folder, write_weights
from foundation.zoo.fetch import digest_of
from foundation.zoo.heads import path_of as heads_path
from foundation.zoo.heads import write_heads
from foundation.zoo.home import Home, absolute
from foundation.zoo.load import LoadedEncoder, load_encoder
from foundation.zoo.metrics import metric_of
from foundation.zoo.registry import named, weights_of
from foundation.zoo.sources import path_of

_BEGUN = ".begun"  # in the folder of a model that has no card yet: whoever publishes it again may write over it
_DETAILS = ("model", "preset", "heads", "registers", "patch_size")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a card says that no file tells.

    Attributes:
        licence: of the weights.
        data: that it was trained on.
        summary: one line; empty: the name of the run.
        units: of the numbers that it is fed.
        metrics: scores.
        reproduce: command that trains it again.
        notes: what else a user should know.
        parents: that it comes from; of a sub-network that was extracted, its card says it.
    """

    licence: str
    data: tuple[Data, ...]
    summary: str = ""
    units: str = ""
    metrics: tuple[Metric, ...] = ()
    reproduce: str = ""
    notes: str = ""
    parents: tuple[Parent, ...] = ()


def publish(
    source: str,
    name: str,
    to: str,
    said: Said,
    *,
    results: Sequence[Path] = (),
    branch: str | None = None,
    half: bool = False,
    heads: bool = False,
) -> Entry:
    """Write a model into a zoo: ``NAME/NAME.safetensors`` and ``NAME.json``, the card ``NAME.yaml``, ``index.json``.

    Args:
        source: a run, an export, or the name of a model of a zoo.
        name: in the zoo.
        to: folder, ``file://``, ``s3://`` (and others of fsspec) or ``hf://OWNER/REPO``.
        said: what the card says beside the facts.
        results: files that probes of this very model have written, whose scores the card shall show.
        branch: of the run; None: the one that it was measured by.
        half: store the weights as float16; they are loaded into the encoder's own precision.
        heads: publish the heads that it was trained with too (``NAME.heads.safetensors``), which may be several times
            as large; others pull them when they go on training with them.

    Returns:
        The card.

    Raises:
        UserError: the zoo has a model of this name, or cannot be written; ``heads``: the model has none; a result is
            none, or is of other weights.
    """
    check_name(name, "--name")
    check_secrets(to)
    with ExitStack() as stack:
        there = not is_remote(to) or to.startswith("file://")
        folder = path_of(to) if there else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_folder(folder)
        if there:
            stack.enter_context(_locked(folder))
            known = {path.stem: read(path) for path in sorted(folder.glob("*.yaml"))}
        else:
            known = _known(to)
        if name in known or not _is_free(folder / name):
            if there:  # one that was ended before its last step told nobody of its model
                _write_index(folder, known)
            raise UserError(f"{shown(to)} has a model {name!r} already: choose another name; nothing there is replaced")
        weights = stack.enter_context(_export_of(source, branch, heads))
        if results:
            digests = {load_encoder(one, branch=branch).sha256 for one in (source, weights)}
            said = replace(said, metrics=tuple(metric_of(path, name, digests) for path in results))
        try:
            entry = _write(weights, folder, name, said, half, heads)
            replace_file(folder / f"{name}.yaml", dump(entry).encode())
            (folder / name / _BEGUN).unlink()
            _write_index(folder, known | {name: entry})
        except OSError as error:
            raise UserError(f"{name} cannot be written into {folder}: {error.strerror}; publish it again") from None
        if not there:
            _upload(folder, [*(f"{name}/{file.name}" for file in entry.files), f"{name}.yaml", INDEX], to)
    return entry


def _is_free(own: Path) -> bool:
    """Whether a model's folder may be written: it is not there, or is what a publishing that was ended has left."""
    return not os.path.lexists(own) or ((own / _BEGUN).is_file() and not own.is_symlink())


def _write_index(folder: Path, known: Mapping[str, Entry]) -> None:
    text = index_of([known[one] for one in sorted(known)])
    path = folder / INDEX
    if not path.is_file() or path.read_bytes() != text:
        replace_file(path, text)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from None
    try:
        with held(descriptor):
            yield
    finally:
        os.close(descriptor)


def _known(to: str) -> dict[str, Entry]:
    """Cards of a zoo on the network, none where it is not there yet."""
    where = absolute(to, INDEX)
    try:
        return parsed(fetched_index(where, Home()), where)
    except RemoteError as error:
        if error.reason == "missing":
            return {}
        raise UserError(f"the zoo {shown(to)} cannot be read: {error.detail}") from None


@contextmanager
def _export_of(source: str, branch: str | None, heads: bool) -> Iterator[Path]:
    """The export of a model; of a run whose export is missing or older than its newest checkpoint, that of the
    checkpoint, for the time of the block."""
    path = Path(source)
    newest = checkpoint.newest(path / "checkpoints")[0] if (path / "checkpoints").is_dir() else None
    if path.suffix == ".safetensors":
        yield path
    elif newest is not None and _is_older(export_of(path / "export", branch), newest):
        with tempfile.TemporaryDirectory() as temporary:
            export_checkpoint(newest, Path(temporary))
            yield _required(export_of(Path(temporary), branch), source)
    elif path.exists():
        yield _required(export_of(path / "export", branch), source)
    elif (entry := named(source)) is not None and entry.weights is not None:
        yield weights_of(source, heads=heads and entry.heads is not None)
    else:
        load_encoder(source)  # says what there is instead
        raise UserError(
            f"{source} has no files of its own: publish a run, an export, or a model of a zoo that has files"
        )


def _is_older(weights: Path | None, newest: Path) -> bool:
    """Whether an export is missing, or was written before a checkpoint: by a run that was ended on its way later."""
    if weights is None:
        return True
    step: int = checkpoint.read(newest, ())[1]["step"]
    return schema.read_json(Card, weights.with_suffix(".json"))["step"] < step


def _required(found: Path | None, source: str) -> Path:
    if found is None:
        raise UserError(f"{source} has no export of this branch: 'foundation export {source} --out FOLDER' writes them")
    return found


def _write(weights: Path, folder: Path, name: str, said: Said, half: bool, heads: bool) -> Entry:
    """Weights and their card into the folder of a zoo, and what its own card says of them."""
    from safetensors.torch import load_file

    loaded = load_encoder(weights)  # checked, and known to fit
    card = schema.read_json(Card, weights.with_suffix(".json"))
    if heads and loaded.heads is None:
        raise UserError(f"{weights} has no heads beside it (exports of older versions and parts have none): no --heads")
    own = folder / name
    make_folder(own)
    (own / _BEGUN).touch()
    path = own / f"{name}{WEIGHTS}"
    new: Card = {**card, "file": path.name}
    new.pop("heads", None)
    written = [path, path.with_suffix(".json")]
    if heads and loaded.heads is not None:
        tensors = _stored(loaded.heads(), half)
        beside = write_heads(path, tensors, tensors.__getitem__)
        assert beside is not None
        new["heads"] = beside
        written.append(heads_path(path))
    write_weights(path, _stored(load_file(weights), half), new)
    files = [_file(one, f"{name}/{one.name}") for one in written]
    part = card.get("sub_network")
    parents = [Parent(of=part["of"], how="extracted")] if part and part["of"] else []
    parents += [Parent(of=origin["of"], how="converted") for origin in card.get("parents", [])]
    return _entry(name, loaded, said, tuple(files), said.parents or tuple(parents), card["parameters"])


def _stored(tensors: Mapping[str, torch.Tensor], half: bool) -> dict[str, torch.Tensor]:
    """Tensors in the precision that they are stored in."""
    return {key: tensor.half() if half and tensor.dtype == torch.float32 else tensor for key, tensor in tensors.items()}


def _file(path: Path, source: str) -> File:
    return File(name=path.name, size=path.stat().st_size, sha256=digest_of(path), sources=(source,))


def _entry(
    name: str, loaded: LoadedEncoder, said: Said, files: tuple[File, ...], parents: tuple[Parent, ...], parameters: int
) -> Entry:
    modality, evaluation = loaded.own
    encoder: Any = loaded.encoder
    plain = config.to_plain(loaded.config)
    facts = plain | {key: value for key, value in plain.get("tokenizer", {}).items() if key in _DETAILS}
    seen = config.to_plain(evaluation)
    recipe = config.plain_of(loaded.recipe, name).get("name", "") if loaded.recipe else ""
    return Entry(
        name=name,
        summary=said.summary or f"{loaded.name}, {loaded.step:,} steps",
        modality=modality,
        architecture=Architecture(
            encoder=name_of("foundation.encoders.{name}", loaded.config),
            parameters=parameters,
            width=encoder.width,
            depth=encoder.full_size.depths,
            details={key: facts[key] for key in _DETAILS if facts.get(key) is not None},
        ),
        input=Input(
            shape=evaluation_shape(modality, evaluation),
            rate=_first(seen, "rate"),
            units=said.units,
            mean=_numbers(_first(seen, "mean")),
            deviation=_numbers(_first(seen, "std")),
        ),
        recipe=str(recipe),
        data=said.data,
        licence=said.licence,
        metrics=said.metrics,
        files=files,
        parents=parents,
        reproduce=said.reproduce,
        notes=said.notes,
    )


def _first(plain: Any, key: str) -> Any:
    """The value of a key of a mapping, or of the mappings in it; None where none has it."""
    if not isinstance(plain, Mapping):
        return None
    if plain.get(key) is not None:
        return plain[key]
    return next((found for value in plain.values() if (found := _first(value, key)) is not None), None)


def _numbers(value: Any) -> tuple[float, ...]:
    return () if value is None else tuple(float(one) for one in (value if isinstance(value, list) else [value]))


def _upload(folder: Path, names: Sequence[str], to: str) -> None:
    """The files of a zoo to where others find it, the index last."""
    if to.startswith("hf://"):
        return _upload_to_hub(folder, to)
    system, path = file_system(to)
    for name in names:
        try:
            system.put_file(str(folder / name), f"{path.rstrip('/')}/{name}")
        except Exception as error:  # every package behind fsspec has errors of its own
            raise UserError(f"{shown(to)}: {name} cannot be written: {type(error).__name__}: {error}") from error
    return None


def _upload_to_hub(folder: Path, to: str) -> None:
    from huggingface_hub import HfApi

    owner, _, rest = to.removeprefix("hf://").partition("/")
    repo, _, below = rest.partition("/")
    try:
        HfApi().upload_folder(repo_id=f"{owner}/{repo}", folder_path=str(folder), path_in_repo=below or None)
    except Exception as error:  # of the network, of the login, of the hub
        raise UserError(f"{to} cannot be written: {type(error).__name__}: {error}") from error


def said_of(entry: Entry | None, **given: Any) -> Said:
    """What was given, and of the rest what a card says that there is.

    Raises:
        UserError: neither says the licence or the data.
    """
    values = {key: value for key, value in given.items() if value}
    if entry is not None:
        own = Said(
            licence=entry.licence,
            data=entry.data,
            summary=entry.summary,
            units=entry.input.units,
            metrics=entry.metrics,
            reproduce=entry.reproduce,
            notes=entry.notes,
            parents=entry.parents,
        )
        return replace(own, **values)
    missing = [f"--{key}" for key in ("licence", "data") if key not in values]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} must be given: nobody may use a model of which they are not known. Such as "
            "--licence CC-BY-4.0 --data 'CIFAR-10' 'research use' https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    return Said(**values)
