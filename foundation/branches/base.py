"""A branch: an encoder with its heads. The student is one; an EMA teacher is a copy of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundation.objectives.base import Request
from foundation.types import MASKING, Batch, Features


class Branch(nn.Module):
    """Encoder and heads that live, move and are averaged together.

    Args:
        encoder: takes ``(views, masks, taps)`` and returns one :class:`Features` per view.
        heads: by name; each takes [rows, D] and returns [rows, K].
    """

    encoder: Any
    """Not every encoder shares a base class; the contract is the call above and ``width``, ``depth``, ``layer_of``. One
    with ``supports_wanted`` is also told which patches of each view are read, see ``foundation.encoders.vit``."""

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(dict(heads))

    def forward(self, batch: Batch, requests: Iterable[Request], hide: bool = False) -> dict[Request, Tensor]:
        """Compute the requested tensors, every view and every head in one pass.

        Args:
            batch: views and masks.
            requests: what to compute; all of this branch.
            hide: whether masked tokens are hidden from the encoder (the student's case).

        Returns:
            By request: ``cls`` [R, ...], ``patches`` [R, N, ...] or ``masked`` [M, ...], where ... is D for the
            encoder's features and K behind a head; ``cells`` [R, N, *cell].
        """
        requests = tuple(dict.fromkeys(requests))
        cells = {r: self.encoder.tokenizer.cells(batch.views[r.view].data) for r in requests if r.token == "cells"}
        requests = tuple(request for request in requests if request not in cells)
        names = tuple(dict.fromkeys(request.view for request in requests))
        hidden = {name: batch.masks[name, MASKING] for name in names if hide and (name, MASKING) in batch.masks}
        views = {name: batch.views[name].data for name in names}
        for name, mask in hidden.items():
            if mask.mode == "input":
                views[name] = mask.overwrite(views[name], self.encoder.tokenizer.spread(mask.masked, views[name]))
        masks = [hidden[name].masked if name in hidden and hidden[name].mode != "input" else None for name in names]
        options: dict[str, Any] = {}
        if getattr(self.encoder, "supports_wanted", False):
            options["wanted"] = [_places(batch, name, requests) for name in names]
        if any(mask.mode == "drop" for mask in hidden.values()):
            left_out = {name: mask.hidden_per_row for name, mask in hidden.items() if mask.mode == "drop"}
            options["drop"] = [left_out.get(name) for name in names]
        features: list[Features] = self.encoder(list(views.values()), masks, **options)
        by_view = dict(zip(names, features, strict=True))
        tokens = {request: _tokens(by_view[request.view], request, batch) for request in requests}
        outputs = cells | {request: tensor for request, tensor in tokens.items() if request.head is None}
        for head in dict.fromkeys(request.head for request in requests if request.head is not None):
            wanted = [request for request in requests if request.head == head]
            rows = [tokens[request].flatten(0, -2) for request in wanted]
            logits = self.heads[head](torch.cat(rows) if len(rows) > 1 else rows[0])
            for request, part in zip(wanted, logits.split([len(r) for r in rows]), strict=True):
                outputs[request] = part.unflatten(0, tokens[request].shape[:-1])
        return outputs


def _places(batch: Batch, view: str, requests: Iterable[Request]) -> Tensor | None:
    """Places of the patches of a view that some request reads, [M] in the flattened [R * N]; None: all are read."""
    tokens = {request.token for request in requests if request.view == view}
    if "patches" in tokens:
        return None
    return batch.masks[view, MASKING].indices if "masked" in tokens else batch.views[view].sample_ids.new_empty(0)


def _tokens(features: Features, request: Request, batch: Batch) -> Tensor:
    if request.token == "cls":
        return features.cls
    patches = features.patches
    if request.token == "patches" or patches.ndim == 2:  # no others than the masked ones
        return patches
    return patches.flatten(0, 1).index_select(0, batch.masks[request.view, MASKING].indices)
