"""Contract of sources: released weights of others under our names, with the Config of an encoder that does the same.

A source is a file in this folder with a dataclass ``Config``. Its fields are what shapes do not tell (heads), each with
a default; ``FILE,as=NAME,heads=6`` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.printable import printable

PATTERN = "foundation.zoo.convert.{name}"
"""Where sources are found, see :class:`foundation.plugins.Plugin`."""
State: TypeAlias = Mapping[str, Tensor]
"""Tensors by the names of the source."""
_SHOWN = 3


@dataclass(frozen=True)
class Converted:
    """An encoder out of foreign weights.

    Attributes:
        encoder: its ``Config``.
        modality: folder name in ``foundation/modalities``.
        evaluation: the modality's ``EvaluationConfig``: the preprocessing that the source publishes.
        tensors: the encoder's state dictionary, whole.
        left_out: what of the file is in no encoder, and why: by the beginning of the names.
        notes: what a user should know, one sentence each.
    """

    encoder: Any
    modality: str
    evaluation: Any
    tensors: dict[str, Tensor]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """``Config`` of a source."""

    @property
    def title(self) -> str:
        """Whose weights, for a person: ``DINOv2 (Oquab et al. 2024)``."""
        ...

    def matches(self, state: State) -> bool:
        """Whether names and shapes are those of this source. Reads no numbers; names that are strange besides are found
        by :meth:`convert`."""
        ...

    def convert(self, state: State) -> Converted:
        """Every name is mapped, left out with its reason, or an error.

        Args:
            state: tensors by name, without the names of what they were wrapped in.

        Raises:
            UserError: a tensor is missing, unknown or of a shape that cannot be.
        """
        ...


class Keys:
    """Foreign tensors of which each is taken or left out once; what remains is an error.

    Args:
        state: by the source's names.
        title: of the source, for messages.

    Attributes:
        left_out: see :class:`Converted`.
    """

    def __init__(self, state: State, title: str) -> None:
        self._left, self._title = dict(state), title
        self.left_out: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def names(self, start: str = "") -> list[str]:
        """Those that are still there and begin so."""
        return [name for name in self._left if name.startswith(start)]

    def see(self, name: str) -> Tensor:
        """A tensor, which stays to be taken.

        Raises:
            UserError: it is not there.
        """
        if name not in self._left:
            raise UserError(f"these are no whole weights of {self._title}: {printable(name)!r} is missing")
        return self._left[name]

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor.

        Args:
            name: the source's.
            shape: that it must have; None: any number. Without one any is good.

        Raises:
            UserError: it is not there, or of another shape.
        """
        tensor = self.see(name)
        fits = not shape or (
            len(shape) == tensor.ndim
            and all(want is None or want == side for want, side in zip(shape, tensor.shape, strict=True))
        )
        if not fits:
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            raise UserError(
                f"weights of {self._title}: {printable(name)!r} has the shape {list(tensor.shape)}, not [{wanted}]"
            )
        return self._left.pop(name)

    def take_if(self, name: str, *shape: int | None) -> Tensor | None:
        """The same; None where it is not there."""
        return self.take(name, *shape) if name in self else None

    def leave(self, starts: Iterable[str], why: str) -> None:
        """Leave out all names that begin so.

        Args:
            starts: of the names.
            why: one phrase.
        """
        for start in starts:
            if found := self.names(start):
                self.left_out[start] = f"{why} ({len(found)} tensors)" if len(found) > 1 else why
                for name in found:
                    del self._left[name]

    def finish(self) -> None:
        """Refuse what was neither taken nor left out.

        Raises:
            UserError: names it.
        """
        if self._left:
            some = ", ".join(printable(name) for name in [*self._left][:_SHOWN])
            more = f" and {len(self._left) - _SHOWN} more" if len(self._left) > _SHOWN else ""
            raise UserError(f"weights of {self._title} do not have the tensors {some}{more}: these are other weights")


def shape_of(state: State, name: str) -> tuple[int, ...]:
    """Shape of a tensor; empty where it is not there."""
    return tuple(state[name].shape) if name in state else ()


def no_mask_token(width: int) -> Tensor:
    """[1, width]: encoders here have a mask token; weights that were trained without one get zeros, as a new one is."""
    return torch.zeros(1, width)
