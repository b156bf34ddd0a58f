"""From shards to features: the modality's own decoding and evaluation view, any encoder, and the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.counter import Draws
from foundation.data.origins import Finder, Origin
from foundation.data.shards import open_shards
from foundation.data.stream import build_eval_loader
from foundation.modalities.parts import decoder, evaluation_config, in_pieces, views_for_probe
from foundation.parallel.collective import rank, world_size
from foundation.probes.digests import cache_key, data_digest, weights_digest
from foundation.probes.feature_cache import keep_features, kept_features
from foundation.probes.feature_shares import together
from foundation.probes.features import FeatureSet, extract, extract_all, patch_tokens


def find_shards(patterns: Sequence[str]) -> list[Origin]:
    """Where the shards that patterns name come from: this machine, or elsewhere.

    Raises:
        UserError: where a pattern finds nothing.
    """
    return [found.origin for found in Finder().find(list(patterns))]


class Some:
    """Some samples of a set of shards.

    Args:
        shards: all samples.
        kept: [n] int64, numbers of those that count, in their order.
    """

    def __init__(self, shards: Any, kept: NDArray[np.int64]) -> None:
        self.whole, self.classes, self.kept = shards, shards.classes, kept
        self.counts = np.array([len(kept)], dtype=np.int64)
        self.shards, self.num_samples = (f"{len(kept)} samples of {len(shards.shards)} shards",), len(kept)

    def locate(self, number: int) -> tuple[int, int]:
        """Shard and place by which :meth:`read` finds a sample, by its number among those that are kept."""
        return 0, number

    def read(self, shard: int, index: int, only: Collection[str] | None = None) -> Any:
        """The raw sample, with its number in the whole set; ``only`` as for the whole set."""
        return self.whole.read(*self.whole.locate(int(self.kept[index])), only)


class AugmentedView:
    """Samples to one freshly augmented view each; the same seed and epoch give the same views.

    Args:
        views: of a modality, with a single role of one view.
        seed: of the draws.
        epoch: of the draws.
    """

    def __init__(self, views: Any, seed: int, epoch: int) -> None:
        self.views, self.seed, self.epoch = views, seed, epoch

    def __call__(self, samples: Sequence[Any]) -> Tensor:
        ids = np.array([sample["__id__"] for sample in samples], dtype=np.int64)
        draws = Draws(self.seed, np.full_like(ids, self.epoch), ids)
        (view,) = self.views.finish(self.views.prepare(samples, draws)).values()
        return view.data


def open_limited(patterns: Sequence[str], limit: int | None) -> Any:
    """The shards, thinned when they hold more samples than the limit."""

    shards = open_shards(list(patterns))
    if limit is None or limit >= shards.num_samples:
        return shards
    # Spread evenly, so that sorted shards keep all their classes.
    return Some(shards, np.linspace(0, shards.num_samples, limit, endpoint=False).astype(np.int64))


def share_of(shards: Any) -> Any:
    """The part of some samples that this process looks at; the parts of all processes make up the whole, in order."""
    if world_size() == 1:
        return shards
    first, end = (shards.num_samples * number // world_size() for number in (rank(), rank() + 1))
    return Some(shards, np.arange(first, end))


def loader(
    patterns: Sequence[str],
    decode: Callable[[Any], Any],
    prepare: Callable[[Any], Tensor],
    batch_size: int,
    workers: int,
    limit: int | None = None,
    shared: bool = False,
) -> Any:
    """Batches of views that ``prepare`` makes of what ``decode`` gives; the rest as for :func:`features_of_shards`."""
    shards = open_limited(patterns, limit)
    return build_eval_loader(share_of(shards) if shared else shards, prepare, decode, batch_size, workers=workers)


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
    shared: bool = False,
    pieces: int = 1,
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
        pieces: of a recording that is longer than a view, spread evenly over it; their features are averaged.
        shared: all processes of a run call this together; each computes a share, and all get the whole.

    Raises:
        UserError: when shards are missing or no sample can be read.
    """
    evaluation = evaluation_config(modality, evaluation)
    path, key = None, ""
    if cache is not None:
        key = cache_key(
            weights or weights_digest(encoder),
            data_digest(find_shards(patterns)),
            evaluation,
            blocks=blocks,
            limit=limit,
            autocast=autocast,
            encoder=type(encoder).__qualname__,
            **({} if pieces == 1 else {"pieces": pieces}),
        )
        path = cache / f"{key[:40]}.safetensors"
        found = kept_features(path, key)
        if found is not None:
            return found
    view = evaluation.build() if pieces == 1 else in_pieces(modality, evaluation, pieces)
    make = (patterns, decoder(modality, evaluation), view, batch_size, workers, limit, shared)

    def features_here() -> FeatureSet:
        with loader(*make) as batches:
            return extract(
                encoder, batches, device=device, blocks=blocks, autocast=autocast, total=len(batches), what=what,
                pieces=pieces,
            )  # fmt: skip

    features = together(features_here) if shared else features_here()
    if path is not None:
        keep_features(path, features, key)
    return features


def labelled_features(probe: Any, encoder: nn.Module, patterns: Sequence[str], what: str, **where: Any) -> FeatureSet:
    """Features and labels for a probe of a run in training.

    Args:
        probe: its settings ``batch_size``, ``workers`` and ``limit`` are used.
        encoder: as for :func:`features_of_shards`, like the rest.

    Raises:
        UserError: when shards are missing or hold no labels.
    """
    size, workers, limit = probe.batch_size, probe.workers, probe.limit
    return features_of_shards(
        encoder, patterns, batch_size=size, workers=workers, limit=limit, what=what, shared=True, **where
    ).labelled()


def augmented_features(
    encoder: nn.Module,
    patterns: Sequence[str],
    *,
    epoch: int,
    seed: int,
    modality: str,
    evaluation: Any,
    device: torch.device | str,
    blocks: int,
    autocast: bool,
    batch_size: int,
    workers: int,
    limit: int | None,
) -> FeatureSet:
    """Features of freshly augmented views, in stored order; arguments as for :func:`features_of_shards`.

    Raises:
        UserError: when the modality has no views for probes.
    """
    config = evaluation_config(modality, evaluation)
    view = AugmentedView(views_for_probe(modality, config).build(), seed, epoch)
    with loader(patterns, decoder(modality, config), view, batch_size, workers, limit) as batches:
        return extract(
            encoder,
            batches,
            device=device,
            blocks=blocks,
            autocast=autocast,
            total=len(batches),
            what=f"augmented views, epoch {epoch + 1}",
        )


def tokens_of_shards(
    encoder: nn.Module,
    patterns: Sequence[str],
    *,
    modality: str,
    evaluation: Any,
    device: torch.device | str,
    autocast: bool,
    batch_size: int,
    workers: int,
    limit: int | None,
    what: str = "tokens",
) -> FeatureSet:
    """Patch tokens of samples; arguments as for :func:`features_of_shards`.

    Returns:
        A set whose only layer is [S, N, D + 1]: each token, and 1 where it counts or 0 where it is padding.

    Raises:
        UserError: the encoder has no patch tokens.
    """
    config = evaluation_config(modality, evaluation)
    with loader(patterns, decoder(modality, config), config.build(), batch_size, workers, limit) as batches:
        return extract_all(
            [functools.partial(patch_tokens, encoder)],
            batches,
            device=device,
            autocast=autocast,
            total=len(batches),
            what=what,
        )[0]
