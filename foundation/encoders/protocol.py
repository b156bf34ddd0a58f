"""What an encoder is for the rest of the program: what it is given, what it says of itself, what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.encoders.elastic import Slice, SubNetwork
from foundation.errors import UserError
from foundation.types import Features

ATTENTION = ("attention.", "attention_map.")
"""How the taps begin that are attention, [rows, heads, ...], and no tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderInput:
    """One view as an encoder is to see it. A view may stand several times in one pass, under different masks.

    Attributes:
        view: [R, ...] as its tokenizer takes it; for images [R, channels, H, W].
        mask: [R, N] bool, True where the patch token is hidden; None: nothing is.
        mode: of hidden tokens: ``token`` puts the mask token in their place, ``drop`` leaves them out.
        hidden_per_row: True entries in each row of the mask, known on the host; needed for ``drop``.
        wanted: places of the patch tokens that are read, [M] distinct int64 in the flattened [R * N]; None: all are.
        reads_patches: False where no patch token is ever read (``wanted`` is empty then). An encoder goes by this and
            not by the length of ``wanted``: all processes must call the same blocks equally often.
        valid: [R, N] bool, False where a patch token is padding: nothing attends to it; None: all are real. Every row
            has a class token, a register or a token that is real.
        modality: of the view, for an encoder that has several inside; None: it goes by the view's axes.
    """

    view: Tensor
    mask: Tensor | None = None
    mode: Literal["token", "drop"] = "token"
    hidden_per_row: int | None = None
    wanted: Tensor | None = None
    reads_patches: bool = True
    valid: Tensor | None = None
    modality: str | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.mode == "drop" and self.hidden_per_row is None:
            raise UserError("an encoder input with mode 'drop' needs hidden_per_row: it is not read from the device")

    @property
    def left_out(self) -> int | None:
        """Tokens that each row loses; None where they stay."""
        return self.hidden_per_row if self.mask is not None and self.mode == "drop" else None


Inputs: TypeAlias = Sequence[Tensor | EncoderInput]
"""Views; a tensor is one without a mask and without padding."""


def inputs_of(given: Inputs) -> list[EncoderInput]:
    """The same with every plain tensor as an input."""
    return [one if isinstance(one, EncoderInput) else EncoderInput(view=one) for one in given]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an encoder can do, so that a recipe that asks for more is refused before its first step.

    Attributes:
        hides: patch tokens can be hidden behind a mask token.
        drops: hidden patch tokens can be left out of the trunk.
        overwrites: the part of a view that a token covers can be overwritten (:meth:`Encoder.spread`).
        cell_shape: of the numbers that a token covers (:meth:`Encoder.cells`); None where it cannot say.
        ragged: padding is kept from attention and from means.
        elastic: a slice of the weights can run by itself.
        towers: names of the encoders inside, for one that consists of several.
        cannot_hide: why tokens cannot be hidden, for a person; empty where they can.
    """

    hides: bool = False
    drops: bool = False
    overwrites: bool = False
    cell_shape: tuple[int, ...] | None = None
    ragged: bool = False
    elastic: bool = False
    towers: tuple[str, ...] = ()
    cannot_hide: str = "this encoder cannot hide patches: leave out the masking section"


@runtime_checkable
class Layered(Protocol):
    """Modules whose parameters lie in layers: 0 for the first, depth + 1 for what follows the last block."""

    @property
    def depth(self) -> int: ...

    def layer_of(self, name: str) -> int: ...

    def is_patch_embed(self, name: str) -> bool: ...


class Encoder(Protocol):
    """What the program asks of an encoder, an ``nn.Module``; :class:`EncoderModule` gives what few say otherwise."""

    config: Any
    """What it was built from, an :class:`EncoderConfig`."""

    @property
    def width(self) -> int:
        """Width D of the features."""

    @property
    def depth(self) -> int:
        """Blocks, or stages."""

    @property
    def prefix(self) -> int:
        """Class and register tokens in front of the patch tokens."""

    @property
    def modality(self) -> str:
        """Such as ``image``."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def forward(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """Encode views, each input for itself.

        Args:
            inputs: tensors, or :class:`EncoderInput` where something is hidden, left unread or padded.
            taps: what to return beside the features of every input, see :meth:`tap_names`.
            generator: source of drop path in training; torch's own where it is None.

        Returns:
            One for each input. ``patches`` is [R, N, D]; [M, D] in the order of ``wanted`` where that is given. At
            places that were left out it holds the mask token with its position, as a decoder wants it (MAE).

        Raises:
            UserError: unknown tap; a view, mask or padding that this encoder cannot take.
        """

    def __call__(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """:meth:`forward` with its hooks."""

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each patch token of an input of that size in its grid, [N, d]."""

    def tap_names(self) -> list[str]:
        """Everything that can be tapped."""

    def check_taps(self, taps: Sequence[str]) -> None:
        """Raises UserError with those there are where a tap is unknown."""

    def layer_of(self, name: str) -> int:
        """Layer of a parameter: 0 for what lies in front of the blocks, i + 1 for block i, depth + 1 for the rest."""

    def is_patch_embed(self, name: str) -> bool:
        """Whether a parameter belongs to what makes tokens of the input."""

    def uses_all_parameters(self, masked: bool) -> bool:
        """Whether every parameter takes part in every step, where views come with masks or not."""

    def adopted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A ``state_dict`` of the same encoder without registers as this one has it, with its fresh ones; any other."""

    def cells(self, view: Tensor) -> Tensor:
        """Numbers that each token of a view covers, [R, N, *cell_shape]."""

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """Which numbers of a view lie in tokens [R, N] bool; broadcasts over the view."""

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Estimated floating point operations of a forward pass over views of these shapes (R, channels, ...)."""

    @property
    def full_size(self) -> SubNetwork:
        """Its own size, the largest of its sub-networks."""

    def check_size(self, size: SubNetwork) -> None:
        """Raises UserError with the sizes there are where a sub-network is not one of them."""

    def slice_of(self, size: SubNetwork) -> Slice:
        """A sub-network of a size that :meth:`check_size` takes: see :mod:`foundation.encoders.elastic`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of ``nn.Module``."""


class EncoderModule(nn.Module):
    """Base of encoders: cannot hide anything, has no taps and one layer, and gives the coordinates of its ``config``.

    Attributes:
        config: what it was built from; has ``coordinates(size)``.
        modality: such as ``image``.
        width: width D of the features.
        depth: blocks, or stages.
        prefix: class and register tokens in front of the patch tokens.
    """

    config: Any
    modality: str
    width: int
    depth: int = 1
    prefix: int = 0

    @property
    def capabilities(self) -> Capabilities:
        """What it can do: nothing special."""
        return Capabilities()

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each patch token of an input of that size in its grid, [N, d]."""
        coordinates: NDArray[np.int64] = self.config.coordinates(size)
        return coordinates

    def tap_names(self) -> list[str]:
        """Everything that can be tapped: nothing."""
        return []

    def check_taps(self, taps: Sequence[str]) -> None:
        """Refuse taps that there are not.

        Raises:
            UserError: names the unknown taps and those there are.
        """
        there = self.tap_names()
        unknown = [tap for tap in taps if tap not in there]
        if unknown:
            raise UserError(f"unknown tap {', '.join(map(repr, unknown))}: this encoder has {_listed(there)}")

    def layer_of(self, name: str) -> int:
        """All parameters lie in the last layer: layer-wise decay leaves them alone."""
        return self.depth + 1

    def is_patch_embed(self, name: str) -> bool:
        """Nothing that is apart makes tokens of the input."""
        return False

    def uses_all_parameters(self, masked: bool) -> bool:
        """Not known: data parallel training looks for parameters that had no part in a step."""
        return False

    def adopted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same: this encoder has no registers."""
        return dict(weights)

    def cells(self, view: Tensor) -> Tensor:
        """Refused.

        Raises:
            UserError: this encoder does not say what its tokens cover.
        """
        raise UserError("this encoder does not say what a token covers: nothing can be reconstructed from its tokens")

    def spread(self, hidden: Tensor, view: Tensor) -> Tensor:
        """Refused.

        Raises:
            UserError: this encoder does not say where its tokens lie in the view.
        """
        raise UserError("this encoder does not say where its tokens lie in the view: use masking.mode: token")

    @property
    def full_size(self) -> SubNetwork:
        """Its own size."""
        return SubNetwork(self.width, (self.depth,))

    def check_size(self, size: SubNetwork) -> None:
        """Refused.

        Raises:
            UserError: a slice of this encoder's weights is no encoder.
        """
        raise UserError(
            "this encoder cannot be cut into smaller ones: its Capabilities have no `elastic`, as a vit has it"
        )

    def slice_of(self, size: SubNetwork) -> Slice:
        """Refused, as :meth:`check_size`."""
        self.check_size(size)
        raise NotImplementedError

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Floating point operations of a forward pass, counted by torch on one row of each view.

        Args:
            shapes: (R, channels, ...) of the views.
        """
        from torch.utils.flop_counter import FlopCounterMode

        parameter = next(self.parameters())
        total, training = 0, self.training
        self.eval()
        for rows, *rest in shapes:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self([torch.zeros(1, *rest, dtype=parameter.dtype, device=parameter.device)])
            total += rows * counter.get_total_flops()
        self.train(training)
        return total


class EncoderConfig:
    """Base of the ``Config`` of an encoder: what the loader and a plan ask before there are weights."""

    size: tuple[int, ...] | None = None
    """Input size at which positions are trained; None: there are none, or the encoder knows."""
    registers: int = 0
    """Register tokens."""

    @property
    def coordinates_of(self) -> Callable[[Tensor], Tensor] | None:
        """Where tokens lie that have other places in every sample: [R, ...] -> [R, N, d]; None for those on a grid."""
        return None

    def for_modality(self, modality: str) -> Any:
        """The Config of the encoder that takes views of a modality: this one, unless there are several inside."""
        return self

    @property
    def known_width(self) -> int | None:
        """Width of the features, where it is known without building the encoder."""
        return None

    @property
    def published(self) -> str | None:
        """Published weights that :meth:`build` takes and may have to fetch, such as ``timm:resnet50``; None: none."""
        return None


def check_hiding(encoder: Encoder, mode: str) -> None:
    """Refuse a way of hiding tokens that an encoder does not know.

    Args:
        encoder: of the student.
        mode: of the masking: ``token``, ``drop`` or ``input``.

    Raises:
        UserError: says what would be right.
    """
    able = encoder.capabilities
    if mode == "drop" and not able.drops:
        raise UserError("masking.mode 'drop' needs an encoder that can leave tokens out, such as a vit")
    if mode == "input" and not able.overwrites:
        raise UserError("masking.mode 'input' needs a tokenizer with equal cells of a grid: use mode: token")
    if mode != "input" and not able.hides:
        raise UserError(able.cannot_hide)


def _listed(names: Iterable[str]) -> str:
    """Taps by kind: ``block.0 to block.11, keys.0 to keys.11``."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.partition(".")[0], []).append(name)
    return ", ".join(f"{one[0]} to {one[-1]}" if len(one) > 1 else one[0] for one in kinds.values()) or "none"
