"""The sources of a run as one stream: from a place in it to the bytes of a sample.

All state is the place, one integer. What it means follows from seed, shards, window, weights and the global batch:
:attr:`Stream.fingerprint` holds them, and a run that goes on compares them by :meth:`Stream.changes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foundation import config, counter
from foundation.counter import Draws
from foundation.data.mixture import Mixture, shares
from foundation.data.order import Located, Order
from foundation.data.shards import GIB, RawSample, ShardSet, open_shards
from foundation.errors import UserError
from foundation.schedules import Clock

if TYPE_CHECKING:
    from foundation.data.section import Data

_CONTENT = "content of the shards"
_NUMBERS = 40  # bits of a sample's number that count within its source; the bits above name the source


class Stream:
    """An endless sequence of samples, from one source or several.

    Args:
        sources: opened shards by name; a single source may have the empty name.
        seed: of the run.
        window: samples of a source are shuffled within so many.
        mixture: which source comes when, its sources in the order of ``sources``; None for one source.
        shuffle: False gives stored order.
        settings: further settings that the order depends on, for the fingerprint.

    Raises:
        UserError: several sources without a mixture, or names that cannot be told apart.
    """

    def __init__(
        self,
        sources: Mapping[str, ShardSet],
        *,
        seed: int,
        window: int,
        mixture: Mixture | None = None,
        shuffle: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.names, self.sets = tuple(sources), tuple(sources.values())
        self.seed, self.window, self.mixture = seed, window, mixture
        if len(self.sets) != (1 if mixture is None else mixture.num_sources):
            raise UserError(f"{len(self.sets)} sources do not fit the mixture: give one weight for each")
        self._orders = [Order(s.counts, seed, window, shuffle, name) for name, s in sources.items()]
        self._first = np.array([_first_number(name) for name in self.names], dtype=np.int64)
        self._before = np.cumsum([0, *(int(shards.num_samples) for shards in self.sets)])[:-1]
        if len(set(self._first.tolist())) < len(self.names):
            raise UserError("two names of data.sources give the same numbers: rename one of them")
        self._settings = dict(settings or {})

    @property
    def num_samples(self) -> int:
        """Samples of all sources together."""
        return sum(int(shards.num_samples) for shards in self.sets)

    def locate(self, positions: NDArray[np.int64]) -> Located:
        """The samples at some positions [B]; ``ids`` are unique among all sources."""
        positions = np.asarray(positions, dtype=np.int64)
        if self.mixture is None:
            located = self._orders[0].locate(positions)
            return replace(located, ids=located.ids + self._first[0])
        sources, indices = self.mixture.locate(positions)
        fields = {name: np.empty_like(positions) for name in ("epochs", "ids", "shards", "indices")}
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            part = self._orders[source].locate(indices[rows])
            for name, values in fields.items():
                values[rows] = getattr(part, name)
        fields["ids"] += self._first[sources]
        return Located(sources, **fields)

    def substitute(self, position: int, source: int, attempt: int) -> Located:
        """What stands in for the sample at ``position`` when it is bad, as one row.

        Drawn from the same source by (seed, position, attempt). Its epoch is a number of its own, below 0, so that its
        views differ from those that the same sample gets at its own place.
        """
        shards = self.sets[source]
        drawn = counter.bits(self.seed, 0, position, f"order.substitute.{attempt}", 1)[0, 0]
        number = int(drawn % np.uint64(shards.num_samples))
        ends = np.cumsum(shards.counts)
        shard = int(np.searchsorted(ends, number, side="right"))
        index = number - int(ends[shard] - shards.counts[shard])
        row = (source, -1 - position, number + int(self._first[source]), shard, index)
        return Located(*(np.array([value], dtype=np.int64) for value in row))

    def read(self, source: int, shard: int, index: int) -> RawSample:
        """Read one sample. Beside ``__id__``, which does not move when sources are added and is what random numbers
        depend on, it has ``__index__``: its number among all samples of all sources, without gaps.

        Raises:
            SampleError: as :meth:`foundation.data.shards.ShardSet.read`.
        """
        raw = self.sets[source].read(shard, index)
        raw["__index__"] = raw["__id__"] + int(self._before[source])
        raw["__id__"] += int(self._first[source])
        return raw

    def prefetch(self, located: Located, position: int) -> None:
        """Let remote shards be fetched: those of some samples, and those that come after a position."""
        for source, shards in enumerate(self.sets):
            if not getattr(shards, "prefetches", 0):  # of remote shards only
                continue
            index = position
            if self.mixture is not None:
                index = int(self.mixture.counts([position // self.mixture.group])[0, source])
            now = np.unique(located.shards[located.sources == source]).tolist()
            shards.prefetch([*now, *self._orders[source].ahead(index, shards.prefetches)])

    def draws(self, located: Located) -> Draws:
        """Random numbers of some samples."""
        return Draws(self.seed, located.epochs, located.ids)

    def shards_of(self, positions: NDArray[np.int64]) -> list[str]:
        """Paths of the shards that hold the samples at some positions."""
        located = self.locate(positions)
        pairs = sorted(set(zip(located.sources.tolist(), located.shards.tolist(), strict=True)))
        return [self.sets[source].shards[shard] for source, shard in pairs]

    def consumed(self, position: int) -> dict[str, int]:
        """Samples of each source before a position; of a mixture, before the global batch that holds it."""
        if self.mixture is None:
            return {self.names[0]: position}
        counts = self.mixture.counts([position // self.mixture.group])[0]
        return dict(zip(self.names, counts.tolist(), strict=True))

    def metrics(self, position: int) -> dict[str, float]:
        """``data/epoch/NAME`` for each named source: passes over it so far."""
        sizes = dict(zip(self.names, self.sets, strict=True))
        return {
            f"data/epoch/{name}": count / int(sizes[name].num_samples)
            for name, count in self.consumed(position).items()
            if name
        }

    @property
    def fingerprint(self) -> dict[str, str]:
        """All that the meaning of a position depends on, as plain text to keep in a checkpoint."""
        pairs = zip(self.names, self.sets, strict=True)
        prints: dict[str, str] = {}
        for name, shards in pairs:
            prints |= {_of("shards", name): shards.fingerprint, _of(_CONTENT, name): shards.content}
        return prints | {"seed": str(self.seed), "data.shuffle_window": str(self.window)} | self._settings

    def changes(self, kept: Mapping[str, str]) -> list[str]:
        """What differs from a fingerprint kept earlier, one line each; none when a position means the same."""
        now = self.fingerprint
        lines = []
        for key in sorted(kept.keys() | now.keys()):
            if key.startswith(_CONTENT) and key not in kept and key.replace(_CONTENT, "shards", 1) in kept:
                continue  # an older version did not keep it
            if kept.get(key) != now.get(key):
                lines.append(f"{key}: {kept.get(key, 'not there')} then, {now.get(key, 'not there')} now")
        return lines

    def uncompared(self, kept: Mapping[str, str]) -> bool:
        """Whether a fingerprint is of an older version, which did not say what the shards held."""
        return not any(key.startswith(_CONTENT) for key in kept)


def _of(what: str, name: str) -> str:
    return f"{what} of {name}" if name else what


def single(shards: ShardSet, seed: int, window: int, shuffle: bool = True) -> Stream:
    """One source without a name as a stream; arguments as for :class:`Stream`."""
    return Stream({"": shards}, seed=seed, window=window, shuffle=shuffle)


def open_sources(data: Data) -> dict[str, ShardSet]:
    """Open the shards of a recipe.

    Returns:
        By name, in the order of the names; ``data.shards`` has the empty name.

    Raises:
        UserError: as :func:`foundation.data.shards.open_shards`, naming the source.
    """
    if not data.sources:
        return {"": _open(data.shards, data)}
    opened = {}
    for name in sorted(data.sources):
        try:
            opened[name] = _open(data.sources[name].shards, data)
        except UserError as error:
            raise UserError(f"data.sources.{name}: {error}") from error
    return opened


def _open(patterns: Sequence[str], data: Data) -> ShardSet:
    return open_shards(
        patterns,
        cache=data.cache,
        cache_bytes=int(data.cache_gib * GIB),
        prefetch=data.prefetch_shards,
        allow_pipes=data.allow_pipes,
    )


def build_stream(
    data: Data,
    opened: Mapping[str, ShardSet],
    *,
    seed: int,
    global_batch: int,
    clock: Clock,
    tokens: Mapping[str, float] | float | None = None,
) -> Stream:
    """The stream of a run.

    Args:
        data: of the recipe.
        opened: of :func:`open_sources`.
        seed: of the run.
        global_batch: samples of an optimiser step.
        clock: of the run, for weights that follow a schedule.
        tokens: of a sample (of each source, or of all), for ``data.weigh_by: tokens``.

    Raises:
        UserError: weights that cannot work.
    """
    if not data.sources:
        return single(opened[""], seed, data.shuffle_window)
    sources = {name: data.sources[name] for name in opened}
    sizes = {name: int(shards.num_samples) for name, shards in opened.items()}
    if isinstance(tokens, (int, float)):
        tokens = dict.fromkeys(opened, float(tokens))
    wanted = shares(sources, sizes, clock, weigh_by=data.weigh_by, temperature=data.temperature, tokens=tokens)
    settings: dict[str, str] = {"data.mix": data.mix}
    if wanted.ndim > 1 or data.mix == "batch":  # else the counts of the sources follow from the position alone
        settings["train.batch_size"] = str(global_batch)
    if wanted.ndim == 1:
        settings |= {f"share of {name}": f"{share:.6g}" for name, share in zip(opened, wanted.tolist(), strict=True)}
    else:
        plain = {name: config.to_plain(source) for name, source in sources.items()}
        text = repr((plain, sizes, data.weigh_by, data.temperature, tokens, clock))
        settings["schedules of the weights"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    mixture = Mixture(wanted, global_batch, seed, data.mix)
    return Stream(opened, seed=seed, window=data.shuffle_window, mixture=mixture, settings=settings)


def _first_number(name: str) -> int:
    """First number of a source's samples: by its name, so that further sources do not move it."""
    if not name:
        return 0
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return (1 + digest % ((1 << 62 - _NUMBERS) - 1)) << _NUMBERS
