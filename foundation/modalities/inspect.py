"""Facts about shards for a person: what is in them, what is wrong with them, what they look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundation.data import members
from foundation.data.adopt import ShardFacts, look
from foundation.data.expand import expand
from foundation.data.index import read_index
from foundation.data.shards import RawSample, ShardSet
from foundation.data.tar import Table
from foundation.data.verify_shard import Group, cut_keys
from foundation.errors import SampleError
from foundation.modalities.image.decode import find_member, raw_range, stored_size

_NOTES = 20  # that are named


@dataclass
class Facts:
    """Some shards.

    Attributes:
        shards: each of them.
        extensions: by extension: samples that have it, and the median bytes of the member.
        labels: samples by label, of those looked at; one with several counts under each.
        label_kinds: samples looked at by what their label is: ``numbers``, ``names``, ``several`` or ``none``.
        classes: names of the labels, if known.
        image_sizes: (width, height) of the pictures looked at, upright.
        image_ranges: of those with more than 8 bits: type of the numbers, the smallest and the largest.
        looked_at: samples whose labels were read.
        readable: the shards that can be read.
        modality: what the index says the samples are; images where it says nothing.
        notes: what is worth knowing about shards and their samples.
    """

    shards: list[ShardFacts]
    extensions: dict[str, tuple[int, float]]
    labels: Counter[str]
    classes: Sequence[str]
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    image_ranges: list[tuple[str, float, float]] = field(default_factory=list)
    looked_at: int = 0
    readable: ShardSet | None = None
    modality: str = "image"
    notes: list[str] = field(default_factory=list)
    label_kinds: Counter[str] = field(default_factory=Counter)


def inspect(patterns: Sequence[str], limit: int = 10_000, verify: bool = False) -> Facts:
    """Look into shards.

    Args:
        patterns: as for ``open_shards``; a folder may hold several splits.
        limit: read the labels of at most so many samples, spread evenly.
        verify: also compare every shard with the digest in its index.

    Raises:
        UserError: nothing matches the patterns.
    """
    paths = expand(patterns, several_splits=True)
    rows: list[ShardFacts] = []
    sizes: dict[str, list[np.ndarray[Any, Any]]] = {}
    good: list[tuple[str, int]] = []
    classes: tuple[str, ...] = ()
    modality = ""
    notes: list[str] = []
    for path in paths:
        index = read_index(path.parent)
        classes = classes or (index.classes if index else ())
        modality = modality or (index.modality if index else "")
        entry = index.entries().get(path.name) if index else None
        row, table = look(path, entry, verify)
        rows.append(row)
        if table is not None and table.keys:
            good.append((str(path), len(table.keys)))
            notes += [f"{path.name}: {text}" for _, text in cut_keys(_layouts(table))]
            for extension, values in _member_sizes(table).items():
                sizes.setdefault(extension, []).append(values)
    extensions = {}
    for extension, parts in sorted(sizes.items()):
        values = np.concatenate(parts)
        extensions[extension] = (len(values), float(np.median(values)))
    facts = Facts(rows, extensions, Counter(), classes, modality=modality or "image", notes=notes)
    if good:
        facts.readable = ShardSet([path for path, _ in good], [count for _, count in good], classes)
        _look_at_samples(facts, facts.readable, limit)
    return facts


def _layouts(table: Table) -> dict[tuple[str, ...], Group]:
    layouts: dict[tuple[str, ...], Group] = {}
    for key, extensions in zip(table.keys, table.extensions, strict=True):
        layouts.setdefault(tuple(sorted(extensions)), Group()).add(key)
    return layouts


def _member_sizes(table: Table) -> dict[str, np.ndarray[Any, Any]]:
    names = np.array([extension for extensions in table.extensions for extension in extensions])
    return {str(name): table.sizes[names == name] for name in np.unique(names)}


def _spread(number: int, wanted: int) -> list[int]:
    return np.unique(np.linspace(0, number - 1, min(number, wanted)).astype(np.int64)).tolist()


def spread(shards: ShardSet, wanted: int) -> Iterator[RawSample]:
    """Some samples, spread evenly over the shards; those that cannot be read are left out."""
    for identity in _spread(shards.num_samples, wanted):
        try:
            yield shards.read(*shards.locate(identity))
        except SampleError:
            continue


def _look_at_samples(facts: Facts, shards: ShardSet, limit: int) -> None:
    pictures = max(1, min(limit, shards.num_samples) // 256)
    for number, raw in enumerate(spread(shards, limit)):
        facts.looked_at += 1
        label, problem = members.label_of(raw)
        kind = {int: "numbers", str: "names", list: "several"}.get(type(label), "none")
        facts.label_kinds[kind] += 1
        for one in label if isinstance(label, list) else [] if label is None else [label]:
            facts.labels[str(one)] += 1
        if problem and len(facts.notes) < _NOTES:
            facts.notes.append(f"{Path(raw['__shard__']).name}: sample {raw['__key__']!r} has no label: {problem}")
        if number % pictures == 0:
            _look_at_picture(facts, raw)


def _look_at_picture(facts: Facts, raw: RawSample) -> None:
    name = find_member(raw)
    if name is None:
        return
    try:
        facts.image_sizes.append(stored_size(raw[name]))
        numbers = raw_range(raw[name])
    except Exception:  # a damaged picture raises almost anything; counting those is what verify is for
        return
    if numbers is not None:
        facts.image_ranges.append(numbers)
