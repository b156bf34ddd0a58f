"""The training state: everything that must survive a restart, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation.engine.learner import Learner
from foundation.engine.optimizer import Optimizer
from foundation.errors import UserError

FILES = ("student", "teachers", "objectives", "optimizer", "random")
NUMBERS = ("step", "position", "skipped", "batch_size", "world_size", "version")


@dataclass
class Progress:
    """Where the run is.

    Attributes:
        step: optimiser steps done.
        position: samples taken from the stream, good and bad; the whole state of the data.
        skipped: bad samples so far, by reason.
    """

    step: int = 0
    position: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


def capture(learner: Learner, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """Copies on the CPU of all tensors of the state, by checkpoint file."""
    groups = {
        "student": learner.student.state_dict(),
        "teachers": learner.teachers.state_dict(),
        "objectives": learner.objectives.state_dict(),
        "optimizer": optimizer.tensors(),
        "random": _random_state(),
    }
    return {
        name: {key: t.detach().to("cpu", copy=True).contiguous() for key, t in group.items()}
        for name, group in groups.items()
    }


def restore(learner: Learner, optimizer: Optimizer, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put a captured state back.

    Raises:
        UserError: naming the first item that is missing, unknown or of another shape.
    """
    for name in FILES:
        if name not in tensors:
            raise UserError(f"the checkpoint lacks {name}: it cannot be resumed from")
    for name in ("student", "teachers", "objectives"):
        module: torch.nn.Module = getattr(learner, name)
        _compare(name, module.state_dict(), tensors[name])
        module.load_state_dict(dict(tensors[name]))
    optimizer.load_tensors(tensors["optimizer"])
    _restore_random(tensors["random"])


def _compare(name: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if missing := sorted(own.keys() - saved.keys()):
        raise UserError(f"the checkpoint's {name} lacks {missing[0]!r} (and {len(missing) - 1} more)")
    if unknown := sorted(saved.keys() - own.keys()):
        raise UserError(f"the checkpoint's {name} has {unknown[0]!r}, which this recipe does not (of {len(unknown)})")
    for key, tensor in own.items():
        if tensor.shape != saved[key].shape or tensor.dtype != saved[key].dtype:
            raise UserError(
                f"the checkpoint's {name} {key!r} is {saved[key].dtype} {list(saved[key].shape)}, "
                f"this recipe makes it {tensor.dtype} {list(tensor.shape)}"
            )


def _random_state() -> dict[str, Tensor]:
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy.keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy.rest": torch.tensor([float(place), float(has_gauss), float(cached)], dtype=torch.float64),
        "python.internal": torch.tensor(internal, dtype=torch.int64),
        "python.rest": torch.tensor([version, gauss is not None, gauss or 0.0], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    place, has_gauss, cached = state["numpy.rest"].tolist()
    keys = state["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(place), int(has_gauss), cached))
    version, has, gauss = state["python.rest"].tolist()
    random.setstate((int(version), tuple(state["python.internal"].tolist()), gauss if has else None))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def numbers(progress: Progress, batch_size: int, world_size: int, version: str) -> dict[str, Any]:
    """The JSON half of the state."""
    return {
        "step": progress.step,
        "position": progress.position,
        "skipped": dict(progress.skipped),
        "batch_size": batch_size,
        "world_size": world_size,
        "version": version,
    }


def progress_of(state: Mapping[str, Any]) -> Progress:
    """Progress from the JSON half of a checkpoint.

    Raises:
        UserError: naming a missing item.
    """
    for name in NUMBERS:
        if name not in state:
            raise UserError(f"the checkpoint's state lacks {name!r}: it cannot be resumed from")
    return Progress(int(state["step"]), int(state["position"]), dict(state["skipped"]))
