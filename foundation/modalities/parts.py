"""Files of a modality's folder by name, and what they are asked for by those who know no modality by name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from foundation import config, plugins
from foundation.errors import UserError
from foundation.modalities.lattice import check_views
from foundation.types import Sample


def part(modality: str, name: str) -> ModuleType:
    """A file of a modality's folder: ``decode``, ``views``, ``tokenizer`` or ``picture``.

    Raises:
        UserError: when the modality does not exist or has no such file.
    """
    views = plugins.resolve("foundation.modalities.{name}.views", modality)
    parent = views.__name__.rpartition(".")[0]
    try:
        return importlib.import_module(f"{parent}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{parent}.{name}":
            raise
        raise UserError(f"modality {modality!r} has no {name}.py, which this command needs") from error


def evaluation_config(modality: str, evaluation: Any, size: int | None = None, source: str = "evaluation") -> Any:
    """The modality's ``EvaluationConfig``.

    Args:
        modality: folder name in ``foundation/modalities``.
        evaluation: itself, a plain mapping (of a card) or None for its defaults.
        size: side in place of its own, pixels.
        source: what messages call the mapping.

    Raises:
        UserError: for keys that the config does not have, and a size that no memory holds.
    """
    if evaluation is None or isinstance(evaluation, Mapping):
        kind = part(modality, "views").EvaluationConfig
        known = {item.name for item in dataclasses.fields(kind)}
        values = {key: value for key, value in (evaluation or {}).items() if key != "name"}
        if unknown := sorted(set(values) - known):
            names = ", ".join(sorted(known))
            raise UserError(f"preprocessing of {modality!r} has no {', '.join(unknown)} (known: {names})")
        evaluation = config.from_plain(kind, values, name=source)
    if size is not None:
        if not hasattr(evaluation, "size"):
            raise UserError(f"views of {modality!r} have no side in pixels: leave --size out")
        evaluation = dataclasses.replace(evaluation, size=size)
        check_evaluation(modality, evaluation, "--size")
    return evaluation


@runtime_checkable
class OneOfSeveral(Protocol):
    """The ``EvaluationConfig`` of samples of several modalities, of which one is looked at."""

    modality: str

    @property
    def own(self) -> Any: ...


def own_evaluation(modality: str, evaluation: Any) -> tuple[str, Any]:
    """Modality and ``EvaluationConfig`` of what is looked at: of samples of several, of that one."""
    return (evaluation.modality, evaluation.own) if isinstance(evaluation, OneOfSeveral) else (modality, evaluation)


@runtime_checkable
class AlongTime(Protocol):
    """An evaluation view that can lie elsewhere in a recording than in its middle."""

    @property
    def sees_all(self) -> bool: ...

    def length_of(self, sample: Sample) -> float:
        """How many views long the recording is."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor: ...

    def at(self, samples: Sequence[Sample], share: float) -> Tensor: ...


class Pieces:
    """Several views of each recording, spread evenly from its begin to its end.

    Args:
        view: of one place.
        count: of views, at least two.
    """

    def __init__(self, view: AlongTime, count: int) -> None:
        self.view, self.count = view, count

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """[B, count, ...] of B samples."""
        shares = [place / (self.count - 1) for place in range(self.count)]
        return torch.stack([self.view.at(samples, share) for share in shares], dim=1)


def in_time(evaluation: Any) -> bool:
    """Whether views are stretches of recordings that may be longer."""
    view = evaluation.build()
    return isinstance(view, AlongTime) and not view.sees_all


def pieces_to_cover(evaluation: Any, samples: Sequence[Sample]) -> int:
    """How many views, side by side, cover the longest of some recordings; 1 where views have no time, or cover all.

    Args:
        evaluation: the modality's ``EvaluationConfig``.
        samples: decoded.
    """
    if not in_time(evaluation):
        return 1
    view = evaluation.build()
    # A recording that is longer by a hundredth is one view long: lengths are rounded to frames and readings.
    return max((math.ceil(view.length_of(sample) - 0.01) for sample in samples), default=1)


def in_pieces(modality: str, evaluation: Any, count: int) -> Pieces:
    """The views of recordings that are longer than one.

    Args:
        modality: folder name in ``foundation/modalities``.
        evaluation: its ``EvaluationConfig``.
        count: of views.

    Raises:
        UserError: there is no time in these views, or one covers all of it already.
    """
    if count < 1:
        raise UserError(f"pieces must be 1 or more, got {count}")
    view = evaluation.build()
    if not isinstance(view, AlongTime):
        raise UserError(f"views of {modality!r} have no time: leave --pieces out")
    if view.sees_all:
        raise UserError(
            f"one view of {modality!r} covers the whole recording, as its evaluation says: leave --pieces out"
        )
    return Pieces(view, count)


def views_for_probe(modality: str, evaluation: Any) -> Any:
    """Training views of a probe that trains the encoder too: one view of the evaluation's size.

    Raises:
        UserError: the modality's ``views.py`` has no ``for_probe``.
    """
    views = part(modality, "views")
    if not hasattr(views, "for_probe"):
        raise UserError(f"modality {modality!r} has no augmented views for probes: leave --end-to-end out")
    return views.for_probe(evaluation)


def evaluation_shape(modality: str, evaluation: Any) -> tuple[int, ...]:
    """Shape of what a probe looks at, without rows: for images (channels, height, width).

    Args:
        modality: folder name in ``foundation/modalities``.
        evaluation: its ``EvaluationConfig``.

    Raises:
        UserError: the modality's ``views.py`` has no ``for_probe``.
    """
    ((_, shape),) = views_for_probe(modality, evaluation).roles.values()
    return tuple(shape)


def check_evaluation(modality: str, evaluation: Any, source: str) -> None:
    """:func:`foundation.modalities.lattice.check_views` for what a probe looks at.

    Args:
        modality: folder name in ``foundation/modalities``.
        evaluation: its ``EvaluationConfig``.
        source: of it, for messages.

    Raises:
        UserError: its view is too large.
    """
    views = part(modality, "views")
    try:
        check_views(views.for_probe(evaluation).roles if hasattr(views, "for_probe") else {})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def simple_features(modality: str, evaluation: Any) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """What the modality's own ``simple.py`` calls simple features: by name, each from evaluation views [B, ...] to
    [B, D]. Empty where there is no such file."""
    try:
        module = part(modality, "simple")
    except UserError:
        return {}
    found: Mapping[str, Callable[[Tensor], Tensor]] = module.features(evaluation)
    return found


def decode_config(modality: str, evaluation: Any = None) -> Any:
    """What the ``decode`` of an evaluation or of views says, if they have one, else the modality's defaults."""
    return getattr(evaluation, "decode", None) or part(modality, "decode").Config()


def decoder(modality: str, evaluation: Any = None) -> Callable[[Any], Any]:
    """Raw sample -> sample, as :func:`decode_config` says."""
    module, settings = part(modality, "decode"), decode_config(modality, evaluation)
    return settings.build() if hasattr(settings, "build") else functools.partial(module.decode, config=settings)
