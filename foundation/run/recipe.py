"""The recipe: one YAML file, one whole run. Every key a run understands is a field below or of a plug-in's Config."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from foundation import counter
from foundation.branches import ema
from foundation.catalogue import About
from foundation.checkpoints import saver
from foundation.data.section import Data
from foundation.engine import optimizer as adamw
from foundation.engine.state import RESERVED
from foundation.errors import UserError
from foundation.inherited import INHERITED
from foundation.jobs import probe as probe_job
from foundation.masks.rule import Rule, in_order
from foundation.parallel import config as parallelism
from foundation.plugins import Plugin, resolve
from foundation.ranges import Count, Range, Seconds, SecondsOrNever, Seed, check
from foundation.run import guard as run_guard
from foundation.run import initial as initial_weights
from foundation.schedules import Clock, Duration, Schedule
from foundation.types import MASKING

MASK = Plugin("foundation.masks.{name}", key="kind", usual="block")
"""A mask rule; ``kind`` is a file in ``foundation/masks``."""

STUDENT = "student"
"""Branch that the recipe's ``encoder`` and ``heads`` are."""
WARM_UP = "heads-first"
"""Name of the stage that ``initial.warm_up_heads`` puts in front."""
MOST_STEPS = 10**10
"""Longest run: some three centuries at a step a second."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Length, batch and bookkeeping of the run."""

    length: Annotated[Duration, Range(0, 1e9, above=True)]
    """Length of the run: ``100 epochs`` or ``5000 steps``. Steps are optimiser steps."""
    batch_size: Annotated[int, Range(1, 2**24)]
    """Samples per optimiser step over all processes and accumulated micro-batches."""
    accumulate: Annotated[int, Range(1, 2**20)] = 1
    """Micro-batches per optimiser step in each process."""
    steps_per_epoch: Count | None = None
    """Optimiser steps that count as one epoch in durations; None: samples per epoch / batch size."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast of the forward pass. ``auto``: bfloat16 where the processor multiplies it natively, else float32."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """What a GPU may do to float32 matrix products: nothing (``highest``), TF32 (``high``: 10 bits of mantissa, several
    times as fast), bfloat16 (``medium``). Products under autocast are in bfloat16 whatever it says; a CPU takes no
    notice."""
    compile: Literal["none", "blocks"] = "none"
    """``blocks``: torch.compile makes one program of each block of encoders and decoders; equal ones share it. The
    first steps take minutes then. Losses agree to rounding. Elastic slices, tokenizers and prototypes stay as they
    are."""
    float8: Literal["none", "blocks"] = "none"
    """``blocks``: linear layers of the blocks of encoders and decoders multiply 8-bit numbers (e4m3, a scale for each
    row; gradients of weights in bfloat16), which an H100 does twice as fast. Needs ``precision: bfloat16``, and
    ``compile: blocks`` to be worth it. Losses differ by a per cent or less."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; ``auto``: the GPU if there is one."""
    grace_seconds: SecondsOrNever | None = None
    """Seconds that the scheduler leaves between its signal and the kill; a run warns when a save takes longer."""
    peer_timeout_seconds: Seconds = 7200.0
    """A process that waits for another one for so long gives up (exit code 75). More than four times
    ``guard.stall_seconds`` lets a process that hangs end first, with its stacks."""
    stop_after: Annotated[Duration, Range(0, 1e9, above=True)] | None = None
    """Stop there this time, with all schedules as for the whole length (to try a long recipe). It belongs to one
    command: the run folder does not keep it, and the run counts as stopped early, not as done."""
    log_every: Count = 10
    """Steps between two lines of metrics."""
    only: tuple[str, ...] | None = None
    """Patterns of the parameters that are trained, such as ``registers``, ``heads`` or ``student.encoder.*``; the
    others keep their first values (see docs/running.md). None: all of the trained branches and the objectives."""

    def __post_init__(self) -> None:
        check(self, "train")
        parts = ("none", "blocks")
        choices = {"matmul_precision": ("highest", "high", "medium"), "compile": parts, "float8": parts}
        for name, words in choices.items():
            if getattr(self, name) not in words:
                raise UserError(f"train.{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulate:
            raise UserError(f"train.batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a run. Each key that it has replaces the recipe's key of that name, whole, for this stage; null
    takes it away. A stage finds the branches as the stage before has left them, by name; optimiser, centres, queues,
    order of the data and schedules begin anew."""

    name: str
    """Name of the stage."""
    train: tuple[str, ...] | None = None
    """Patterns of the parameters that are trained, as ``train.only``; None: all."""
    length: Annotated[Duration, Range(0, 1e9, above=True)] | None = None
    """Length of the stage; None: ``train.length``."""
    batch_size: Annotated[int, Range(1, 2**24)] | None = None
    """Samples per optimiser step; None: ``train.batch_size``."""
    accumulate: Annotated[int, Range(1, 2**20)] | None = None
    """Micro-batches per optimiser step in each process; None: ``train.accumulate``."""
    data: Data = INHERITED
    """The shards."""
    views: Annotated[Any, Plugin("foundation.modalities.{name}.views")] = INHERITED
    """Views of a sample."""
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")] = INHERITED
    """The student's encoder; it must fit the one before, or the branch have another name."""
    initial: initial_weights.Config | None = INHERITED
    """Weights that the student's encoder starts from, in place of those of the stage before. The recipe's count for the
    first stage alone."""
    heads: dict[str, Annotated[Any, Plugin("foundation.heads.{name}", usual="prototypes")]] = INHERITED
    """The student's heads by name; those that the stage before had go on."""
    objectives: tuple[Annotated[Any, Plugin("foundation.objectives.{name}")], ...] = INHERITED
    """Losses."""
    masking: Annotated[Any, MASK] | None = INHERITED
    """Tokens hidden from the student."""
    masks: dict[str, Annotated[Any, MASK]] = INHERITED
    """Further mask rules by name."""
    branches: dict[str, Annotated[Any, Plugin("foundation.branches.{name}")]] = INHERITED
    """What turns views into features beside the student."""
    measured: str | None = INHERITED
    """Branch that probes, exports and reports ask."""
    optimizer: adamw.Config = INHERITED
    """AdamW, its schedules and parameter groups."""
    probes: tuple[Annotated[Any, Plugin("foundation.probes.{name}")], ...] = INHERITED
    """Measurements during training."""
    jobs: tuple[Annotated[Any, Plugin("foundation.jobs.{name}")], ...] = INHERITED
    """Work between two steps."""

    def __post_init__(self) -> None:
        check(self, "stages")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise UserError(f"stages: name {self.name!r} is no plain name: use letters, digits, '_', '.' and '-'")

    @property
    def given(self) -> dict[str, Any]:
        """What replaces the recipe's keys, by key."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        kept = ("name", "train", "length", "batch_size", "accumulate")
        return {name: value for name, value in own.items() if name not in kept and value is not INHERITED}


def _constant(rates: adamw.Config) -> adamw.Config:
    """The same at constant rates, behind a short rise, for a stage that is none of the schedules' business."""
    rate, decay = rates.learning_rate, rates.weight_decay
    return replace(
        rates,
        learning_rate=Schedule(start=rate.start, shape="constant", warmup=Duration(10, "%")),
        weight_decay=Schedule(start=decay.start, shape="constant"),
        freeze_last_layer=Duration(0),
    )


def _without_warm_up(initial: initial_weights.Config | None) -> initial_weights.Config | None:
    return None if initial is None else replace(initial, warm_up_heads=None)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One whole run."""

    name: str
    """Name of the run; its folder is ``runs/NAME`` unless the command line says otherwise."""
    about: About = field(default_factory=About)
    """What the recipe is for."""
    seed: Seed = 0
    """Seed of everything: weights, order of the data, views, masks, drop path."""
    data: Data
    """The shards."""
    views: Annotated[Any, Plugin("foundation.modalities.{name}.views")]
    """Views of a sample; ``name`` is the modality."""
    encoder: Annotated[Any, Plugin("foundation.encoders.{name}")]
    """The student's encoder; the exported model."""
    initial: initial_weights.Config | None = None
    """Weights that the encoder starts from; None: random ones."""
    heads: dict[str, Annotated[Any, Plugin("foundation.heads.{name}", usual="prototypes")]] = field(
        default_factory=dict
    )
    """The student's heads by name; one without ``name`` has prototypes. Objectives that name the same one share it."""
    objectives: tuple[Annotated[Any, Plugin("foundation.objectives.{name}")], ...]
    """Losses; their weighted sum is minimised."""
    masking: Annotated[Any, MASK] | None = None
    """Tokens hidden from the student; None: none. It is the mask rule that is called ``masking``."""
    masks: dict[str, Annotated[Any, MASK]] = field(default_factory=dict)
    """Further mask rules by name; a view may have masks by several of them."""
    branches: dict[str, Annotated[Any, Plugin("foundation.branches.{name}")]] = field(
        default_factory=lambda: {"teacher": ema.Config()}
    )
    """What turns views into features beside the student, by the names that objectives use: teachers, experts, exits.
    ``student`` is the trained branch of ``encoder`` and ``heads``, unless a branch here has its name."""
    measured: str | None = None
    """Branch that probes, exports and reports ask; None: the first ``ema`` of the first trained branch, else that
    branch."""
    optimizer: adamw.Config
    """AdamW, its schedules and parameter groups."""
    train: Train
    """Length, batch and bookkeeping."""
    parallel: parallelism.Config = field(default_factory=parallelism.Config)
    """How several processes share weights and work."""
    checkpoints: saver.Config = field(default_factory=saver.Config)
    """When the training state is saved, and which savings are kept."""
    guard: run_guard.Config = field(default_factory=run_guard.Config)
    """What happens when numbers go bad, features collapse or steps no longer come."""
    probes: tuple[Annotated[Any, Plugin("foundation.probes.{name}")], ...] = ()
    """Measurements during training, such as kNN every 500 steps."""
    jobs: tuple[Annotated[Any, Plugin("foundation.jobs.{name}")], ...] = ()
    """Work between two steps, on all processes: exports on the way, clusterings."""
    stages: tuple[StageConfig, ...] = ()
    """Parts of the run, one after the other, each with keys of its own in place of the recipe's; empty: one part."""

    def __post_init__(self) -> None:
        if not self.name or any(part in self.name for part in ("/", "\\", "..")):
            raise UserError(f"name must be a plain folder name, got {self.name!r}")
        for name in self.branches:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name in RESERVED:
                raise UserError(
                    f"branches: {name!r} cannot be a branch: use letters, digits, '_' and '-', and none of the words "
                    f"{', '.join(RESERVED)}"
                )
        if self.train.compile == "blocks" and self.parallel.activation_checkpointing == "selective":
            raise UserError(
                "train.compile: blocks and parallel.activation_checkpointing: selective do not go together: use full "
                "or none (compiled blocks keep less by themselves)"
            )
        if not self.objectives:
            raise UserError("objectives is empty: there is nothing to learn from")
        initial = [self.initial, *(stage.initial for stage in self.stages if stage.initial is not INHERITED)]
        if any(one is not None and one.warm_up_heads is not None for one in initial):
            object.__setattr__(self, "stages", self._with_warm_up())
            object.__setattr__(self, "initial", _without_warm_up(self.initial))
            object.__setattr__(self, "train", replace(self.train, only=None))
        if self.stages and self.train.only is not None:
            raise UserError("train.only is for a recipe without stages: give each stage its own train")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError("stages: two have the same name")
        for job in self.jobs:
            if not isinstance(getattr(job, "every", None), Duration):
                raise UserError(f"jobs: {type(job).__module__} has no interval: its Config must have `every: Duration`")
        for name in self.masks:
            if name == MASKING or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                taken = "that is the rule of the section masking"
                advice = taken if name == MASKING else "use letters, digits, '_' and '-'"
                raise UserError(f"masks: a rule cannot be called {name!r}: {advice}")
        in_order(self.mask_rules)

    def _with_warm_up(self) -> tuple[StageConfig, ...]:
        """The stages, with one that trains the heads in front of each that begins with ``initial.warm_up_heads``."""
        if self.stages and self.train.only is not None:
            raise UserError("train.only is for a recipe without stages: give each stage its own train")
        found: list[StageConfig] = []
        for number, stage in enumerate(self.stages or (StageConfig(name="whole", train=self.train.only),)):
            initial = stage.initial if stage.initial is not INHERITED else self.initial if number == 0 else None
            length = None if initial is None else initial.warm_up_heads
            if length is None:
                found.append(stage)
                continue
            own = stage.initial is not INHERITED
            warm_up = replace(
                stage,
                name=f"{stage.name}-{WARM_UP}" if self.stages else WARM_UP,
                train=(f"!{STUDENT}.encoder",),
                length=length,
                optimizer=_constant(self.optimizer if stage.optimizer is INHERITED else stage.optimizer),
                initial=_without_warm_up(initial) if own else INHERITED,
            )
            found += [warm_up, replace(stage, initial=None) if own else stage]
        return tuple(found)

    @property
    def num_stages(self) -> int:
        """Parts of the run, at least 1."""
        return max(1, len(self.stages))

    def stage(self, number: int) -> Recipe:
        """The flat recipe of one stage, which has no ``stages``.

        Raises:
            UserError: its keys do not go together.
        """
        if not 0 <= number < self.num_stages:
            raise UserError(f"there is no stage {number + 1}: the recipe has {self.num_stages}")
        if not self.stages:
            return self
        own = self.stages[number]
        train = replace(
            self.train,
            length=own.length or self.train.length,
            batch_size=own.batch_size or self.train.batch_size,
            accumulate=own.accumulate or self.train.accumulate,
            only=own.train,
        )
        first = {} if number == 0 else {"initial": None}
        return replace(self, **{"stages": (), "train": train, **first, **own.given})

    def stage_seed(self, number: int) -> int:
        """Seed of order, views, masks and drop path in a stage; ``seed`` itself in the first."""
        return self.seed if number == 0 else int(counter.bits(self.seed, 0, number, "stage", 1)[0, 0] >> 1)

    @property
    def all_jobs(self) -> tuple[Any, ...]:
        """Configs of the jobs, those that ``probes`` stand for first."""
        return (*(probe_job.Config(every=probe.every, probe=probe) for probe in self.probes), *self.jobs)

    @property
    def mask_rules(self) -> dict[str, Rule]:
        """All mask rules by name."""
        return ({} if self.masking is None else {MASKING: self.masking}) | self.masks

    @property
    def lasting(self) -> Recipe:
        """The recipe as a run folder keeps it: without ``train.stop_after``, which belongs to one command."""
        return replace(self, train=replace(self.train, stop_after=None))

    @property
    def decode(self) -> Any:
        """How the files of a sample are read: what ``views.decode`` says, else as the modality does by default."""
        own = getattr(self.views, "decode", None)
        return own or resolve("foundation.modalities.{name}.decode", self.views.modality).Config()

    def clock(self, num_samples: int | None = None) -> Clock:
        """Steps of the run and of an epoch.

        Args:
            num_samples: samples that the shards hold; None (they are not here): those that the recipe is made for.

        Raises:
            UserError: when an epoch's length is needed and unknown.
        """
        samples = self.data.samples_per_epoch or num_samples or self.about.samples
        epoch = float(self.train.steps_per_epoch or (samples or 0) / self.train.batch_size)
        if epoch <= 0 and self.train.length.unit != "steps":
            raise UserError(
                "the length of an epoch is unknown: give data.shards, about.samples (for a dry run), "
                "data.samples_per_epoch or train.steps_per_epoch"
            )
        if self.train.length.unit == "%":
            raise UserError("train.length must be in epochs or steps, not in %")
        steps = self.train.length.steps(Clock(0, epoch))
        if steps < 1:
            raise UserError(f"train.length {self.train.length.to_yaml()} is less than one step")
        if steps > MOST_STEPS:
            raise UserError(f"train.length {self.train.length.to_yaml()} is {steps:,} steps, more than {MOST_STEPS:,}")
        return Clock(steps, epoch or float(steps))
