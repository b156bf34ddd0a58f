"""What every objective is: a loss that declares which tensors it needs and owns its state, never a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from foundation.types import Batch


@dataclass(frozen=True)
class Request:
    """One tensor an objective needs. The learner computes the union of all requests, each once.

    Attributes:
        branch: ``student`` or the name of a teacher (``teacher`` for the recipe's first).
        view: name of a view of the batch, such as ``global``.
        token: ``cls`` [R, D], ``patches`` [R, N, D], or ``masked`` [M, D]: the patch tokens at
            ``batch.masks[view, "masking"].indices``. The student sees its views with those tokens hidden, teachers see
            all.
            ``cells`` [R, N, ...]: no features, but the numbers of the view that each token covers, as they were before
            anything was hidden (``cells`` of the tokenizer): what a reconstruction is measured on. Without a head.
        head: name of a head of the recipe whose output [..., K] is wanted, or None for the encoder's features.
    """

    branch: str
    view: str
    token: Literal["cls", "patches", "masked", "cells"]
    head: str | None = None


@dataclass(frozen=True)
class Result:
    """Loss of one objective and what a person wants to watch.

    Attributes:
        loss: scalar, before the objective's weight.
        metrics: detached scalars by name; they stay on the device until the trainer logs.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Base of all objectives.

    A subclass fills ``requests`` and implements ``forward``. State that must survive a restart (centres, queues) is a
    registered buffer.

    Attributes:
        requests: tensors it needs.
        plateau: cross-entropy of an output that says nothing, ``ln K`` for K prototypes, for the collapse detection;
            an objective that gives it also gives the metrics ``entropy`` (of its targets, nats), ``kl`` and, where it
            has them, ``prototypes`` (share in use). None where there is no such number.
        watched: whether somebody looks at the metrics of the next step; the learner says so before each. Where False,
            metrics that cost something may be left out.
    """

    requests: tuple[Request, ...] = ()
    plateau: float | None = None
    watched: bool = True

    def attach(self, encoder: Any) -> None:
        """Look at the student's encoder once, before training: sizes that no recipe key gives, such as ``cell_shape``
        of its tokenizer. Modules that depend on them are made here. The encoder must not be kept.

        Raises:
            UserError: this encoder cannot give what the objective needs.
        """

    def forward(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> Result:
        """Loss of this step.

        Args:
            outputs: the tensors asked for, in whatever precision autocast made them; losses compute in float32.
            batch: the batch they came from (masks, views' counts and geometry).
            step: optimiser step, counted from 0, for schedules.
        """
        raise NotImplementedError
