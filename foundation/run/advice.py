"""What does not fit between a recipe and the samples that it is given, said before anything is learnt.

The dry run and the start of a run say the same. Each line names the key to change; shards that the recipe cannot read
at all are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from foundation.catalogue import of_modality
from foundation.data.boundary import decoded
from foundation.data.index import read_index
from foundation.data.moments import Collector
from foundation.data.shards import GIB, ShardSet
from foundation.data.statistics import collector_of
from foundation.deadline import OutOfTimeError, waited_for, within
from foundation.errors import SampleError, UserError
from foundation.printable import printable
from foundation.run.probing import look_ahead
from foundation.run.recipe import Recipe
from foundation.schedules import Clock
from foundation.voice import plural

FEW_STEPS = 1000
"""Fewer optimiser steps than these teach an encoder little."""
FEW_SAMPLES = 20
"""Fewer samples than these teach an encoder little, whatever the batch."""
_FEWER = 4  # a recipe that suits so many times the samples that there are is worth a word
_LOOKED_AT = 4  # samples of a source that are decoded at the start
_PATIENCE = 30.0  # seconds for that: storage that does not answer is the watchdog's affair, which begins after this
_OFF = 1.1  # an epoch that is set may be longer than the data by this factor before it is worth a word


def advice(recipe: Recipe, clock: Clock, sources: Mapping[str, ShardSet]) -> list[str]:
    """What a user should know before the first step, a sentence each.

    Args:
        recipe: of the run.
        clock: its length.
        sources: opened shards by name.

    Raises:
        UserError: the shards are of another modality than the recipe's, or a probe of the recipe cannot use its own.
    """
    samples = sum(int(shards.num_samples) for shards in sources.values())
    fit = _in_time(lambda: list(_of_samples(recipe, sources)), "a few samples", "they fit the recipe")
    able = _in_time(lambda: look_ahead(recipe), "labels of the probes' shards", "they will do")
    return [*of_counts(recipe, clock, samples), *fit, *able]


def _in_time(look: Callable[[], list[str]], what: str, unknown: str) -> list[str]:
    try:
        return within(_PATIENCE, look)
    except OutOfTimeError:
        return [
            f"{what} could not be read in {_PATIENCE:g} seconds: whether {unknown} is not known. Storage or decoder "
            "hang, or are slow: look at them with `foundation data inspect`"
        ]


def of_counts(recipe: Recipe, clock: Clock, samples: int) -> Iterator[str]:
    """What does not fit the number of samples of all sources, a sentence each."""
    batch, steps = recipe.train.batch_size, clock.total_steps
    if samples < FEW_SAMPLES:
        yield (
            f"{plural(samples, 'sample')} will teach an encoder little, though the run goes through: gather some "
            "hundred at least; long recordings may be cut into pieces (`foundation data build NAME --help`)"
        )
    elif (suited := recipe.about.samples) and samples * _FEWER <= suited:
        yield (
            f"{plural(samples, 'sample')} are few for a recipe whose settings suit about {suited:,} (about.samples): "
            f"expect little more than simple features give. Gather more, or see what 'foundation recipes list "
            f"{recipe.views.modality}' has for fewer"
        )
    if batch > samples:
        change = f". Set train.batch_size to {_batch_for(samples):,} or less" if samples >= FEW_SAMPLES else ""
        yield (
            f"train.batch_size {batch:,} is more than the {plural(samples, 'sample')} there are: every step sees the "
            f"same ones several times{change}"
        )
    epoch = clock.steps_per_epoch * batch
    key = "train.steps_per_epoch" if recipe.train.steps_per_epoch else "data.samples_per_epoch"
    given = recipe.train.steps_per_epoch or recipe.data.samples_per_epoch
    if given and epoch > _OFF * samples:
        yield (
            f"{key} {given:,} makes an epoch of {plural(round(epoch), 'sample')}, and there are {samples:,}: set {key} "
            "to null, and an epoch is what the data hold"
        )
    fresh = recipe.initial is None  # what has been learnt elsewhere takes fewer
    if fresh and steps < FEW_STEPS and recipe.train.length.unit == "epochs":  # steps are stated on purpose
        yield (
            f"{plural(steps, 'step')} are few: below about {FEW_STEPS:,} an encoder learns little. Set train.length to "
            f"'{FEW_STEPS} steps' or more"
        )


def _batch_for(samples: int) -> int:
    """The power of two that lets an epoch have some ten steps."""
    return 1 << max(0, (max(1, samples // 10)).bit_length() - 1)


def _of_samples(recipe: Recipe, sources: Mapping[str, ShardSet]) -> Iterator[str]:
    wanted = recipe.views.modality
    try:
        decode = recipe.decode.build()
    except UserError as error:  # a package is missing that is of no use where the samples are of another modality
        for name, shards in sources.items():
            if (held := _modality_of(shards)) not in ("", wanted):
                said = _other_modality(recipe, _where(name), held, str(error))
                raise UserError(f"{said}. (Where it is meant so: {error})") from None
        raise
    most = int(recipe.data.max_decoded_gib * GIB)
    collector, seen = _collector(recipe), 0
    for name, shards in sources.items():
        if any("://" in shard or shard.startswith("pipe:") for shard in shards.shards):
            continue  # to look at a sample may mean to fetch a whole shard
        refused: list[SampleError] = []
        places = np.unique(np.linspace(0, int(shards.num_samples) - 1, _LOOKED_AT).astype(np.int64)).tolist()
        for place in places:
            if not waited_for():
                return
            try:
                raw = shards.read(*shards.locate(place))
                sample = decoded(decode, raw, max_bytes=most)
            except SampleError as error:
                refused.append(error)
                continue
            if collector is None:
                continue
            try:
                collector.add(sample, raw)
                seen += 1
            except Exception as error:  # whatever it is: advice keeps no run from starting
                yield f"the samples could not be measured: {error}"
                collector = None
        held = _modality_of(shards)
        foreign = held not in ("", wanted)
        if len(refused) == len(places) and (foreign or (not held and all(e.reason == "missing" for e in refused))):
            raise UserError(_other_modality(recipe, _where(name), held, refused[0].detail))
    if collector is not None and seen:
        yield from collector.facts().misfits


def _collector(recipe: Recipe) -> Collector | None:
    try:
        return collector_of(recipe.views.modality, recipe.views, recipe.decode)
    except UserError:  # a modality of someone else's, which says nothing about its samples
        return None


def _modality_of(shards: ShardSet) -> str:
    """What the index beside the first shard says; empty where it says nothing."""
    with suppress(UserError):
        index = read_index(Path(shards.shards[0]).parent)
        return index.modality if index else ""
    return ""


def _where(source: str) -> str:
    return f"data.sources.{source}.shards" if source else "data.shards"


def _other_modality(recipe: Recipe, where: str, held: str, detail: str) -> str:
    wanted = recipe.views.modality
    if held:
        fitting = ", ".join(of_modality(held)) or "none is shipped"
        said = f"{where}: these are {printable(held)} samples, and the recipe {recipe.name!r} is for {wanted}"
        return f"{said}. Recipes for {printable(held)}: {printable(fitting)}"
    said = f"{where}: no sample can be read by the recipe {recipe.name!r}, which is for {wanted}"
    return f"{said}: {detail}. 'foundation recipes list' says what each recipe is for"
