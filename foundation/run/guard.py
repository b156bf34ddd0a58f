"""The guard of the numbers: stops a run before bad ones can spoil it. Bad data has a guard of its own."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from foundation.engine import collapse
from foundation.errors import NumericsError, UserError
from foundation.parallel.collective import sum_over_ranks, world_size
from foundation.ranges import CountOrNone, Positive, Range, SecondsOrNever, check
from foundation.run.run_folder import RunFolder

BAD_STEPS = "bad-steps.jsonl"
"""File of the run folder with the batches that the guard refused."""
MEAN_LOSS, BAD_ON = "guard.mean_loss", "guard.bad_on"
"""Names of what :meth:`NumericsGuard.refuse` wants read."""
_SPREAD_OF_NORMAL = 1.4826  # standard deviation of a normal distribution / its median absolute deviation
_LEAST_SPREAD = 0.01  # of the median: losses that hardly vary would make spikes of ripples
_ENOUGH = 20  # losses before anything can be called a spike


@dataclass(frozen=True, kw_only=True)
class Config:
    """What happens when numbers go bad, features collapse or steps no longer come.

    A refused step touches neither parameters nor optimiser nor teacher; its batch is written to ``bad-steps.jsonl``.
    """

    when_not_finite: Literal["stop", "skip", "rewind"] = "stop"
    """A loss or gradient that is not finite on any process: end with exit code 4, leave the batch out, or go back to
    the last checkpoint and go on behind the batch."""
    when_spike: Literal["warn", "skip", "rewind"] = "warn"
    """A loss far above the usual: say so, leave the batch out, or go back to the last checkpoint and on behind it."""
    spike_factor: Positive = 15.0
    """A spike lies above the median of the last losses by more than this many robust standard deviations."""
    spike_window: Annotated[int, Range(_ENOUGH, 10**6)] = 200
    """Losses that the median is taken of."""
    max_bad_steps: CountOrNone = 5
    """Steps left out or gone back from within ``bad_steps_window``; one more ends the run with exit code 4."""
    bad_steps_window: Annotated[int, Range(1, 10**6)] = 1000
    """Steps that ``max_bad_steps`` counts in."""
    stall_seconds: SecondsOrNever = 1800.0
    """No step for so long: stacks of all threads and workers are written and the process ends with exit code 5. The
    first step, probes and checkpoints may take four times as long. 0: never."""
    collapse: collapse.Config = field(default_factory=collapse.Config)
    """When features or outputs lose their information."""

    def __post_init__(self) -> None:
        if self.when_not_finite not in ("stop", "skip", "rewind"):
            raise UserError(f"guard.when_not_finite must be stop, skip or rewind, got {self.when_not_finite!r}")
        if self.when_spike not in ("warn", "skip", "rewind"):
            raise UserError(f"guard.when_spike must be warn, skip or rewind, got {self.when_spike!r}")
        check(self, "guard")


class NumericsGuard:
    """Decides whether a step may count, twice alike: on the device at once, on the host when its values are read.

    The device must not be waited for, so that :meth:`refuse` decides there, before optimiser and teachers move; what it
    needs from the host, the loss above which a step is a spike, follows from the losses of all steps before. One step
    later the values are read and :meth:`judge` comes to the same decision, says it and writes it down. All processes
    decide alike because the decision depends on agreed values only: the mean loss over processes, whether the step is
    bad on any of them.

    What becomes of the step by the answer:

    - ``go``: clip, step, update the teachers.
    - ``skip``: nothing moves. Step and data position move on as after any step, so that schedules and order stay.
    - ``rewind``: put the tensors of the last checkpoint back, its step number too, and **go on reading the stream
      behind the refused batch**: the data position is *not* restored. Restoring it would meet the same batch again.
      Schedules go by the step number and so replay; the stream does not. The guard's own counts are not restored.

    Args:
        config: of the recipe.
        folder: the run folder, for ``bad-steps.jsonl``.
        say: gets each line meant for a person.
        rank: number of this process, for the file; only rank 0 should be given a ``say`` that prints.
    """

    def __init__(self, config: Config, folder: RunFolder, say: Callable[[str], None], rank: int = 0) -> None:
        self.config, self.folder, self.say, self.rank = config, folder, say, rank
        self.counts: Counter[str] = Counter()
        self._judged = 0
        self._refused: list[int] = []  # by number of judgement: step numbers repeat after a rewind
        self._losses: deque[float] = deque(maxlen=config.spike_window)
        self._spiking = False

    @torch.no_grad()
    def refuse(self, loss: Tensor, norm: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Decide about a step on the device; all processes call it, and none waits for the device.

        Args:
            loss: [] of this process.
            norm: [] of the gradient, averaged over all processes.

        Returns:
            [] float32, 1 where the step must change nothing, else 0; and what :meth:`judge` wants read:
            :data:`MEAN_LOSS`, over all processes, and :data:`BAD_ON`, how many found loss or norm not finite.
        """
        bad = ~(loss.isfinite() & norm.isfinite())
        told = sum_over_ranks(torch.stack([loss.double() / world_size(), bad.double()]))
        mean, bad_on = told.unbind(0)
        refused = (bad_on > 0) | ~mean.isfinite()
        if self.config.when_spike != "warn":
            refused = refused | (mean > self._limit())
        return refused.float(), {MEAN_LOSS: mean, BAD_ON: bad_on}

    def judge(
        self,
        step: int,
        loss: float,
        norm: float,
        parts: Mapping[str, float],
        keys: Sequence[str],
        bad_anywhere: bool,
        checkpoint: Path | None,
    ) -> Literal["go", "skip", "rewind"]:
        """What has become of a step; to be called for each step, before the next one is given to :meth:`refuse`.

        Args:
            step: optimiser step, from 0.
            loss: mean over all processes.
            norm: of the gradient, averaged over all processes.
            parts: this process's loss by objective.
            keys: of this process's samples.
            bad_anywhere: whether any process found loss or norm not finite.
            checkpoint: last good one, or None.

        Returns:
            ``go``, ``skip`` or ``rewind`` (which becomes ``skip`` as long as there is no checkpoint).

        Raises:
            NumericsError: by policy, or when more steps were refused than the recipe allows.
        """
        self._judged += 1
        bad = not (math.isfinite(loss) and math.isfinite(norm))
        facts = _Facts(step, loss, norm, parts, keys, bad_anywhere and not bad, checkpoint)
        if bad_anywhere or bad:
            self.counts["not_finite"] += 1
            return self._refuse("not finite", self.config.when_not_finite, facts)
        if not loss > self._limit():
            self._losses.append(loss)
            self._spiking = False
            return "go"
        self.counts["spikes"] += 1
        if self.config.when_spike != "warn":
            return self._refuse("a spike", self.config.when_spike, facts)
        self._note("a spike", "warn", facts)
        if not self._spiking:
            self.say(
                f"step {step}: loss {loss:g} is a spike (median of the last {len(self._losses)}: "
                f"{statistics.median(self._losses):g}); its batch is in {BAD_STEPS}. "
                "guard.when_spike=skip would leave such batches out; likely knobs: learning rate, gradient clipping"
            )
        self._spiking = True
        self._losses.append(loss)  # a loss that stays high becomes the usual one
        return "go"

    def _limit(self) -> float:
        """Loss above which the next step is a spike."""
        if len(self._losses) < _ENOUGH:
            return math.inf
        median = statistics.median(self._losses)
        spread = _SPREAD_OF_NORMAL * statistics.median(abs(value - median) for value in self._losses)
        return median + self.config.spike_factor * max(spread, _LEAST_SPREAD * abs(median))

    def _refuse(self, what: str, policy: str, facts: _Facts) -> Literal["skip", "rewind"]:
        limit, window = self.config.max_bad_steps, self.config.bad_steps_window
        self._refused = [n for n in self._refused if n > self._judged - window] + [self._judged]
        spent = policy != "stop" and len(self._refused) > limit
        rewinds = policy == "rewind" and facts.checkpoint is not None
        action: Literal["skip", "rewind"] = "rewind" if rewinds else "skip"
        self._note(what, "stop" if spent or policy == "stop" else action, facts)
        if spent or policy == "stop":
            good = f"last good checkpoint: {facts.checkpoint}" if facts.checkpoint else "there is no checkpoint yet"
            why = (
                f"More than guard.max_bad_steps = {limit} within {window} steps. "
                if spent
                else "guard.when_not_finite=skip or rewind would go on without this batch. "
            )
            raise NumericsError(
                f"{facts.text(what)}. The optimiser and the teacher were not touched; {good}. "
                f"First keys of the batch: {', '.join(facts.keys[:8])} (all in {self.folder.path / BAD_STEPS}). {why}"
                "Likely knobs: a lower learning rate, a longer warm-up, precision float32"
            )
        self.counts["rewound" if rewinds else "skipped"] += 1
        then = (
            f"back to {facts.checkpoint.name}, and on behind this batch" if rewinds and facts.checkpoint else "left out"
        )
        self.say(
            f"{facts.text(what)}; {then} ({len(self._refused)} of {limit} allowed in {window} steps; "
            f"keys in {BAD_STEPS})"
        )
        return action

    def _note(self, what: str, action: str, facts: _Facts) -> None:
        line = {"step": facts.step, "rank": self.rank, "reason": what.removeprefix("a "), "action": action}
        line |= {"loss": _json(facts.loss), "parts": {name: _json(value) for name, value in facts.parts.items()}}
        line |= {"norm": _json(facts.norm), "keys": list(facts.keys)}
        self.folder.append(BAD_STEPS, line)

    def metrics(self) -> dict[str, float]:
        """Counts over the whole run: ``guard/not_finite``, ``guard/spikes``, ``guard/skipped``, ``guard/rewound``."""
        return {f"guard/{name}": float(self.counts[name]) for name in ("not_finite", "spikes", "skipped", "rewound")}

    def state(self) -> dict[str, Any]:
        """JSON values for the checkpoint."""
        return {
            "counts": dict(self.counts), "judged": self._judged, "refused": list(self._refused),
            "losses": list(self._losses), "spiking": self._spiking,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave; an empty mapping (an older checkpoint) changes nothing."""
        if not state:
            return
        self.counts = Counter(state["counts"])
        self._judged, self._refused = int(state["judged"]), [int(n) for n in state["refused"]]
        self._losses = deque((float(value) for value in state["losses"]), maxlen=self.config.spike_window)
        self._spiking = bool(state["spiking"])


@dataclass(frozen=True)
class _Facts:
    """One step as the guard sees it; ``elsewhere``: what is wrong was found by another process only."""

    step: int
    loss: float
    norm: float
    parts: Mapping[str, float]
    keys: Sequence[str]
    elsewhere: bool
    checkpoint: Path | None

    def text(self, what: str) -> str:
        listed = ", ".join(f"{name} {value:g}" for name, value in self.parts.items())
        where = " on another process" if self.elsewhere else ""
        return f"step {self.step}: loss {self.loss:g} ({listed}), gradient norm {self.norm:g}: {what}{where}"


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
