"""From shards to features: the modality's own decoding and evaluation view, any encoder, and the cache."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from foundation import plugins
from foundation.errors import UserError
from foundation.probes.features import (
    FeatureSet,
    cache_key,
    data_digest,
    extract,
    load_features,
    save_features,
    weights_digest,
)


def room(modality: str, name: str) -> ModuleType:
    """A room of a modality's folder: ``decode``, ``views``, ``tokenizer`` or ``picture``.

    Raises:
        UserError: when the modality does not exist or has no such room.
    """
    views = plugins.resolve("foundation.modalities.{name}.views", modality)
    parent = views.__name__.rpartition(".")[0]
    try:
        return importlib.import_module(f"{parent}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{parent}.{name}":
            raise
        raise UserError(f"modality {modality!r} has no {name}.py, which this command needs") from error


def evaluation_config(modality: str, evaluation: Any, size: int | None = None) -> Any:
    """The modality's ``EvaluationConfig``, from itself or a plain mapping (a card), optionally at another size.

    Raises:
        UserError: for keys that the config does not have.
    """
    import dataclasses

    kind = room(modality, "views").EvaluationConfig
    if evaluation is None:
        evaluation = {}
    if isinstance(evaluation, Mapping):
        known = {item.name for item in dataclasses.fields(kind)}
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in evaluation.items() if key != "name"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"preprocessing of {modality!r} has no {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        evaluation = kind(**values)
    if size is not None:
        evaluation = dataclasses.replace(evaluation, size=size)
    return evaluation


def find_shards(patterns: Sequence[str]) -> list[str]:
    """Paths of the shards that patterns name.

    Raises:
        UserError: where a pattern finds nothing.
    """
    from foundation.data.shards import open_shards

    return [str(shard.path) for shard in open_shards(list(patterns)).shards]


def loader(
    patterns: Sequence[str], modality: str, evaluation: Any, batch_size: int, workers: int, limit: int | None = None
) -> Any:
    """Batches of evaluation views; arguments as for :func:`features_of_shards`."""
    from foundation.data.shards import open_shards
    from foundation.data.stream import build_eval_loader

    decode = room(modality, "decode")
    prepare = evaluation_config(modality, evaluation).build()
    return build_eval_loader(open_shards(list(patterns)), prepare, decode.Config().build(), batch_size, workers)


def features_of_shards(
    encoder: nn.Module,
    patterns: Sequence[str],
    *,
    modality: str,
    evaluation: Any,
    device: torch.device | str = "cpu",
    blocks: int = 1,
    autocast: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    limit: int | None = None,
    cache: Path | None = None,
    weights: str | None = None,
    what: str = "features",
) -> FeatureSet:
    """Features of all samples of some shards, from the cache where it has them.

    Args:
        encoder: as for :func:`foundation.probes.features.extract`.
        patterns: paths, globs or brace patterns of shards.
        modality: folder name in ``foundation/modalities``.
        evaluation: that modality's ``EvaluationConfig`` or its values as a mapping.
        device: where the encoder runs.
        blocks: how many of the last blocks to read.
        autocast: run the encoder in bfloat16.
        batch_size: samples per forward pass.
        workers: loader processes.
        limit: at most so many samples, spread evenly over the shards; None: all.
        cache: folder to keep features in; None: compute them each time.
        weights: SHA-256 of the weights where it is known; computed else.
        what: said in front of the progress bar.

    Raises:
        UserError: when shards are missing or no sample can be read.
    """
    evaluation = evaluation_config(modality, evaluation)
    path = None
    if cache is not None:
        key = cache_key(
            weights or weights_digest(encoder),
            data_digest(find_shards(patterns)),
            evaluation,
            blocks=blocks,
            limit=limit,
            autocast=autocast,
            encoder=type(encoder).__qualname__,
        )
        path = cache / f"{key[:40]}.safetensors"
        found = load_features(path)
        if found is not None:
            return found
    batches = loader(patterns, modality, evaluation, batch_size, workers, limit)
    total = len(batches) if hasattr(batches, "__len__") else None
    features = extract(
        encoder, batches, device=device, blocks=blocks, autocast=autocast, total=total, limit=limit, what=what
    )
    if path is not None:
        save_features(path, features)
    return features
