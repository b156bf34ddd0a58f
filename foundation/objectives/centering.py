"""Target transforms: how teacher scores become assignments to prototypes. Everything here is float32, without gradient.

Letters: R rows, K prototypes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foundation.chunks import Rows, column_parts, column_sums, row_parts
from foundation.errors import UserError
from foundation.parallel import collective


class CentredRows:
    """``softmax((scores - centre) / temperature)`` [R, K] in float32, computed of the rows that are asked for alone.

    All of them at once would be twice as much memory as the scores themselves in 16 bits.
    """

    def __init__(self, scores: Tensor, centre: Tensor, temperature: float) -> None:
        self._scores, self._centre, self._temperature = scores.detach(), centre, temperature
        self.shape, self.device = scores.shape, scores.device

    @torch.no_grad()
    def __getitem__(self, rows: slice) -> Tensor:
        """[r, K] of some rows."""
        with torch.autocast(self.device.type, enabled=False):
            return torch.softmax((self._scores[rows].float() - self._centre).div_(self._temperature), dim=-1)


class Centering(nn.Module):
    """``softmax((scores - centre) / temperature)`` with a running mean of the scores as centre (Caron et al. 2021).

    The scores of a step enter the centre at the first use of the next step. DINO updates its centre right after use,
    DINOv2 at the next use: both use the same centre in every step, so that one implementation serves both. Collecting
    the sum of a step first also makes gradient accumulation exact: k small batches move the centre as one large one.

    The mean is over all rows of all processes. (DINOv2 averages the means of the processes; that differs only where
    processes have unequal numbers of masked patches.) A step whose scores are not finite leaves the centre alone.

    Attributes:
        centre: [K] float32.
        pending_sum: [K] sum of the scores since the centre last moved, over all processes.
        pending_count: [] how many rows that were.
    """

    centre: Tensor
    pending_sum: Tensor
    pending_count: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise UserError(f"centre_momentum must lie in [0, 1], got {momentum}")
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("pending_sum", torch.zeros(prototypes))
        self.register_buffer("pending_count", torch.zeros(()))
        self._step: int | None = None
        # A run that goes back to a checkpoint may come to the same step again, with other scores pending.
        self.register_load_state_dict_post_hook(Centering._begin_anew)

    @staticmethod
    def _begin_anew(module: Centering, incompatible: Any) -> None:
        module._step = None

    def next_centre(self) -> Tensor:
        """[K] the centre once everything seen so far has entered it."""
        mean = self.pending_sum / self.pending_count.clamp(min=1.0)
        moved = self.centre * self.momentum + mean * (1.0 - self.momentum)
        return torch.where((self.pending_count > 0) & torch.isfinite(mean).all(), moved, self.centre)

    def _fold(self) -> None:
        self.centre.copy_(self.next_centre())
        self.pending_sum.zero_()
        self.pending_count.zero_()

    @torch.no_grad()
    def forward(
        self,
        scores: Tensor,
        temperature: float,
        step: int | None = None,
        over: Tensor | None = None,
        whole: bool = True,
    ) -> Tensor | Rows:
        """Assignments [R, K] of scores [R, K].

        Args:
            scores: the teacher's.
            temperature: of the teacher.
            step: optimiser step; calls of one step share a centre. None: every call is a step of its own.
            over: [..., K] scores that the centre averages, when they are others than ``scores``.
            whole: give all rows as one tensor; False: rows that are computed as they are asked for, in this step.
        """
        with torch.autocast(scores.device.type, enabled=False):
            if self.training and (step is None or step != self._step):
                self._fold()
                self._step = step
            rows = CentredRows(scores, self.centre, temperature)
            targets: Tensor | Rows = rows
            if whole:
                targets = torch.empty_like(scores, dtype=torch.float32)
                for part in row_parts(scores):
                    targets[part] = rows[part]
            if self.training:
                counted = (scores if over is None else over).flatten(end_dim=-2)
                count = self.pending_count.new_full((1,), float(len(counted)))  # new_tensor would wait for the device
                total = torch.cat([column_sums(counted), count])
                total = collective.sum_over_ranks(total)
                self.pending_sum += total[:-1]
                self.pending_count += total[-1]
        return targets


class SinkhornKnopp(nn.Module):
    """Assignments that use all prototypes equally over the global batch (Cuturi 2013; Caron et al. 2020).

    Alternating normalisation of prototypes and samples, samples last. The first round is computed on logarithms, where
    temperatures and scores at which ``exp`` overflows are no special case. It leaves every prototype with a sum of at
    least 1 / K, so that the later rounds need no logarithms. The constant factors 1/K and 1/B of the usual
    notation cancel in the last normalisation and are left out. Prototype sums run over all processes.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        if iterations < 1:
            raise UserError(f"sinkhorn_iterations must be at least 1, got {iterations}")
        self.iterations = iterations

    @torch.no_grad()
    def forward(
        self,
        scores: Tensor,
        temperature: float,
        step: int | None = None,
        over: Tensor | None = None,
        whole: bool = True,
    ) -> Tensor:
        """Assignments [R, K] of scores [R, K]; every row sums to 1. ``step``, ``over`` and ``whole`` are not used."""
        with torch.autocast(scores.device.type, enabled=False):
            shares = torch.empty_like(scores, dtype=torch.float32)  # the one matrix; all else is of parts of it
            for part in row_parts(scores):
                torch.div(scores[part].float(), temperature, out=shares[part])
            logarithms = shares.new_empty(shares.shape[1])
            for part in column_parts(shares):
                logarithms[part] = torch.logsumexp(shares[:, part], dim=0)
            shares -= collective.logsumexp_over_ranks(logarithms)
            for part in row_parts(shares):
                shares[part] = torch.softmax(shares[part], dim=1)
            for _ in range(self.iterations - 1):
                shares /= collective.sum_over_ranks(shares.sum(dim=0))
                shares /= shares.sum(dim=1, keepdim=True)
            return shares
