"""``foundation data statistics``: what a recipe wants to know of samples, in the words that it takes.

The samples are read as training reads them; what to say about them is each modality's own
(``foundation/modalities/NAME/statistics.py``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foundation.data.boundary import decoded
from foundation.data.expand import expand
from foundation.data.index import Index, default_decoding, read_index
from foundation.data.moments import Collector, Facts
from foundation.data.shards import open_shards
from foundation.data.tally import Tally
from foundation.errors import SampleError, UserError
from foundation.plugins import resolve


@dataclass(frozen=True)
class Statistics:
    """What was found.

    Attributes:
        modality: whose decoder read the samples.
        samples: in the shards.
        used: samples that were read.
        left_out: samples that could not be read, by reason.
        notes: what the decoder had to say about the others.
        found: what the modality says of them.
    """

    modality: str
    samples: int
    used: int
    left_out: Tally
    notes: Tally
    found: Facts

    def to_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            "modality": self.modality,
            "samples": self.samples,
            "used": self.used,
            "left_out": self.left_out.to_json(),
            "notes": self.notes.to_json(),
            **asdict(self.found),
        }


def statistics(
    patterns: Sequence[str],
    *,
    limit: int | None = None,
    modality: str | None = None,
    views: Any = None,
    decoding: Any = None,
    progress: Callable[[Iterable[int], int], Iterable[int]] = lambda places, total: places,
) -> Statistics:
    """Read samples and say what they are like.

    Args:
        patterns: paths, globs, brace patterns or folders.
        limit: samples to read at most, spread evenly; None: all.
        modality: None: as the views or the index beside the shards say, else images.
        views: a recipe's; None: the modality's defaults.
        decoding: a modality's decode ``Config``; None: its default.
        progress: wraps the iterator over samples.

    Raises:
        UserError: nothing matches, no sample can be read, or the modality has no statistics.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1 sample, got {limit}")
    shards = open_shards([str(path) for path in expand(patterns, several_splits=True)])
    index = _index_of(patterns)
    name = modality or (views.modality if views is not None else index.modality if index else "") or "image"
    decoding = decoding or default_decoding(name, index)
    collector = collector_of(name, views, decoding)
    decode = decoding.build()
    left_out, notes, used = Tally(), Tally(), 0
    places = np.unique(np.linspace(0, shards.num_samples - 1, limit or shards.num_samples).astype(np.int64)).tolist()
    for place in progress(places, len(places)):
        try:
            raw = shards.read(*shards.locate(place))
            sample = decoded(decode, raw)
            collector.add(sample, raw)
        except SampleError as error:
            left_out.add(error.reason, error.key, error.detail)
            continue
        used += 1
        for note in sample.get("__notes__", ()):
            notes.add(note.reason, raw["__key__"], note.detail)
    if not used:
        advice = "" if views is not None else "; --recipe RECIPE reads them as a recipe's views say"
        raise UserError(f"no sample can be read: {left_out.brief()}{advice}")
    return Statistics(name, shards.num_samples, used, left_out, notes, collector.facts())


def collector_of(modality: str, views: Any = None, decoding: Any = None) -> Collector:
    """What gathers the statistics of a modality.

    Args:
        modality: its name.
        views: a recipe's, or None.
        decoding: the decode ``Config`` with which the samples are read; None: that of the views.

    Raises:
        UserError: there is no such modality, or it has no statistics.
    """
    package = resolve("foundation.modalities.{name}.views", modality).__name__.rpartition(".")[0]
    try:
        room = importlib.import_module(f"{package}.statistics")
    except ModuleNotFoundError as error:
        if error.name != f"{package}.statistics":
            raise
        raise UserError(f"the modality {modality!r} says no statistics (it has no module 'statistics')") from None
    collector: Collector = room.Statistics(views, decoding)
    return collector


def _index_of(patterns: Sequence[str]) -> Index | None:
    """The first index beside the shards that says of which modality they are."""
    for path in expand(patterns, several_splits=True):
        index = read_index(path.parent)
        if index and index.modality:
            return index
    return None
