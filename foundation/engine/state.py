"""The training state: everything that must survive a restart, and nothing else."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation import counter
from foundation.copied_code import commit_of
from foundation.engine.learner import Learner
from foundation.engine.optimizer import Optimizer
from foundation.errors import UserError
from foundation.parallel.collective import on_all_ranks
from foundation.parallel.shards import local
from foundation.version import VERSION
from foundation.weights import check_finite

RESERVED = ("objectives", "stores", "optimizer", "random", "jobs")
"""Files of a checkpoint beside those of the branches, each of which has one of its own name."""
NUMBERS = {
    "step": int, "stage": int, "begun": int, "position": int, "skipped": dict, "data": dict, "batch_size": int,
    "world_size": int, "recipe": str, "code": dict,
}  # fmt: skip
"""Items of the JSON half and their types."""


@dataclass
class Progress:
    """Where the run is.

    Attributes:
        step: optimiser steps done, of all stages.
        position: samples taken from the stream of this stage, good and bad; the whole state of the data.
        skipped: bad samples so far, by reason.
        stage: number of the stage, from 0.
        begun: steps that were done when the stage began.
    """

    step: int = 0
    position: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    stage: int = 0
    begun: int = 0

    @property
    def of_stage(self) -> int:
        """Optimiser steps of this stage that are done."""
        return self.step - self.begun


def modules(learner: Learner, jobs: nn.Module | None = None) -> dict[str, nn.Module]:
    """What is saved of a stage, by checkpoint file: each branch that has a state, objectives, stores, jobs with one."""
    branches = {name: branch for name, branch in learner.named_branches.items() if branch.state_dict()}
    stores = {"stores": learner.stores} if len(learner.stores) else {}
    kept = {"jobs": jobs} if jobs is not None and jobs.state_dict() else {}
    return {**branches, "objectives": learner.objectives, **stores, **kept}


def capture(
    learner: Learner,
    optimizer: Optimizer,
    random_states: Sequence[Mapping[str, Tensor]] | None = None,
    jobs: nn.Module | None = None,
) -> dict[str, dict[str, Tensor]]:
    """All tensors of the state by checkpoint file: the live ones, nothing is copied.

    Args:
        learner: branches (with their buffers), objectives (centres, queues) and stores.
        optimizer: AdamW's moments and step of every parameter.
        random_states: :func:`random_state` of every process, in the order of their ranks; None: a single process's.
        jobs: by name.
    """
    states = [random_state()] if random_states is None else random_states
    return {
        **{name: dict(module.state_dict()) for name, module in modules(learner, jobs).items()},
        "optimizer": optimizer.tensors(),
        "random": of_ranks(states),
    }


def of_ranks(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The group ``random`` of a checkpoint: :func:`random_state` of every process, in the order of their ranks."""
    return {f"rank{rank}.{key}": tensor for rank, state in enumerate(states) for key, tensor in state.items()}


def validate(
    contents: Mapping[str, Mapping[str, Sequence[Any]]],
    learner: Learner,
    optimizer: Optimizer,
    ranks: int = 1,
    jobs: nn.Module | None = None,
) -> None:
    """Compare what a checkpoint says it holds with what this recipe needs, before anything is read into place.

    Args:
        contents: dtype and shape by file and key, as in the manifest's ``tensors``.
        learner: of this run.
        optimizer: of this run.
        ranks: processes whose random states must be there; 0 when the number of processes has changed.
        jobs: of this run.

    Raises:
        UserError: naming the first item that is missing, unknown or of another shape or dtype.
    """
    own = capture(learner, optimizer, [], jobs)
    if "teachers" in contents and "teachers" not in own:
        raise UserError(
            "the checkpoint is of a version before branches had files of their own: it cannot be gone on from. Its "
            "encoders can be used all the same (foundation export), or be the initial weights of a new run"
        )
    for name in own:
        if name not in contents:
            raise UserError(f"the checkpoint lacks {name}: it cannot be resumed from")
    for name in (name for name in own if name != "random"):
        _compare(name, own[name], contents[name])
    for rank in range(ranks):
        _check_random(contents["random"], rank)


def layout_of(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, list[Any]]]:
    """Dtypes and shapes in the form of the manifest's ``tensors``."""
    return {name: {key: _described(t) for key, t in group.items()} for name, group in tensors.items()}


def restore(
    learner: Learner,
    optimizer: Optimizer,
    tensors: Mapping[str, Mapping[str, Tensor]],
    saved: Mapping[str, Any] | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    jobs: nn.Module | None = None,
) -> None:
    """Put a captured state back, this process's random state included.

    With another number of processes than saved, a process takes the random state of its own rank where there is one;
    the others are seeded by (seed, step, rank).

    Args:
        learner: of this run.
        optimizer: of this run.
        tensors: as from :func:`capture`, spread over the processes like those of this run.
        saved: the JSON half, for ``step`` and ``world_size``; None: of a single process at step 0.
        rank: of this process.
        world_size: processes now.
        seed: of the stage.
        jobs: of this run.

    Raises:
        UserError: naming the first item that is missing, unknown, of another shape or dtype, or not finite; nothing is
            changed then.
    """
    step, before = (progress_of(saved).of_stage, int(saved["world_size"])) if saved is not None else (0, 1)
    validate(layout_of(tensors), learner, optimizer, before if before == world_size else 0, jobs)
    kept = modules(learner, jobs)

    def check() -> None:
        for name in (*kept, "optimizer"):
            if name not in ("objectives", "stores"):
                here = {key: local(tensor) for key, tensor in tensors[name].items()}
                check_finite(here, f"the checkpoint's {name}.safetensors")

    on_all_ranks(check)  # each sees its own part
    for name, module in kept.items():
        module.load_state_dict(dict(tensors[name]))
    optimizer.load_tensors(tensors["optimizer"])
    own = {k.removeprefix(f"rank{rank}."): t for k, t in tensors["random"].items() if k.startswith(f"rank{rank}.")}
    seed_random(seed, step, rank)
    if own:
        _check_random(layout_of(tensors)["random"], rank)
        _restore_random(own)


def _described(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def _compare(name: str, own: Mapping[str, Tensor], saved: Mapping[str, Sequence[Any]]) -> None:
    if missing := sorted(own.keys() - saved.keys()):
        raise UserError(f"the checkpoint's {name} lacks {missing[0]!r}{_more(missing)}: it cannot be resumed from")
    if unknown := sorted(saved.keys() - own.keys()):
        raise UserError(f"the checkpoint's {name} has {unknown[0]!r}{_more(unknown)}, which this recipe does not")
    for key, tensor in own.items():
        if _described(tensor) != list(saved[key]):
            dtype, shape = saved[key]
            raise UserError(
                f"the checkpoint's {name} {key!r} is {dtype} {list(shape)}, "
                f"this recipe makes it {' '.join(map(str, _described(tensor)))}"
            )


def _more(keys: Sequence[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def random_state() -> dict[str, Tensor]:
    """State of this process's generators: torch, NumPy, Python and the current CUDA device (empty without one)."""
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy.keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy.rest": torch.tensor([float(place), float(has_gauss), float(cached)], dtype=torch.float64),
        "python.internal": torch.tensor(internal, dtype=torch.int64),
        "python.rest": torch.tensor([version, gauss is not None, gauss or 0.0], dtype=torch.float64),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else torch.empty(0, dtype=torch.uint8),
    }


def _check_random(saved: Mapping[str, Sequence[Any]], rank: int) -> None:
    for key, tensor in random_state().items():
        name = f"rank{rank}.{key}"
        if name not in saved:
            raise UserError(f"the checkpoint's random lacks {name!r}: it cannot be resumed from")
        if key != "cuda" and _described(tensor) != list(saved[name]):  # a run may move between CPU and GPU
            raise UserError(f"the checkpoint's random {name!r} is {saved[name]}, not {_described(tensor)}")


def _restore_random(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    place, has_gauss, cached = state["numpy.rest"].tolist()
    keys = state["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(place), int(has_gauss), cached))
    version, has, gauss = state["python.rest"].tolist()
    random.setstate((int(version), tuple(state["python.internal"].tolist()), gauss if has else None))
    if state["cuda"].numel() and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def kept_random() -> Iterator[None]:
    """Put this process's generators, those of all its CUDA devices among them, back as they were."""
    before = random_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        _restore_random({**before, "cuda": torch.empty(0)})
        if devices:
            torch.cuda.set_rng_state_all(devices)


def seed_random(seed: int, step: int, rank: int) -> None:
    """Seed this process's generators by counter randomness of (seed, step, rank)."""
    drawn = counter.bits(seed, step, rank, "engine.generators", 3)[0]
    torch.manual_seed(int(drawn[0]))  # the CUDA devices' too
    np.random.seed(int(drawn[1]) & 0xFFFFFFFF)
    random.seed(int(drawn[2]))


@cache
def code_version() -> dict[str, Any]:
    """Version of this package; in a git checkout also ``commit``, and ``dirty`` when files differ from it."""
    import subprocess

    found: dict[str, Any] = {"version": VERSION}
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / ".git").exists():
        git = ("git", "--no-optional-locks", "-C", str(checkout))
        try:
            for key, words in (("commit", ("rev-parse", "HEAD")), ("dirty", ("status", "--porcelain", "-uno"))):
                done = subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True)
                found[key] = done.stdout.strip() if key == "commit" else bool(done.stdout.strip())
        except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
            pass
    elif (copied := commit_of(checkout)) is not None and copied["commit"] is not None:
        found |= {"commit": copied["commit"], "dirty": bool(copied["modified"])}
    return found


def numbers(
    progress: Progress,
    batch_size: int,
    world_size: int,
    *,
    recipe: str,
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON half of the state.

    Args:
        progress: where the run is.
        batch_size: samples per optimiser step over all processes.
        world_size: processes.
        recipe: resolved, as YAML.
        data: fingerprint of all that the meaning of ``position`` depends on.
    """
    return {
        "step": progress.step,
        "stage": progress.stage,
        "begun": progress.begun,
        "position": progress.position,
        "skipped": dict(progress.skipped),
        "data": dict(data or {}),
        "batch_size": batch_size,
        "world_size": world_size,
        "recipe": recipe,
        "code": code_version(),
    }


def progress_of(state: Mapping[str, Any]) -> Progress:
    """Progress from the JSON half of a checkpoint.

    Raises:
        UserError: naming an item that is missing or of a wrong type.
    """
    for name, kind in NUMBERS.items():
        if name not in state:
            raise UserError(f"the checkpoint's state lacks {name!r}: it cannot be resumed from")
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise UserError(f"the checkpoint's state has {name!r} as {state[name]!r}: it cannot be resumed from")
    skipped, numbers = (
        dict(state["skipped"]),
        {name: int(state[name]) for name in ("step", "position", "stage", "begun")},
    )
    return Progress(skipped=skipped, **numbers)
