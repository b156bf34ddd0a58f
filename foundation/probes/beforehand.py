"""What can be known of a probe's data before the first forward pass, so that a mistake does not cost all of them.

Only the members that hold labels are read, and of well-made splits only those of a few samples: two classes settle it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from foundation.data import members
from foundation.data.boundary import decoded
from foundation.deadline import waited_for
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import decode_config, decoder, in_time, pieces_to_cover
from foundation.probes.cautions import one_class
from foundation.probes.features import no_labels
from foundation.probes.groups import naming
from foundation.probes.road import open_limited

_LABELS = ("cls", "json")
"""Members that a label may stand in; see :func:`foundation.data.members.label_of`."""
_SPREAD = 64
"""Samples spread over a split that are looked at before the rest: shards may be sorted by class."""
LOOKED_AT = 16
"""Recordings whose lengths are looked at."""
_DECODED = 4
"""Samples whose decoder is asked before a split counts as unlabelled: somebody else's may find labels elsewhere."""


@dataclass(frozen=True)
class Labels:
    """What the labels of a split are.

    Attributes:
        samples: of the split.
        found: the first two different labels.
        several: samples with several labels each that were met on the way.
    """

    samples: int
    found: tuple[int | str, ...]
    several: int


def check_labels(
    splits: Sequence[tuple[str, Sequence[str]]],
    *,
    modality: str,
    evaluation: Any,
    limit: int | None = None,
    least: int = 1,
) -> list[str]:
    """Refuse splits that a probe with labels could not use.

    Args:
        splits: name and shards of each, that to learn from first; one without shards is left out.
        modality: folder name in ``foundation/modalities``.
        evaluation: that modality's ``EvaluationConfig``.
        limit: at most so many samples of a split count, spread evenly.
        least: classes that the first split needs.

    Returns:
        A warning where the first split has a single class.

    Raises:
        UserError: shards are missing or empty, no sample has a label, or there are fewer classes than needed.
    """
    opened = [(name, open_limited(patterns, limit)) for name, patterns in splits if patterns]
    told = []
    for index, (name, shards) in enumerate(opened):
        labels = labels_of(shards, modality, evaluation)
        if not labels.found and not _decoder_finds_labels(shards, modality, evaluation):
            raise UserError(f"the {name} split: {no_labels(labels.samples, labels.several)}")
        if index == 0 and len(labels.found) == 1:
            text = one_class(str(labels.found[0]))
            if least > 1:
                raise UserError(f"{text}; there is nothing to tell apart")
            told.append(text)
    return told


def labels_of(shards: Any, modality: str, evaluation: Any) -> Labels:
    """The first two different labels of a split; all of its samples are looked at where there are not two.

    Args:
        shards: :class:`foundation.data.shards.ShardSet` or :class:`foundation.probes.road.Some`.
        modality: folder name in ``foundation/modalities``.
        evaluation: that modality's ``EvaluationConfig``.
    """
    fields = tuple(_label_fields(decode_config(modality, evaluation))) or ("label",)
    found: list[int | str] = []
    several = 0
    for number in _order(shards.num_samples):
        try:
            raw = shards.read(*shards.locate(number), only=_LABELS)
        except SampleError:
            continue
        label = next((one for one, _ in (members.label_of(raw, field) for field in fields) if one is not None), None)
        if isinstance(label, list):
            several += 1
        elif label is not None and label not in found:
            found.append(label)
            if len(found) == 2:
                break
    return Labels(shards.num_samples, tuple(found), several)


def pieces_of(patterns: Sequence[str], modality: str, evaluation: Any) -> int:
    """How many views, side by side, cover the longest of a few recordings of a split; 1 where views have no time.

    Args:
        patterns: its shards.
        modality: folder name in ``foundation/modalities``.
        evaluation: that modality's ``EvaluationConfig``.
    """
    if not in_time(evaluation):
        return 1
    shards, decode, samples = open_limited(patterns, LOOKED_AT), decoder(modality, evaluation), []
    for number in range(shards.num_samples):
        with suppress(SampleError):
            samples.append(decoded(decode, shards.read(*shards.locate(number))))
    return pieces_to_cover(evaluation, samples)


def unseen(whole: int, pieces: int) -> str:
    """What to say where views of recordings do not cover the longest; empty where they do.

    Args:
        whole: views that cover it, see :func:`pieces_of`.
        pieces: views that are taken.
    """
    if pieces >= whole:
        return ""
    taken = "the middle one is" if pieces == 1 else f"{pieces}, spread evenly, are"
    return f"recordings are up to {whole} views long, of which {taken} seen: --pieces {whole} averages all"


def check_each(splits: Sequence[Sequence[str]], limit: int | None, look: Callable[[Any], object], what: str) -> None:
    """Refuse splits of which no sample has what a probe needs.

    Args:
        splits: shards of each.
        limit: at most so many samples of a split count, spread evenly.
        look: at the raw members ``cls`` and ``json`` of a sample; raises ``SampleError`` where it does not have it.
        what: it is, for the message.

    Raises:
        UserError: shards are missing or empty, or none of a split's samples has it.
    """
    for patterns in splits:
        shards, first = open_limited(patterns, limit), ""
        for number in _order(shards.num_samples):
            try:
                look(shards.read(*shards.locate(number), only=_LABELS))
                break
            except SampleError as error:
                first = first or str(error)
        else:
            raise UserError(f"none of the {shards.num_samples:,} samples has {what}\n  {first}")


def check_group(patterns: Sequence[str], rule: str, limit: int | None) -> None:
    """Refuse a rule of groups that is none, or that says nothing of one of a few samples.

    Args:
        patterns: shards to learn from.
        rule: as for :func:`foundation.probes.groups.grouped`.
        limit: at most so many samples count, spread evenly.

    Raises:
        UserError: as from there.
    """
    shards, name = open_limited(patterns, limit), naming(rule, patterns)
    for number in islice(_order(shards.num_samples), _SPREAD):
        with suppress(SampleError):
            raw = shards.read(*shards.locate(number), only=())
            name(raw["__key__"], raw["__id__"])


def _order(number: int) -> Iterator[int]:
    """Every place once, some that are spread evenly first; it ends early when nobody waits for the answer."""
    first = np.unique(np.linspace(0, number - 1, min(number, _SPREAD)).astype(np.int64)).tolist()
    seen = set(first)
    for place in chain(first, (place for place in range(number) if place not in seen)):
        if not waited_for():
            return
        yield place


def _label_fields(config: Any) -> Iterator[str]:
    """Names of the ``json`` field that a decoder, or each of several in one, takes the label from."""
    if isinstance(config, (tuple, list)):
        for part in config:
            yield from _label_fields(part)
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        for item in dataclasses.fields(config):
            value = getattr(config, item.name)
            if item.name == "label" and isinstance(value, str):
                yield value
            else:
                yield from _label_fields(value)


def _decoder_finds_labels(shards: Any, modality: str, evaluation: Any) -> bool:
    decode = decoder(modality, evaluation)
    for number in sorted({*range(0, shards.num_samples, max(1, shards.num_samples // _DECODED))}):
        if not waited_for():
            return False
        try:
            sample = decoded(decode, shards.read(*shards.locate(number)))
        except SampleError:
            continue
        if isinstance(sample.get("label"), (int, str)):
            return True
    return False
