"""Features of a frozen encoder, computed once and kept.

Every probe reads the same :class:`FeatureSet`, so that kNN and a linear probe of one encoder cost one pass over the
data. Nothing here knows a modality: decoding and the evaluation view come from the modality's own rooms.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.probes.results import progress
from foundation.voice import plural

Tokens: TypeAlias = Literal["cls", "patches", "both"]
"""What stands for a sample: its class token, the mean of its patch tokens, or both."""

TOKENS: tuple[Tokens, ...] = get_args(Tokens)

_HASHED = 1 << 13
"""Numbers of a view that are hashed at once."""


@dataclass(frozen=True)
class FeatureSet:
    """Frozen features of one data set, in the order of the data.

    Attributes:
        cls: class tokens after the final norm, one [S, D] float32 for each of the last blocks, the last block last.
        patches: [S, D] float32, mean of the patch tokens of the last block; equal to the class token for encoders
            without patch tokens.
        labels: [S] int64, -1 where a sample has none.
        keys: keys of the samples.
        ids: [S] int64, numbers of the samples in their shards, counted through; empty where unknown.
        skipped: samples that could not be read, by reason.
        messages: what was wrong with the first of them.
        names: [S] labels that are no class numbers (a name, a list where a sample has several), None elsewhere; empty
            where all are numbers or absent.
        classes: name of each class number, once :func:`foundation.probes.labels.number_classes` has numbered them.
        prints: [S] int64, :func:`fingerprints` of what the encoder saw: equal where samples have equal content; empty
            where unknown.
        groups: [S] int64, samples of one number (one subject, one recording) must stay on one side of a split; empty
            where each sample stands for itself.
    """

    cls: tuple[Tensor, ...]
    patches: Tensor
    labels: Tensor
    keys: tuple[str, ...]
    ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    skipped: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    names: tuple[Any, ...] = ()
    classes: tuple[str, ...] = ()
    prints: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    groups: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self, which: Tokens) -> tuple[Tensor, ...]:
        """The class token of the last block [S, D], the mean patch token [S, D], or one after the other."""
        found = {"cls": (self.cls[-1],), "patches": (self.patches,), "both": (self.cls[-1], self.patches)}[which]
        return tuple(part.float() for part in found)

    def labelled(self) -> FeatureSet:
        """Only the samples that have one label, a class number or a name; others are counted as skipped.

        Raises:
            UserError: when there are none.
        """
        named = torch.tensor([isinstance(name, str) for name in self.names], dtype=torch.bool)
        rows = ((self.labels >= 0) | named if self.names else self.labels >= 0).nonzero().flatten()
        several = sum(isinstance(name, list) for name in self.names)
        if not len(rows):
            raise UserError(no_labels(len(self), several))
        if len(rows) == len(self):
            return self
        part = self.take(rows)
        none = len(self) - len(rows) - several
        said = [f"{none} without a label"] * bool(none)
        said += [f"{several} with several labels each: this probe needs one"] * bool(several)
        skipped = dict(self.skipped)
        for reason, count in (("no label", none), ("label", several)):
            if count:
                skipped[reason] = skipped.get(reason, 0) + count
        return dataclasses.replace(part, skipped=skipped, messages=(*said, *self.messages))

    def take(self, rows: Tensor) -> FeatureSet:
        """Some of the samples; ``rows`` [n] int64."""
        return dataclasses.replace(
            self,
            cls=tuple(layer[rows] for layer in self.cls),
            patches=self.patches[rows],
            labels=self.labels[rows],
            keys=tuple(self.keys[row] for row in rows.tolist()),
            ids=self.ids[rows] if len(self.ids) else self.ids,
            names=tuple(self.names[row] for row in rows.tolist()) if self.names else (),
            prints=self.prints[rows] if len(self.prints) else self.prints,
            groups=self.groups[rows] if len(self.groups) else self.groups,
        )


def no_labels(samples: int, several: int) -> str:
    """What to say of samples none of which has one label, ``several`` of them because they have more."""
    if several:
        return (
            f"{several:,} of the {plural(samples, 'sample')} have several labels each: this probe needs one label per "
            "sample, as a member .cls or a single value in .json"
        )
    return f"none of the {plural(samples, 'sample')} has a label: this probe needs labelled shards"


def depth_of(encoder: nn.Module) -> int:
    """Number of blocks of an encoder."""
    depth = getattr(encoder, "depth", None)
    if depth is None:
        blocks = getattr(encoder, "blocks", None)
        if blocks is None:
            blocks = getattr(getattr(encoder, "trunk", None), "blocks", None)
        depth = len(blocks) if blocks is not None else 1
    return int(depth)


def has_class_token(encoder: nn.Module) -> bool:
    """Whether what stands for a whole sample is a token of its own, and not the mean of the patch tokens."""
    return int(getattr(encoder, "prefix", 1)) > 0


def final_norm(encoder: nn.Module) -> nn.Module | None:
    """What stands between the last block and the class token; None where an encoder does not say."""
    for owner in (getattr(encoder, "trunk", None), getattr(encoder, "model", None), encoder):
        for name in ("class_norm", "norm"):
            norm = getattr(owner, name, None)
            if isinstance(norm, nn.Module):
                return norm
    return None


def _layers(encoder: nn.Module, view: Tensor, blocks: int) -> tuple[list[Tensor], Tensor]:
    """Class tokens of the last blocks [B, D] each and the mean patch token [B, D] of the last."""
    depth = depth_of(encoder)
    names = tuple(f"block.{index}" for index in range(depth - blocks, depth - 1))
    features = encoder([view], taps=names)[0] if names else encoder([view])[0]
    norm, first = final_norm(encoder), has_class_token(encoder)
    earlier = []
    for name in names:
        tokens = features.taps[name]
        token = tokens[:, 0] if first else tokens.mean(dim=1)
        # DINOv2 puts the trunk's last norm on the tokens of every block that it reads.
        fits = norm is not None and token.shape[-1:] == tuple(getattr(norm, "normalized_shape", token.shape[-1:]))
        earlier.append(norm(token) if norm is not None and fits and first else token)
    patches = features.patches
    if patches.shape[1] == 0:
        pooled = features.cls
    elif features.valid is None:
        pooled = patches.float().mean(dim=1)
    else:
        weight = features.valid[..., None].float()
        pooled = (patches.float() * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return [*earlier, features.cls], pooled


Reader: TypeAlias = Callable[[Tensor], tuple[list[Tensor], Tensor]]
"""From views [B, ...] to class tokens of the last blocks, [B, D] each, and the mean patch token [B, D] of the last."""


def reader(encoder: nn.Module, blocks: int = 1) -> Reader:
    """How the last so many blocks of an encoder are read.

    Raises:
        UserError: the encoder has fewer.
    """
    if not 1 <= blocks <= depth_of(encoder):
        raise UserError(f"blocks must lie between 1 and the encoder's depth {depth_of(encoder)}, got {blocks}")
    return functools.partial(_layers, encoder, blocks=blocks)


def patch_tokens(encoder: nn.Module, view: Tensor) -> tuple[list[Tensor], Tensor]:
    """A :data:`Reader` of every patch token: [B, N, D + 1] with 1 behind those that count and 0 behind padding, and no
    mean.

    Raises:
        UserError: the encoder has no patch tokens.
    """
    found = encoder([view])[0]
    if found.patches.shape[1] == 0:
        raise UserError("this encoder has no patch tokens")
    patches = found.patches.float()
    counts = patches.new_ones(patches.shape[:2]) if found.valid is None else found.valid.float()
    return [torch.cat([patches, counts[..., None]], dim=-1)], patches.new_zeros(len(patches), 0)


def averaged(read: Reader) -> Reader:
    """A reader of views [B, P, ...], P pieces of each recording: the mean of each number over the pieces, which pass
    through the encoder one after the other."""

    def of_pieces(views: Tensor) -> tuple[list[Tensor], Tensor]:
        found = [read(piece) for piece in views.unbind(dim=1)]
        layers = zip(*(tokens for tokens, _ in found), strict=True)
        means = torch.stack([mean.float() for _, mean in found]).mean(dim=0)
        return [torch.stack([token.float() for token in layer]).mean(dim=0) for layer in layers], means

    return of_pieces


def extract(
    encoder: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device | str = "cpu",
    blocks: int = 1,
    autocast: bool = False,
    total: int | None = None,
    limit: int | None = None,
    what: str = "features",
    pieces: int = 1,
) -> FeatureSet:
    """One pass of a frozen encoder, in eval mode and without gradient.

    Args:
        encoder: ``encoder([tensor], taps=...) -> [Features]``; goes back to the mode it was in.
        batches: of :func:`foundation.data.stream.build_eval_loader`: ``.data``, ``.labels``, ``.keys``, ``.skipped``
            and ``.messages``.
        device: where the encoder runs.
        blocks: how many of the last blocks to read the class token from.
        autocast: run in bfloat16 (the stored features stay float32).
        total: number of batches, for the progress bar.
        limit: stop after so many samples.
        what: said in front of the progress bar.
        pieces: of each recording; with more than one, views are [B, pieces, ...] and features their mean.

    Returns:
        The features, on the CPU.

    Raises:
        UserError: when no sample could be read, or the encoder has fewer blocks than asked for.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        one = [reader(encoder, blocks) if pieces == 1 else averaged(reader(encoder, blocks))]
        (found,) = extract_all(one, batches, device=device, autocast=autocast, total=total, limit=limit, what=what)
    finally:
        encoder.train(was_training)
    return found


def extract_all(
    readers: Sequence[Reader],
    batches: Iterable[Any],
    *,
    device: torch.device | str = "cpu",
    autocast: bool = False,
    total: int | None = None,
    limit: int | None = None,
    what: str = "features",
) -> list[FeatureSet]:
    """One pass over the data for several encoders in evaluation mode: every sample is decoded once.

    Args:
        readers: of each encoder; the rest as for :func:`extract`.

    Returns:
        The features of each, on the CPU.

    Raises:
        UserError: when no sample could be read.
    """
    device = torch.device(device)
    layers: list[list[list[Tensor]]] = [[] for _ in readers]  # of each encoder: batches of layers
    pooled: list[list[Tensor]] = [[] for _ in readers]
    labels: list[Tensor] = []
    ids: list[Tensor] = []
    prints: list[Tensor] = []
    keys: list[str] = []
    names: list[Any] = []
    skipped: dict[str, int] = {}
    messages: list[str] = []
    context = torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()
    with torch.inference_mode():
        for batch in progress(batches, total, what):
            for reason, count in batch.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
            messages.extend(batch.messages[: max(0, 8 - len(messages))])
            if len(batch.keys):
                view = batch.data.to(device, non_blocking=True)
                prints.append(fingerprints(view).cpu())
                for place, read in enumerate(readers):
                    with context:
                        tokens, mean = read(view)
                    layers[place].append([token.float().cpu() for token in tokens])
                    pooled[place].append(mean.float().cpu())
                labels.append(torch.as_tensor(batch.labels, dtype=torch.int64).cpu())
                ids.append(torch.as_tensor(batch.ids, dtype=torch.int64).cpu())
                keys.extend(batch.keys)
                names.extend(None if isinstance(name, int) else name for name in batch.names)
            if limit is not None and len(keys) >= limit:
                break
    if not keys:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in skipped.items()) or "the shards are empty"
        raise UserError(f"{what}: no sample could be read ({reasons})" + "".join(f"\n  {line}" for line in messages))
    # Leaving inference mode by a copy: linear heads need ordinary tensors.
    return [
        FeatureSet(
            cls=tuple(torch.cat(layer)[:limit].clone() for layer in zip(*of_batches, strict=True)),
            patches=torch.cat(means)[:limit].clone(),
            labels=torch.cat(labels)[:limit].clone(),
            keys=tuple(keys[:limit]),
            ids=torch.cat(ids)[:limit].clone(),
            skipped=dict(skipped),
            messages=tuple(messages),
            names=tuple(names[:limit]) if any(name is not None for name in names) else (),
            prints=torch.cat(prints)[:limit].clone(),
        )
        for of_batches, means in zip(layers, pooled, strict=True)
    ]


def fingerprints(view: Tensor) -> Tensor:
    """[B] int64 for views [B, ...]: equal for equal numbers and, but for a chance of 2 ** -31, for no others.

    A sum of the bits of all numbers, each times a random number of its own (multilinear hashing): exact in integers, so
    that neither the device nor what stands beside a sample in the batch matters.
    """
    bits = view.float().flatten(1).contiguous().view(torch.int32)
    total = torch.zeros(len(bits), dtype=torch.int64, device=bits.device)
    for start in range(0, bits.shape[1], _HASHED):
        part = bits[:, start : start + _HASHED]
        total += (part * _factors(start)[: part.shape[1]].to(bits.device)).sum(dim=1)
    return total


@functools.lru_cache(maxsize=512)
def _factors(start: int) -> Tensor:
    """Odd factors of the numbers from ``start`` on; the same in every version of the libraries."""
    return torch.from_numpy((np.random.PCG64(start).random_raw(_HASHED) | 1).view(np.int64))


def check_finite(features: Tensor, what: str) -> None:
    """Refuse features that hold NaN or infinity.

    Raises:
        UserError: naming how many samples are affected.
    """
    # What is not finite makes a sum so; a sum of finite numbers may overflow, and is looked at again.
    rows = (~torch.isfinite(features.sum(dim=1))).nonzero().flatten()
    bad = rows[~torch.isfinite(features[rows]).all(dim=1)]
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(features)} {what} features are not finite (first: sample {int(bad[0])}): "
            "the encoder gives NaN or infinity, so no probe of it means anything"
        )
