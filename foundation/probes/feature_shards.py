"""Shards with the features of a model beside each sample, written once, so that training need not run the model.

The new shards have the names, samples and members of the old ones and one member more. Finished shards wait in a folder
beside the place where all will lie, so that a run that was cut short goes on behind the last of them; all are put in
place together. The index says which weights made the features, and of what.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.branches.cached import FEATURES
from foundation.counter import Draws
from foundation.data.index import NAME as INDEX
from foundation.data.index import Index, ShardEntry, merge, read_index, write_index
from foundation.data.put_in_place import beside, folder_of, put_in_place
from foundation.data.shards import ShardError, ShardSet, open_shards
from foundation.data.stream import build_eval_loader
from foundation.data.write import write_shard
from foundation.errors import SampleError, UserError
from foundation.plugins import near
from foundation.printable import printable
from foundation.probes.results import progress

_HAS_IT = "has a member {} already: give another by --member, or --leave-out it"
_EPOCHS = 8  # in which a view is looked at: a flip with probability 1/2 is missed in one of 128 cases


@dataclass(frozen=True, kw_only=True)
class Source:
    """What makes the features.

    Attributes:
        decode: raw sample -> sample.
        views: samples -> [B, ...], or [B, views, ...] for several views of each.
        fit: to what the encoder takes.
        encoder: ``encoder([tensor]) -> [Features]``.
        several: each sample has several views.
        device: where the encoder runs.
        facts: for the index: ``model``, ``sha256`` of the weights, and what the model was fed.
    """

    decode: Callable[[Any], Any]
    views: Callable[[Sequence[Any]], Tensor]
    fit: nn.Module
    encoder: nn.Module
    several: bool = False
    device: torch.device | str = "cpu"
    facts: Mapping[str, Any]

    @torch.inference_mode()
    def features(self, data: Tensor) -> Tensor:
        """[B, D], or [B, views, D], float32 on the CPU, of what :attr:`views` gave."""
        rows = data.flatten(0, 1) if self.several else data
        found: Tensor = self.encoder([self.fit(rows.to(self.device))])[0].cls.float().cpu()
        return found.unflatten(0, data.shape[:2]) if self.several else found


class TrainingView:
    """Samples to one of the views that a training run makes of them.

    Args:
        views: built.
        name: of the view.
        count: views for each sample.
        seed: of the recipe.
        first: number of a shard's first sample in the whole data set.
        epoch: of the draws.
    """

    def __init__(self, views: Any, name: str, count: int, seed: int, first: int = 0, epoch: int = 0) -> None:
        self.views, self.name, self.count = views, name, count
        self.seed, self.first, self.epoch = seed, first, epoch

    def __call__(self, samples: Sequence[Any]) -> Tensor:
        """[B, ...], or [B, count, ...]."""
        ids = np.array([sample["__id__"] for sample in samples], dtype=np.int64) + self.first
        draws = Draws(self.seed, np.full_like(ids, self.epoch), ids)
        data: Tensor = self.views.finish(self.views.prepare(list(samples), draws))[self.name].data
        return data if self.count == 1 else data.unflatten(0, (self.count, -1)).transpose(0, 1)

    def is_random(self, sample: Any) -> bool:
        """Whether the view of a decoded sample is another one from epoch to epoch."""
        epochs = range(self.epoch, self.epoch + _EPOCHS)
        made = (TrainingView(self.views, self.name, self.count, self.seed, self.first, e)([sample]) for e in epochs)
        first = next(made)
        return any(not torch.equal(first, other) for other in made)


def first_sample(shards: ShardSet, decode: Callable[[Any], Any]) -> Any:
    """The first sample that can be used, decoded; None where none of the first shard's first can."""
    for place in range(min(_EPOCHS, int(shards.counts[0]))):
        with contextlib.suppress(SampleError):
            return {"__id__": place, **decode(shards.read(0, place))}
    return None


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        shards: of all.
        samples: with features.
        kept: shards that were there from a run that was cut short.
        skipped: samples that could not be used and are in no new shard, by reason.
        messages: what was wrong with the first of them.
        shape: of a sample's feature; None where all shards were there.
    """

    shards: int
    samples: int
    kept: int
    skipped: Mapping[str, int]
    messages: tuple[str, ...]
    shape: tuple[int, ...] | None


def write_features(
    patterns: Sequence[str],
    out: Path,
    source_of: Callable[[int], Source],
    *,
    member: str,
    leave_out: Collection[str] = (),
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
) -> Written:
    """Write shards with features.

    Args:
        patterns: of the shards.
        out: folder for the new ones.
        source_of: what makes the features of a shard, told the number of its first sample in the whole data set.
        member: name of the new member, ending in ``.npy``: float32 [D], or [views, D].
        leave_out: members that the new shards do not have.
        batch_size: samples per forward pass.
        workers: loader processes.
        overwrite: replace splits that ``out`` holds already.

    Raises:
        UserError: ``out`` holds such shards, or features of another model under this name; a shard without a usable
            sample; another process is writing there; samples that have the member already; no sample has a member that
            is to be left out.
    """
    shards, facts = open_shards(list(patterns)), dict(source_of(0).facts)
    names = [Path(name).name for name in shards.shards]
    if len(set(names)) < len(names):
        raise UserError(f"two shards have one name ({min(n for n in names if names.count(n) > 1)}): extract them apart")
    out = folder_of(out)
    old = read_index(out)
    splits = _splits(names, shards)
    _check_out(out, old, splits, member, facts, overwrite)
    _check_members(shards, member, leave_out)
    partial = beside(out) / f".{out.name}.extracting"
    counts: dict[str, int] = {}
    messages: list[str] = []
    with _held(partial, out):
        about = _alike(list(shards.about.values()))
        claims = {name: made for name, made in _claims(about).items() if name not in leave_out}
        about[FEATURES] = {**claims, member: facts}
        made_of = {**about, "left_out": sorted(leave_out)}
        done = _finished(partial, made_of, shards, names)
        kept, shape = len(done), None
        for number, name in enumerate(progress(names, len(names), "extract", "shard")):
            if name in done:
                continue
            source = source_of(int(shards.counts[:number].sum()))
            samples = _samples(shards.one(number), source, member, leave_out, batch_size, workers, counts, messages)
            done[name] = write_shard(samples, partial / name)
            origins = {**made_of, "shards": {one: shards.sha256(names.index(one)) for one in done}}
            write_index(partial, Index({"part": tuple(done.values())}, shards.classes, origins))
        first = np.load(io.BytesIO(bytes(open_shards([str(partial / names[0])]).read(0, 0)[member])))
        shape = tuple(first.shape)
        if old is not None and set(old.splits) - set(splits.values()):  # what is said of those that stay, too
            about[FEATURES] = _claims(_alike([old.about, about]))
        about[FEATURES][member] = {**facts, "shape": list(shape), "dtype": str(first.dtype)}
        written = {split: tuple(done[name] for name in names if splits[name] == split) for split in splits.values()}
        (partial / INDEX).unlink(missing_ok=True)
        put_in_place(
            partial, out, merge(old, written, shards.classes, {**(old.about if old else {}), **about}), written
        )
    return Written(len(names), sum(e.samples for e in done.values()), kept, counts, tuple(messages[:3]), shape)


def _samples(
    shards: ShardSet,
    source: Source,
    member: str,
    leave_out: Collection[str],
    batch_size: int,
    workers: int,
    counts: dict[str, int],
    messages: list[str],
) -> Iterator[dict[str, Any]]:
    """The samples of a shard in their order, with their features; ``counts`` and ``messages`` get what is left out."""
    with build_eval_loader(shards, source.views, source.decode, batch_size, workers=workers) as batches:
        for batch in batches:
            for reason, count in batch.skipped.items():
                counts[reason] = counts.get(reason, 0) + count
            messages.extend(batch.messages)
            if not len(batch.keys):
                continue
            features = source.features(batch.data).numpy()
            for number, feature in zip(batch.ids.tolist(), features, strict=True):
                raw = shards.read(0, number)
                kept = {
                    name: value if name.startswith("__") else bytes(value)
                    for name, value in raw.items()
                    if name not in leave_out
                }
                if member in kept:
                    raise UserError(f"{raw['__shard__']}: sample {raw['__key__']} {_HAS_IT.format(member)}")
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(feature, dtype=np.float32), allow_pickle=False)
                yield {**kept, member: content.getvalue()}


def _alike(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the indices of several folders say besides, as far as all say the same; of features, member by member."""
    first, *others = facts or [{}]
    found = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    claims = {
        name: made for name, made in _claims(first).items() if all(_claims(other).get(name) == made for other in others)
    }
    return {**found, FEATURES: claims}


def _claims(about: Mapping[str, Any]) -> dict[str, Any]:
    """By member, what an index says of features."""
    known = about.get(FEATURES)
    return dict(known) if isinstance(known, Mapping) else {}


def _check_members(shards: ShardSet, member: str, leave_out: Collection[str]) -> None:
    """Refuse, before anything is written, to leave out what no sample has, and to write what one has. Remote shards are
    looked into only as far as the former needs it."""
    missing, there = set(leave_out), set[str]()
    for number, name in enumerate(shards.shards):
        if number and not missing and ("://" in name or name.startswith("pipe:")):
            continue
        try:
            table = shards.table(number)
        except ShardError:
            continue  # its samples are counted as bad
        for key, members in zip(table.keys, table.extensions, strict=True):
            if member in members and member not in leave_out:
                raise UserError(f"{name}: sample {key} {_HAS_IT.format(member)}")
            there.update(members)
        missing -= there
    if missing:
        raise UserError(
            f"--leave-out {' '.join(sorted(missing))}: no sample has such a member"
            f"{near(min(missing), there)}; there are: {printable(', '.join(sorted(there)))}"
        )


def _splits(names: Sequence[str], shards: ShardSet) -> dict[str, str]:
    """Split of each shard by its name: what stands before the number."""
    return {name: Path(name).stem.rpartition("-")[0] or Path(name).stem for name in names}


def _check_out(
    out: Path, old: Index | None, splits: Mapping[str, str], member: str, facts: Mapping[str, Any], overwrite: bool
) -> None:
    for name, split in splits.items():
        there = (out / name).exists() or (old is not None and split in old.splits)
        if there and not overwrite:
            raise UserError(
                f"{out} already holds the split {split!r}: add --overwrite to replace it, or give another folder"
            )
    kept = set(old.splits) - set(splits.values()) if old else set()
    made = _claims(old.about).get(member) if old else None
    if kept and (not isinstance(made, Mapping) or any(made.get(key) != value for key, value in facts.items())):
        raise UserError(
            f"{out} holds {', '.join(sorted(kept))} without {member} of this model and these views: give another folder"
        )


@contextlib.contextmanager
def _held(partial: Path, out: Path) -> Iterator[None]:
    """The folder of finished shards, locked as long as its writer lives."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}: give another folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing {out} (into {partial}): wait for it, or end it") from None
        except OSError:  # some network file systems have no locks
            pass
        try:
            yield
        except UserError:
            if not (partial / INDEX).exists():  # no shard was finished: nothing to go on behind
                shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(partial, ignore_errors=True)  # gone already where it has become the new folder
    finally:
        os.close(descriptor)


def _finished(partial: Path, about: Mapping[str, Any], shards: ShardSet, names: Sequence[str]) -> dict[str, ShardEntry]:
    """Shards that an earlier try of the same has finished; what another has left is removed."""
    index = read_index(partial)
    found: dict[str, ShardEntry] = {}
    if index is not None:
        origins = dict(index.about)
        made_of = origins.pop("shards", {})
        if origins == json.loads(json.dumps(about)):
            now = {name: shards.sha256(number) for number, name in enumerate(names)}
            found = {
                entry.file: entry
                for entry in index.entries().values()
                if made_of.get(entry.file) == now.get(entry.file) and (partial / entry.file).is_file()
                and (partial / entry.file).stat().st_size == entry.bytes
            }  # fmt: skip
    for path in partial.iterdir():
        if path.name not in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found
