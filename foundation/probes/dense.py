"""Features of every point, pixel or moment of a sample, for use outside: segmentation, parts, matching."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.data.boundary import good_views
from foundation.data.stream import iterate_samples
from foundation.errors import SampleError, UserError
from foundation.modalities.parts import decoder, part
from foundation.probes.features import depth_of, final_norm
from foundation.probes.road import open_limited
from foundation.zoo.load import LoadedEncoder


def token_features(encoder: nn.Module, view: Tensor, blocks: int = 1) -> Tensor:
    """Patch tokens of the last blocks side by side, each after the final norm.

    Args:
        encoder: in evaluation mode.
        view: [B, ...].
        blocks: how many of the last blocks.

    Returns:
        [B, N, blocks * D], the last block last.

    Raises:
        UserError: the encoder has fewer blocks, or no patch tokens.
    """
    depth = depth_of(encoder)
    if not 1 <= blocks <= depth:
        raise UserError(f"--blocks must lie between 1 and the encoder's depth {depth}, got {blocks}")
    names = tuple(f"block.{index}" for index in range(depth - blocks, depth - 1))
    features = encoder([view], taps=names)[0] if names else encoder([view])[0]
    count = features.patches.shape[1]
    if count == 0:
        raise UserError("this encoder has no patch tokens, so that it says nothing of parts")
    norm = final_norm(encoder)
    earlier = [features.taps[name][:, -count:] for name in names]
    return torch.cat([*(token if norm is None else norm(token) for token in earlier), features.patches], dim=-1)


def dense_features(
    loaded: LoadedEncoder,
    patterns: Sequence[str],
    *,
    blocks: int = 1,
    batch_size: int = 16,
    limit: int | None = None,
    device: Any = "cpu",
    bad: list[SampleError] | None = None,
) -> Iterator[dict[str, Any]]:
    """Samples to write: the modality's ``dense.py`` says what a feature belongs to.

    Args:
        loaded: the encoder.
        patterns: shards.
        blocks: see :func:`token_features`.
        batch_size: samples per forward pass.
        limit: at most so many samples, spread evenly over the shards; None: all.
        device: where the encoder runs.
        bad: gets what was wrong with each sample that was left out.

    Yields:
        ``__key__``, arrays as ``NAME.npy`` (bytes), and ``cls`` where a sample has a label
        (``json`` where it has several).

    Raises:
        UserError: the modality has no ``dense.py``, or shards are missing.
    """

    parts = part(loaded.modality, "dense")
    prepare, coordinates_of = loaded.evaluation.build(), getattr(loaded.config, "coordinates_of", None)
    batch: list[Any] = []

    def finished() -> Iterator[dict[str, Any]]:
        view, samples, wrong = good_views(prepare, batch)
        if bad is not None:
            bad.extend(error for _, error in wrong)
        if view is None:
            return
        view = view.to(device)
        with torch.inference_mode():
            tokens = token_features(loaded.encoder, view, blocks).float()
            if coordinates_of is not None:
                coordinates = coordinates_of(view)
            else:
                coordinates = torch.as_tensor(loaded.config.coordinates(tuple(view.shape[2:])))
        for sample, arrays in zip(samples, parts.spread(tokens, coordinates, samples, loaded.evaluation), strict=True):
            label = _label(sample["label"]) if "label" in sample else {}
            yield {"__key__": sample["__key__"], **{f"{name}.npy": _npy(a) for name, a in arrays.items()}, **label}

    for sample in iterate_samples(open_limited(patterns, limit), decoder(loaded.modality, loaded.evaluation), bad):
        batch.append(sample)
        if len(batch) == batch_size:
            yield from finished()
            batch.clear()
    if batch:
        yield from finished()


def _label(label: Any) -> dict[str, bytes]:
    if isinstance(label, list):
        return {"json": json.dumps({"label": label}).encode()}
    return {"cls": str(label).encode()}


def _npy(array: Any) -> bytes:

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
