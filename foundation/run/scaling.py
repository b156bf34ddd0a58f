"""Step time, bytes on the wire and memory of a recipe on many GPUs: a model, written down in ``docs/scaling.md``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundation.engine.learner import Learner
from foundation.parallel.config import Config
from foundation.run.collectives import Cost, Group
from foundation.run.gpus import Card
from foundation.run.memory import Checkpointing, Sharing, Weights, memory, sharing, weights
from foundation.run.recipe import Recipe
from foundation.run.recorder import Operator
from foundation.run.trace import Trace, trace

_BUCKET = 25 * 2**20  # bytes of gradients that DistributedDataParallel sends at once
_HOOKS = 200e-6  # seconds of the host for gathering one piece forward and backward, and reducing its gradients
_SCALARS = 3  # sums of a few bytes besides those that objectives ask for: norm of the gradients, bad steps, figures
_FUSED = 0.5  # share of the traffic of a block that is left when its elementwise operators are compiled into few
_CALLED = 0.2  # share of the host's work for a block that is left then

_FOLLOWED = 64  # samples of the largest micro-batch whose step is followed; a larger one takes in proportion


@dataclass(frozen=True)
class Layout:
    """GPUs, and how they share the work.

    Attributes:
        gpus: in all.
        per_node: of one node.
        parallel: the recipe's ``parallel`` section, or another one to compare with.
    """

    gpus: int
    per_node: int
    parallel: Config

    @property
    def sharing(self) -> Sharing:
        """Who shares what."""
        return sharing(self.parallel, self.gpus, self.per_node)

    @property
    def checkpointing(self) -> Checkpointing:
        """What blocks keep for the backward pass."""
        return self.parallel.activation_checkpointing

    @property
    def settings(self) -> str:
        """As one gives it on the command line."""
        said = [f"parallel.data={self.parallel.data}"]
        said += [f"parallel.shard={self.parallel.shard}"] if self.parallel.shard else []
        said.append(f"parallel.activation_checkpointing={self.checkpointing}")
        return " ".join(said)

    def __str__(self) -> str:
        data = "one process" if self.gpus == 1 else self.parallel.data
        return data if self.checkpointing == "none" else f"{data}, checkpointing {self.checkpointing}"


@dataclass(frozen=True)
class Work:
    """What one GPU computes for one micro-batch, and what there is to share.

    Attributes:
        trace: of the micro-batch, or of a part of it.
        factor: samples of the micro-batch over those of the trace.
        weights: of the learner.
        compiled: blocks are compiled.
    """

    trace: Trace
    factor: float
    weights: Weights
    compiled: bool = False

    @property
    def rows(self) -> int:
        """Samples of the micro-batch."""
        return round(self.trace.rows * self.factor)


@dataclass(frozen=True)
class Estimate:
    """What is predicted for one layout.

    Attributes:
        layout: of the GPUs.
        rows: samples of one GPU and micro-batch.
        accumulate: micro-batches of a step.
        memory: bytes of one GPU by kind.
        fits: with what CUDA takes for itself.
        staging: bytes of the host's memory for each GPU while a checkpoint is written.
        link: bytes that one GPU sends in a step inside its node.
        network: the same to other nodes.
        seconds: of one step, by what it is spent on; they add up to the step.
        busy: of the GPU alone, by kind of operator, for one step.
        flops: of one GPU and step, without what is computed twice.
        mfu: share of the peak.
    """

    layout: Layout
    rows: int
    accumulate: int
    memory: dict[str, int]
    fits: bool
    staging: int
    link: float
    network: float
    seconds: dict[str, float]
    busy: dict[str, float]
    flops: float
    mfu: float

    @property
    def step(self) -> float:
        """Seconds of an optimiser step."""
        return sum(self.seconds.values())

    @property
    def batch(self) -> int:
        """Samples of an optimiser step."""
        return self.layout.gpus * self.rows * self.accumulate

    @property
    def rate(self) -> float:
        """Samples each second."""
        return self.batch / self.step

    def days(self, steps: int) -> float:
        """Of so many optimiser steps."""
        return steps * self.step / 86400

    def total(self, card: Card) -> float:
        """GiB of one GPU, with what CUDA takes for itself and the allocator holds beyond what lives."""
        return _total_memory(self.memory, card)


def work(recipe: Recipe, learner: Learner, rows: int, gpus: int) -> Work:
    """Follow a micro-batch as it runs on a GPU in bfloat16.

    Args:
        recipe: flat.
        learner: of the recipe, on the meta device.
        rows: samples of one GPU.
        gpus: that train together: some objectives look at the samples of all.
    """
    followed = min(rows, _FOLLOWED)
    there = weights(learner)
    half, compiled = recipe.train.precision != "float32", recipe.train.compile == "blocks"
    return Work(trace(recipe, learner, followed, "cuda", half, gpus), rows / followed, there, compiled)


def estimate(work: Work, layout: Layout, card: Card, accumulate: int = 1) -> Estimate:
    """Predict one step.

    Args:
        work: of one GPU.
        layout: of all.
        card: kind of GPU.
        accumulate: micro-batches of a step.
    """
    shared, there, trace = layout.sharing, work.weights, work.trace
    sharded = layout.parallel.sharded and layout.gpus > 1
    forward, backward, busy, host = _compute(work, card, layout.checkpointing, sharded)
    pieces = len(there.pieces) + len(there.teacher_pieces)
    host = accumulate * (host + (pieces * _HOOKS if sharded else 0.0))
    update = _update_bytes(there, shared) / (card.bandwidth * 1e9 * card.bandwidth_share)
    gpu = accumulate * (forward + backward) + update
    everyone = Group(card, layout.gpus, layout.per_node)
    asked = [everyone.all_reduce(size) for size in (*trace.summed, *[4] * _SCALARS)]
    asked += [everyone.gather(size) for size in trace.gathered]
    bound = max(gpu, host)
    slower = bound / gpu  # what waits for the host hides more of the wire
    wire = _wire(there, layout, card, accumulate, forward * slower, backward * slower)
    seconds = {
        "GPU": gpu,
        "waiting for the host": bound - gpu,
        "weights and gradients on the wire": wire.exposed,
        "exchanges of objectives": accumulate * sum(one.seconds for one in asked),
        "waiting for the slowest GPU": bound * card.unevenness * math.sqrt(2 * math.log(layout.gpus)),
    }
    flops = accumulate * work.factor * trace.flops()
    needed = memory(there, trace, work.rows, shared, layout.checkpointing, accumulates=accumulate > 1)
    fits = _total_memory(needed, card) <= card.memory
    busy = {kind: accumulate * value for kind, value in busy.items()} | {"update": update}
    state = sum(needed.get(kind, 0) for kind in ("parameters", "AdamW", "teachers"))
    return Estimate(
        layout, work.rows, accumulate, needed, fits, state, wire.link, wire.network, seconds, busy, flops,
        flops / (sum(seconds.values()) * card.bf16 * 1e12),
    )  # fmt: skip


def _total_memory(needed: Mapping[str, int], card: Card) -> float:
    return sum(needed.values()) * (1 + card.fragmentation) / 2**30 + card.reserved


def _compute(
    work: Work, card: Card, checkpointing: Checkpointing, sharded: bool
) -> tuple[float, float, dict[str, float], float]:
    """Seconds of a micro-batch: forward and backward on the GPU, on the GPU by kind of operator, of the host."""
    trace, factor = work.trace, work.factor
    halves = {False: 0.0, True: 0.0}
    busy: dict[str, float] = {}
    host = 0.0
    in_blocks = _share_in_blocks(trace)
    for operator in trace.operators:
        if sharded and operator.weight:
            continue  # weights arrive in bfloat16
        seconds = _seconds(operator, factor, card)
        called = card.host_microseconds * 1e-6
        inside = in_blocks if operator.backward else float(operator.block is not None)
        if work.compiled:
            called *= 1 - inside * (1 - _CALLED)
            if operator.kind == "traffic":
                seconds *= 1 - inside * (1 - _FUSED)
        again = trace.is_trained(operator.block) and not operator.backward and checkpointing != "none"
        twice = again and not (checkpointing == "selective" and operator.kind in ("matrix", "attention"))
        halves[operator.backward] += seconds
        host += called
        if twice:
            halves[True] += seconds
            host += called
        busy[operator.kind] = busy.get(operator.kind, 0.0) + seconds * (1 + twice)
    return halves[False], halves[True], {kind: value for kind, value in busy.items() if value}, host


def _share_in_blocks(trace: Trace) -> float:
    """Share of the forward pass with gradient that blocks do, as a stand-in for that of the backward pass."""
    own = [operator for operator in trace.operators if not operator.backward]
    inside = sum(operator.bytes for operator in own if trace.is_trained(operator.block))
    outside = sum(operator.bytes for operator in own if operator.block is None)
    return inside / max(1, inside + outside)


def _seconds(operator: Operator, factor: float, card: Card) -> float:
    """Of one operator on the GPU: its products or its bytes, whichever take longer."""
    if operator.kind == "view":
        return 0.0
    moved = operator.bytes * factor / (card.bandwidth * 1e9 * card.bandwidth_share)
    products = 0.0
    if operator.flops:
        share = card.attention_share if operator.kind == "attention" else card.matrix_share
        peak = card.bf16 if operator.bits <= 16 else card.fp32
        products = operator.flops * factor / (peak * 1e12 * share)
    return max(moved, products, card.kernel_microseconds * 1e-6)


def _update_bytes(there: Weights, shared: Sharing) -> float:
    """Read and written between the backward pass and the next step: norm and clipping, AdamW, averages."""
    clip = 12 * there.trained / 4 / shared.gradients
    moments = 28 * there.trained / 4 / shared.moments
    return clip + moments + 12 * (there.teachers - there.frozen) / 4 / shared.weights


@dataclass(frozen=True)
class _Wire:
    exposed: float
    link: float
    network: float


def _wire(there: Weights, layout: Layout, card: Card, accumulate: int, forward: float, backward: float) -> _Wire:
    """Weights and gradients: bytes of one GPU and step, and seconds that computing does not hide."""
    gpus, node = layout.gpus, layout.per_node
    if gpus == 1:
        return _Wire(0.0, 0.0, 0.0)
    if not layout.parallel.sharded:
        count = max(1, math.ceil(there.trained / _BUCKET))
        buckets = [Group(card, gpus, node).all_reduce(there.trained / count)] * count
        hidden = 0.0 if layout.parallel.data == "fairscale" else backward
        return _summed(max(buckets[-1].seconds, _total(buckets) - hidden), buckets)
    shards, share = layout.sharing.weights, 2 if layout.sharing.half else 1
    holders = Group(card, shards, node)
    own = [holders.gather(size / share) for size in there.pieces]
    teachers = [holders.gather(size / share) for size in there.teacher_pieces]
    scattered = [holders.gather(size) for size in there.pieces]
    copies = Group(card, gpus // shards, max(1, node // shards))
    summed = [copies.all_reduce(size / shards) for size in there.pieces]
    again = own if layout.parallel.reshard else []
    first, last = own[0].seconds, scattered[0].seconds + summed[0].seconds
    exposed = accumulate * (first + max(0.0, _total([*teachers, *own]) - first - forward))
    exposed += (accumulate - 1) * max(0.0, _total(again) - backward)
    # Shards are summed over the copies while those of the next piece are scattered.
    exposed += last + max(0.0, _total(again) + max(_total(scattered), _total(summed)) - last - backward)
    return _summed(exposed, [*[*teachers, *own, *again] * accumulate, *scattered, *summed])


def _total(costs: Sequence[Cost]) -> float:
    return sum(one.seconds for one in costs)


def _summed(exposed: float, costs: Sequence[Cost]) -> _Wire:
    return _Wire(exposed, sum(one.link for one in costs), sum(one.network for one in costs))
