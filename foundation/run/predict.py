"""What a recipe would do on GPUs that need not be there: its own section ``parallel``, and the alternatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from foundation.run.gpus import Card
from foundation.run.memory import Checkpointing
from foundation.run.plan import Plan
from foundation.run.scaling import Estimate, Layout, Work, estimate, work
from foundation.run.stage import micro_batch

Constant = Literal[
    "matrix_share", "attention_share", "bandwidth_share", "wire_share", "host_microseconds", "kernel_microseconds",
    "link_microseconds", "network_microseconds", "unevenness",
]  # fmt: skip
CONSTANTS: tuple[Constant, ...] = get_args(Constant)
"""Of a card, those that no data sheet says."""


def sensitivity(work: Work, layout: Layout, card: Card, accumulate: int = 1) -> dict[Constant, tuple[float, float]]:
    """Samples each second with a constant 20 % lower and 20 % higher, over those without."""
    base = estimate(work, layout, card, accumulate).rate
    found: dict[Constant, tuple[float, float]] = {}
    for name in CONSTANTS:
        value = float(getattr(card, name))
        changed = [min(value * by, 1.0) if name.endswith("_share") else value * by for by in (0.8, 1.2)]
        cards: list[Card] = [replace(card, **{str(name): one}) for one in changed]  # type: ignore[arg-type]
        rates = [estimate(work, layout, one, accumulate).rate / base for one in cards]
        found[name] = (rates[0], rates[1])
    return found


def alternatives(layout: Layout) -> list[Layout]:
    """The same GPUs with every kind of sharing and checkpointing, as far as it means something."""
    kinds: list[tuple[Literal["ddp", "fsdp", "hsdp"], int | None]] = [("ddp", None)]
    if layout.gpus > 1:
        kinds.append(("fsdp", None))
    if layout.gpus > layout.per_node:
        kinds.append(("hsdp", layout.per_node))
    found = []
    for data, shard in kinds:
        for checkpointing in get_args(Checkpointing):
            parallel = replace(layout.parallel, data=data, shard=shard, activation_checkpointing=checkpointing)
            found.append(replace(layout, parallel=parallel))
    return found


@dataclass(frozen=True)
class Prediction:
    """Of a recipe on a number of GPUs.

    Attributes:
        plan: of the recipe's first stage.
        work: of one GPU.
        chosen: what the recipe's ``parallel`` section comes to.
        others: see :func:`alternatives`.
        sensitivity: of the recipe's own, see :func:`sensitivity`.
    """

    plan: Plan
    work: Work
    chosen: Estimate
    others: tuple[Estimate, ...]
    sensitivity: dict[Constant, tuple[float, float]]

    @property
    def best(self) -> Estimate | None:
        """The fastest that fits; of equally fast ones the first. None: none fits."""
        fitting = [one for one in self.others if one.fits]
        return max(fitting, key=lambda one: one.rate) if fitting else None


def predict(plan: Plan, gpus: int, per_node: int, card: Card, before: Prediction | None = None) -> Prediction:
    """Predict a recipe's first stage on GPUs.

    Args:
        plan: of the recipe in as many processes.
        gpus: in all.
        per_node: of one node.
        card: kind of GPU.
        before: of the same recipe and micro-batch on other GPUs: what a GPU computes is not followed again where it is
            the same.
    """
    recipe = plan.recipe
    rows, accumulate = micro_batch(recipe, gpus), recipe.train.accumulate
    known = before is not None and before.work.rows == rows and (gpus == 1) == (before.chosen.layout.gpus == 1)
    if before is not None and known and not before.work.trace.gathered:
        made = before.work
    else:
        made = work(recipe, plan.learner, rows, gpus)
    layout = Layout(gpus, per_node, recipe.parallel)
    return Prediction(
        plan,
        made,
        estimate(made, layout, card, accumulate),
        tuple(estimate(made, other, card, accumulate) for other in alternatives(layout)),
        sensitivity(made, layout, card, accumulate),
    )
