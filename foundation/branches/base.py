"""What a branch is: a name that turns the views of a batch into tensors. Most hold an encoder with its heads."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.branches.request import Request
from foundation.data.shards import ShardSet
from foundation.encoders.protocol import ATTENTION, Encoder, EncoderInput
from foundation.errors import UserError
from foundation.modalities.lattice import lattice
from foundation.schedules import Clock
from foundation.types import Batch, Features, TokenMask, ViewShape


@dataclass(frozen=True)
class Offer:
    """What objectives can ask a branch for.

    Attributes:
        width: D of its features; the largest, where it changes.
        heads: Configs by name, with ``outputs`` and ``prototypes``.
        encoder: the encoder, for facts such as ``capabilities.cell_shape``; None for a branch without one.
        taps: names.
        varies: the width is another one from step to step.
        per_rank: and from process to process.
    """

    width: int
    heads: Mapping[str, Any]
    encoder: Encoder | None = None
    taps: tuple[str, ...] = ()
    varies: bool = False
    per_rank: bool = False


@dataclass(frozen=True)
class BranchContext:
    """What a branch may know when it is built.

    Attributes:
        name: of the branch.
        clock: length of the stage.
        seed: of the recipe.
        encoder: the recipe's ``encoder``.
        heads: the recipe's ``heads``.
        branches: those built so far, by name.
        previous: the branches of the stage before, by name; empty in the first.
        views: shapes by name.
        extras: Configs of the further members of a sample by name, ``data.extras``.
    """

    name: str
    clock: Clock
    seed: int
    encoder: Any
    heads: Mapping[str, Any]
    branches: Mapping[str, Branch]
    previous: Mapping[str, Branch] = field(default_factory=dict)
    views: Mapping[str, ViewShape] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


class Branch(nn.Module):
    """Base of all branches.

    A subclass says what it offers and answers requests. Its parameters are trained where ``trains`` is True; what must
    survive a restart is a parameter or a registered buffer.

    Attributes:
        trains: gradients reach it; all others run without, and in evaluation mode.
        exports: its encoder is worth keeping by itself when the run is done.
        follows: name of the branch that it is an average of; None for others.
        set_by_job: it stands still until a job of the recipe calls :meth:`refresh`.
        shares: what a plan says of a trained branch whose parameters are another one's; empty for all others.
        slices: name of the branch on slices of whose weights it computes; None for others.
        begins: what is said of first weights that are not random, a sentence each.
    """

    trains: bool = False
    exports: bool = False
    follows: str | None = None
    set_by_job: bool = False
    shares: str = ""
    slices: str | None = None
    begins: tuple[str, ...] = ()

    def parts(self) -> dict[str, nn.Module]:
        """Its modules whose weights may lie in shards over several processes, by name; each is called as a whole, by
        its forward pass and nothing else. All that is trained must be among them. None: there are no weights, or every
        process holds them all."""
        return {}

    @property
    def offer(self) -> Offer:
        """What can be asked for."""
        raise NotImplementedError

    @property
    def encoding(self) -> EncoderBranch | None:
        """What answers once views are :meth:`fed`, whatever they show; None for a branch without encoder of its own."""
        return None

    def fed(self, batch: Batch, views: Collection[str]) -> Batch:
        """The batch with the views of these names as the encoder of this branch takes them."""
        return batch

    def needs(self, requests: Sequence[Request]) -> tuple[Request, ...]:
        """Requests to other branches that answers to ``requests`` are made of."""
        return ()

    def input_shape(self, view: ViewShape, name: str) -> tuple[int, ...]:
        """What its encoder is fed for a view, without rows; arguments as of :meth:`num_patches`."""
        return view.shape

    def num_patches(self, view: ViewShape, name: str) -> int | None:
        """Patch tokens that the branch makes of a view; None where that is not known, or no grid.

        Args:
            view: its shape.
            name: of the view.
        """
        return None

    def grid(self, view: ViewShape, name: str) -> tuple[int, ...] | None:
        """Patch tokens along each axis, last axis fastest; None where that is not known, or they lie in no grid.

        Arguments as of :meth:`num_patches`.
        """
        return None

    def refusal(self, request: Request) -> str | None:
        """Why no batch of this recipe can serve a request that the offer allows; None where it can."""
        return None

    def check_shards(self, sources: Mapping[str, ShardSet]) -> None:
        """Refuse data that has not what the branch reads; called once, before the first step.

        Args:
            sources: opened shards by name.

        Raises:
            UserError: says what is missing where, and what would be right.
        """

    def forward(self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor]) -> Any:
        """Answers by request.

        Args:
            batch: on the device, its views finished.
            requests: of this branch.
            outputs: answers of other branches to what this one :meth:`needs`.
        """
        raise NotImplementedError

    def update(self, branches: Mapping[str, Branch], step: int, applied: Tensor | None = None) -> dict[str, float]:
        """Called after each optimiser step (from 0), without gradient.

        Args:
            branches: all of them, by name.
            step: which.
            applied: [] float32 on the device, not to be waited for: 1, or 0 where the guard has refused the step. No
                trained parameter has moved then, and an average must not move either. None: 1.

        Returns:
            Figures for the log, such as a momentum.
        """
        return {}

    def refresh(self, branches: Mapping[str, Branch]) -> None:
        """Called by a job, between two steps, where :attr:`set_by_job` says so."""
        raise NotImplementedError


class Weights(Protocol):
    """Weights that an encoder can begin with, the recipe's ``initial``."""

    def apply(self, encoder: Any, heads: Mapping[str, nn.Module] | None = None) -> tuple[str, ...]:
        """Load them in place; says what was taken, changed and left at random, a sentence each."""


class EncoderBranch(Branch):
    """Encoder and heads that live, move and are averaged together.

    Args:
        encoder: see :class:`foundation.encoders.protocol.Encoder`.
        heads: by name; each takes [rows, D] and returns [rows, K], or the tokens of whole rows where its Config has
            ``whole``: [R, N, D] -> [R, N, K].
        configs: Configs of the heads.
    """

    encoder: Any

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module], configs: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(dict(heads))
        self.configs = dict(configs)

    @property
    def encoding(self) -> EncoderBranch:
        return self

    def begin_from(self, weights: Weights) -> None:
        """Take first weights for the encoder.

        Raises:
            UserError: they cannot be read, or do not fit.
        """
        self.begins = weights.apply(self.encoder, dict(self.heads.items()))

    def plain_encoder(self) -> dict[str, Tensor]:
        """Weights of the encoder as the recipe's ``encoder`` has them, whatever is added to it in training."""
        return dict(self.encoder.state_dict())

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, **{f"heads.{name}": head for name, head in self.heads.items()}}

    @property
    def offer(self) -> Offer:
        taps = [*self.encoder.tap_names()]
        for name, head in self.heads.items():
            if self.configs[name].whole:
                taps += [f"{name}.{tap}" for tap in head.tap_names()]  # type: ignore[operator]
        return Offer(int(self.encoder.width), self.configs, self.encoder, tuple(taps))

    def num_patches(self, view: ViewShape, name: str) -> int | None:
        try:
            config = self.encoder.config.for_modality(view.modality)
            return None if config.coordinates_of is not None else len(config.coordinates(tuple(view.shape[1:])))
        except UserError:
            return None  # it is refused elsewhere, in words of its own

    def grid(self, view: ViewShape, name: str) -> tuple[int, ...] | None:
        try:
            config = self.encoder.config.for_modality(view.modality)
            if config.coordinates_of is not None:
                return None
            places: NDArray[np.int64] = config.coordinates(tuple(view.shape[1:]))
        except UserError:
            return None
        counts = tuple(int(last) + 1 for last in places.max(axis=0))
        return counts if len(places) == math.prod(counts) and (places == lattice(counts)).all() else None

    def forward(
        self, batch: Batch, requests: Iterable[Request], outputs: Mapping[Request, Tensor] | None = None
    ) -> dict[Request, Tensor]:
        """Compute the requested tensors, every view under every mask and every head in one pass.

        Returns:
            By request: see :class:`Request`, with D for the encoder's features and K behind a head.
        """
        requests = tuple(dict.fromkeys(requests))
        answers: dict[Request, Tensor] = {}
        for request in requests:
            if request.token == "cells":
                answers[request] = self.encoder.cells(batch.views[request.view].data)
        requests = tuple(request for request in requests if request not in answers)
        segments = tuple(dict.fromkeys((request.view, request.mask) for request in requests))
        if not segments:
            return answers
        inputs = [self._input(batch, view, mask, requests) for view, mask in segments]
        taps = tuple(dict.fromkeys(r.tap for r in requests if r.tap and r.tap.partition(".")[0] not in self.heads))
        features = dict(zip(segments, self.encoder(inputs, taps), strict=True))
        tokens = {
            r: _tokens(features[r.view, r.mask], r, batch, self.encoder.prefix, self._is_whole(r)) for r in requests
        }
        answers |= {request: tensor for request, tensor in tokens.items() if request.head is None}
        for head in dict.fromkeys(request.head for request in requests if request.head is not None):
            answers |= self._behind(head, [r for r in requests if r.head == head], tokens, batch)
        return answers

    def _is_whole(self, request: Request) -> bool:
        return request.head is not None and bool(self.configs[request.head].whole)

    def _behind(
        self, name: str, requests: Sequence[Request], tokens: Mapping[Request, Tensor], batch: Batch
    ) -> dict[Request, Tensor]:
        """Outputs of a head."""
        head, answers = self.heads[name], {}
        if self.configs[name].whole:
            of: dict[tuple[str, str | None], list[Request]] = {}
            for request in requests:
                of.setdefault((request.view, request.mask), []).append(request)
            for group in of.values():
                taps = tuple(r.tap.removeprefix(f"{name}.") for r in group if r.tap)
                last, tapped = head(tokens[group[0]], taps)
                for request in group:
                    value = tapped[request.tap.removeprefix(f"{name}.")] if request.tap else last
                    answers[request] = chosen(value, request, batch)
            return answers
        rows = [tokens[request].flatten(0, -2) for request in requests]
        if len(rows) == 1:  # a part of nothing but itself would be copied on the way back
            return {requests[0]: head(rows[0]).unflatten(0, tokens[requests[0]].shape[:-1])}
        logits = head(torch.cat(rows))
        for request, part in zip(requests, logits.split([len(r) for r in rows]), strict=True):
            answers[request] = part.unflatten(0, tokens[request].shape[:-1])
        return answers

    def _input(self, batch: Batch, view: str, mask: str | None, requests: Sequence[Request]) -> EncoderInput:
        data = batch.views[view].data
        facts: dict[str, Any] = {"valid": batch.views[view].valid, "modality": batch.views[view].modality}
        asked = [r for r in requests if (r.view, r.mask) == (view, mask)]
        wanted = self._wanted(batch, view, asked)
        facts["reads_patches"] = wanted is None or bool(self._read(asked))
        if mask is None:
            return EncoderInput(view=data, wanted=wanted, **facts)
        hidden: TokenMask = batch.masks[view, mask]
        if hidden.mode == "input":
            seen = hidden.overwrite(data, self.encoder.spread(hidden.masked, data))
            return EncoderInput(view=seen, wanted=wanted, **facts)
        left_out = hidden.hidden_per_row if hidden.mode == "drop" else None
        return EncoderInput(
            view=data, mask=hidden.masked, mode=hidden.mode, hidden_per_row=left_out, wanted=wanted, **facts
        )

    @staticmethod
    def _read(requests: Sequence[Request]) -> set[tuple[str, tuple[str, str]]]:
        """Which of the chosen patches are read behind the last layer: token, and view and rule that choose."""
        return {(r.token, key) for r in requests if (key := r.chosen_by) is not None and r.tap is None}

    def _wanted(self, batch: Batch, view: str, requests: Sequence[Request]) -> Tensor | None:
        """Places of the patches that some request reads, [M] in the flattened [R * N]; None: all are read."""
        if any(r.token == "patches" or self._is_whole(r) for r in requests):
            return None
        read = self._read(requests)
        if len(read) > 1:
            return None
        for token, key in read:
            mask = batch.masks[key]
            return mask.indices if token == "masked" else mask.visible_indices
        return batch.views[view].sample_ids.new_empty(0)


def _tokens(features: Features, request: Request, batch: Batch, prefix: int, whole: bool) -> Tensor:
    """Of a request, before its head."""
    if request.tap is not None and not whole:
        value = features.taps[request.tap]
        if request.tap.startswith(ATTENTION):
            return value
        features = Features(value[:, 0], value[:, 1:prefix], value[:, prefix:])
        seen_in_part = request.mask is not None and batch.masks[request.view, request.mask].mode == "drop"
        if seen_in_part and request.token in ("masked", "visible", "patches"):
            if request.token == "visible" and request.rule in (None, request.mask):
                return features.patches.flatten(0, 1)  # nothing else is there
            raise UserError(f"no layer of the encoder has {request}: mask rule {request.mask!r} leaves tokens out")
    if whole:
        return features.patches
    if request.token == "cls":
        return features.cls
    if request.token == "registers":
        return features.registers
    if features.patches.ndim == 2:  # no others than the chosen ones
        return features.patches
    return chosen(features.patches, request, batch)


def chosen(patches: Tensor, request: Request, batch: Batch) -> Tensor:
    """The patch tokens [M, ...] that a request means out of all [R, N, ...]; all of them for ``patches``."""
    key = request.chosen_by
    if key is None:
        return patches
    mask = batch.masks[key]
    indices = mask.indices if request.token == "masked" else mask.visible_indices
    return patches.flatten(0, 1).index_select(0, indices)
