"""An attentive probe: a learned query gathers the patch tokens of a frozen encoder, and a linear layer names the class.

As the probes of AIM (El-Nouby et al. 2024) and V-JEPA (Bardes et al. 2024): cross-attention of one query with several
heads, no layer in between. With a single query, its product with the keys' weights is a vector for each head, and the
values' weights can wait until the tokens are gathered: the same function for a small part of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundation.errors import UserError
from foundation.probes.results import progress
from foundation.seeded import seeded

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
STEPS = 500
"""Fewer leave a head of a small split far from fitted."""
EPOCHS = 20
WEIGHT_DECAY = 0.01


def heads_of(width: int) -> int:
    """Heads of the attention: as many as divide the width into parts of at least 32, at most 12."""
    return next(
        count for count in (12, 8, 6, 4, 3, 2, 1) if width % count == 0 and (count == 1 or width // count >= 32)
    )


class AttentiveHead(nn.Module):
    """Patch tokens to logits.

    Args:
        width: D of the tokens.
        classes: C.
        mean: [D] of the training tokens, taken off.
        deviation: [D] of them, divided by.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, width: int, classes: int, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.register_buffer("mean", mean)
        self.register_buffer("factor", 1 / deviation.clamp(min=1e-6))
        self.query = nn.Parameter(torch.randn(self.heads, width) * width**-0.5)
        self.value = nn.Parameter(torch.randn(self.heads, width, width // self.heads) * width**-0.5)
        self.classify = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """[B, C] logits of tokens [B, N, D], of which those that are not ``valid`` [B, N] do not count."""
        # Of standardised tokens; to standardise what is gathered is the same, because the weights of tokens sum to 1,
        # and a score that is the same for all tokens falls out of the softmax.
        score = tokens @ (self.query * self.factor).T  # [B, N, heads]
        weight = score.masked_fill(~valid[..., None], -torch.inf).softmax(dim=1)
        gathered = (weight.transpose(1, 2) @ tokens - self.mean) * self.factor  # [B, heads, D]
        logits: Tensor = self.classify(torch.einsum("bhd,hdk->bhk", gathered, self.value).flatten(1))
        return logits


@dataclass(frozen=True)
class AttentiveResult:
    """What was found.

    Attributes:
        predictions: [Q] int64.
        learning_rate: that was chosen.
        validation: accuracy of each learning rate on the samples kept back.
    """

    predictions: Tensor
    learning_rate: float
    validation: tuple[float, ...]


def fit(
    tokens: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    *,
    rows: Tensor,
    kept: Tensor,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AttentiveResult:
    """Train a head for each learning rate and classify by the best of them.

    Args:
        tokens: [S, N, D + 1] patch tokens of the training split; the last number is 1 where a token counts, else 0.
        labels: [S] int64.
        queries: [Q, N, D + 1] of the test split.
        classes: C.
        rows: of the training split, to learn from.
        kept: of it, to choose the learning rate on.
        learning_rates: to choose from.
        epochs: passes; None: 20, or on a small split as many as make 500 steps.
        batch_size: samples per step.
        seed: of the weights and the order.
        device: where the heads train.

    Raises:
        UserError: features are not finite.
    """
    for part, what in ((tokens, "training"), (queries, "test")):
        if not bool(torch.isfinite(part).all()):
            raise UserError(f"some patch tokens of the {what} split are not finite: no probe means much")
    mean, deviation = _moments(tokens[rows])
    steps = -(-len(rows) // batch_size)
    passes = epochs or max(EPOCHS, -(-STEPS // steps))
    heads, shares = [], []
    for rate in progress(learning_rates, len(learning_rates), "attentive", "learning rate"):
        head = _trained(tokens, labels, rows, classes, mean, deviation, rate, passes, batch_size, seed, device)
        heads.append(head)
        shares.append(float((_predict(head, tokens[kept], device) == labels[kept]).float().mean()))
    best = max(range(len(heads)), key=lambda index: shares[index])
    return AttentiveResult(_predict(heads[best], queries, device), learning_rates[best], tuple(shares))


def _moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """[D] mean and deviation of the tokens that count."""
    weight = tokens[..., -1:].double()
    count, x = weight.sum().clamp(min=1), tokens[..., :-1]
    mean = (x * weight).sum(dim=(0, 1)) / count
    square = ((x - mean).square() * weight).sum(dim=(0, 1)) / count
    return mean.float(), square.sqrt().float()


def _trained(
    tokens: Tensor, labels: Tensor, rows: Tensor, classes: int, mean: Tensor, deviation: Tensor, rate: float,
    passes: int, batch_size: int, seed: int, device: torch.device | str,
) -> AttentiveHead:  # fmt: skip
    with seeded(seed):
        head = AttentiveHead(tokens.shape[-1] - 1, classes, mean, deviation).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    total = passes * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(passes):
            for batch in rows[torch.randperm(len(rows), generator=generator)].split(batch_size):
                part = tokens[batch].to(device)
                loss = functional.cross_entropy(head(part[..., :-1], part[..., -1] > 0), labels[batch].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return head.eval()


def _predict(head: AttentiveHead, tokens: Tensor, device: torch.device | str) -> Tensor:
    with torch.inference_mode():
        found = [
            head(part[..., :-1].to(device), part[..., -1].to(device) > 0).argmax(dim=1).cpu()
            for part in tokens.split(512)
        ]
    return torch.cat(found)
