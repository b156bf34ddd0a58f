"""Collapse detection: features or outputs that say the same of every sample, noticed while the loss still looks well.

Two halves. :class:`FeatureMonitor` sits in the learner, gathers features that are computed anyway, and every n steps
turns them into two figures. :class:`CollapseWatch` sits in the trainer, reads those and the objectives' own figures,
and raises an alarm that names the likely knob.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from foundation.branches.request import Request
from foundation.errors import NumericsError, UserError
from foundation.ranges import Count, Range, ShareBelowOne, check
from foundation.schedules import Clock, Duration
from foundation.spread import normalised_std, rankme
from foundation.types import Batch

MONITOR = "features"
"""Name of the feature monitor in the learner; its figures are ``features/std``, ``features/rank`` and so on."""
_REMIND = 10  # looks between two lines about an alarm that stays
_HARD = 0.5  # with this share of the prototypes in use, one-hot assignments are hard, not collapsed


@dataclass(frozen=True, kw_only=True)
class Config:
    """When to call a run collapsed. Every figure is in the metrics, whatever the thresholds."""

    every: Count = 100
    """Steps between two looks."""
    samples: Annotated[int, Range(2, 2**20)] = 1024
    """Features that a look is taken at; RankMe depends on this number."""
    grace: Duration = Duration(5, "%")
    """No alarm before: every run starts near the plateau."""
    patience: Count = 3
    """Looks in a row that must show the same before it is an alarm."""
    when_collapsed: Literal["warn", "stop"] = "warn"
    """An alarm is said, or ends the run with exit code 4."""
    min_std: ShareBelowOne = 0.1
    """Standard deviation of the L2-normalised features times the square root of their width; 1 is ideal, 0 constant."""
    min_rank: ShareBelowOne = 0.05
    """RankMe of the centred features as a share of the largest possible, min(samples, width)."""
    entropy_margin: ShareBelowOne = 0.01
    """A teacher's entropy within this share of ln K from ln K (uniform) or from 0 (one-hot, unless many prototypes are
    in use); K is the number of prototypes."""
    min_prototypes: ShareBelowOne = 0.05
    """Share of the prototypes that are the first choice of some row of a batch."""
    plateau_margin: ShareBelowOne = 0.005
    """A cross-entropy within this share of ln K, the loss of an output that says nothing."""

    def __post_init__(self) -> None:
        check(self, "guard.collapse")
        if self.when_collapsed not in ("warn", "stop"):
            raise UserError(f"guard.collapse.when_collapsed must be warn or stop, got {self.when_collapsed!r}")


class FeatureMonitor:
    """Gathers class tokens from every n-th step on until there are enough, then gives their figures once.

    Rows are copied on the device; the figures are device scalars. Nothing waits for the device except the decomposition
    inside RankMe, once per look. A look that a restart cuts off is left out.

    Args:
        request: what to gather; see :func:`feature_request`.
        every: steps between two looks.
        samples: rows of a look.
    """

    def __init__(self, request: Request, every: int, samples: int) -> None:
        self.request, self.every, self.samples = request, every, samples
        self.requests: tuple[Request, ...] = (request,)
        self._parts: list[Tensor] = []
        self._wanted = False
        self._done: int | None = None  # step of the last look: its other micro-batches begin none

    @torch.no_grad()
    def __call__(self, outputs: Mapping[Request, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Figures of a look that this call completes, else nothing.

        Returns:
            ``std``: :func:`foundation.spread.normalised_std`. ``rank``: RankMe as published. ``rank_share``: RankMe of
            the centred features / min(samples, D), which a constant offset does not hide.
        """
        if not self._wanted and step % self.every == 0 and step != self._done:
            self._wanted = True
        if not self._wanted:
            return {}
        rows = outputs[self.request].detach()
        self._parts.append(rows.to(torch.float32, copy=True))  # a view would keep all tokens of the step alive
        if sum(len(part) for part in self._parts) < self.samples:
            return {}
        features = torch.cat(self._parts)[: self.samples]
        self._parts, self._wanted, self._done = [], False, step
        finite = torch.isfinite(features).all(dim=1, keepdim=True)
        features = torch.where(finite, features, 0.0)  # the decomposition would raise; NumericsGuard deals with it
        largest = min(features.shape)
        return {
            "std": normalised_std(features),
            "rank": rankme(features),
            "rank_share": rankme(features, centred=True) / largest,
        }


def feature_request(requests: Sequence[Request], branches: Sequence[str]) -> Request | None:
    """The class token that costs nothing extra: of a view that a branch encodes anyway. None where there is none.

    Args:
        requests: of all objectives.
        branches: in order of preference, teachers first.
    """
    for branch in branches:
        for request in requests:
            if request.branch == branch:
                return Request(branch, request.view, "cls", mask=request.mask)
    return None


def is_look(figures: Mapping[str, object]) -> bool:
    """Whether a step's figures hold a finished look of the feature monitor."""
    return f"{MONITOR}/std" in figures


class CollapseWatch:
    """Reads the figures of each look and says what they mean.

    It talks to no other process: where there are several, the trainer asks whether :attr:`failure` is set on any of
    them, together with its other flags, and then all stop.

    Args:
        config: of the recipe.
        plateaus: by objective, the loss of an output that says nothing (``ln K``); others have none.
        clock: of the run, for the grace time.
        say: gets each line meant for a person.

    Attributes:
        failure: what to raise, once ``when_collapsed`` is ``stop`` and an alarm has gone off.
    """

    def __init__(
        self, config: Config, plateaus: Mapping[str, float], clock: Clock, say: Callable[[str], None] = print
    ) -> None:
        self.config, self.plateaus, self.say = config, dict(plateaus), say
        self.grace = config.grace.steps(clock)
        self.failure: NumericsError | None = None
        self._seen: dict[str, int] = {}  # looks in a row, by symptom
        self._latest: dict[str, float] = {}

    def look(self, step: int, values: Mapping[str, float]) -> None:
        """Look at a step's figures; returns at once unless they hold a finished look of the feature monitor.

        Args:
            step: optimiser step, from 0.
            values: the figures of :class:`foundation.engine.learner.StepResult`, read.
        """
        if not is_look(values):
            return
        self._latest = {key: value for key, value in values.items() if key.startswith(MONITOR)}
        found = self._symptoms(values) if step >= self.grace else {}
        self._seen = {name: self._seen.get(name, 0) + 1 for name in found}
        for name, text in found.items():
            over = self._seen[name] - self.config.patience
            if over >= 0 and over % _REMIND == 0:
                self.say(f"step {step}: collapse? {text}")
            if over >= 0 and self.config.when_collapsed == "stop" and self.failure is None:
                self.failure = NumericsError(
                    f"step {step}: collapsed: {text}. The last checkpoints may hold collapsed weights already; "
                    "guard.collapse.when_collapsed=warn would go on"
                )

    def _symptoms(self, values: Mapping[str, float]) -> dict[str, str]:
        """What to say, by symptom."""
        found: dict[str, str] = {}
        std, share = values.get(f"{MONITOR}/std", 1.0), values.get(f"{MONITOR}/rank_share", 1.0)
        if std < self.config.min_std:
            found["std"] = (
                f"all features point the same way (normalised standard deviation {std:.2g}, healthy is near 1). Likely "
                "knobs: a lower optimizer.learning_rate or longer warm-up, a teacher momentum nearer to 1, koleo with "
                "more weight"
            )
        elif share < self.config.min_rank:
            found["rank"] = (
                f"features use few dimensions (RankMe {100 * share:.2g} % of the largest possible). Likely knobs: "
                "koleo with more weight, a larger batch, less weight decay, harder views"
            )
        for name, uniform in self.plateaus.items():
            found |= self._of_objective(name, uniform, values)
        return found

    def _of_objective(self, name: str, uniform: float, values: Mapping[str, float]) -> dict[str, str]:
        config, found = self.config, {}
        entropy, kl, used = (values.get(f"{name}/{key}") for key in ("entropy", "kl", "prototypes"))
        if entropy is not None and entropy > (1 - config.entropy_margin) * uniform:
            found[f"{name}/uniform"] = (
                f"{name}: the teacher's outputs are nearly uniform (entropy {entropy:.4g} of at most {uniform:.4g}). "
                f"Likely knobs: a lower {name}.teacher_temperature, fewer prototypes, a higher learning rate if the "
                "loss never fell"
            )
        elif entropy is not None and entropy < config.entropy_margin * uniform and (used or 0.0) < _HARD:
            found[f"{name}/one-hot"] = (
                f"{name}: the teacher is certain of a few prototypes (entropy {max(entropy, 0.0):.2g} of "
                f"{uniform:.4g}). Likely knobs: a higher {name}.teacher_temperature, {name}.target=sinkhorn, a lower "
                f"{name}.centre_momentum"
            )
        elif used is not None and used < config.min_prototypes:
            found[f"{name}/prototypes"] = (
                f"{name}: few prototypes are ever chosen ({100 * used:.2g} % of those a batch could use). Likely "
                f"knobs: {name}.target=sinkhorn, a lower {name}.centre_momentum, fewer prototypes, koleo"
            )
        if entropy is not None and kl is not None and abs(entropy + kl - uniform) <= config.plateau_margin * uniform:
            found[f"{name}/plateau"] = (
                f"{name}: the loss rests at {entropy + kl:.4g}, that of an output that says nothing (ln K = "
                f"{uniform:.4g}). Likely knobs: optimizer.learning_rate (too low, or so high that it destroyed the "
                f"features), a lower {name}.teacher_temperature, optimizer.freeze_last_layer"
            )
        return found

    def metrics(self) -> dict[str, float]:
        """Figures of the last look, and ``collapse/alarms``: how many symptoms have outlasted the patience."""
        alarms = sum(1 for count in self._seen.values() if count >= self.config.patience)
        return self._latest | {"collapse/alarms": float(alarms)}

    def state(self) -> dict[str, int]:
        """JSON values for the checkpoint."""
        return dict(self._seen)

    def restore(self, state: Mapping[str, int]) -> None:
        """Take over what :meth:`state` gave."""
        self._seen = {name: int(count) for name, count in state.items()}
