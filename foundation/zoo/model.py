"""A pretrained encoder as a module of PyTorch: what :func:`foundation.load` gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Features
from foundation.zoo.load import LoadedEncoder, load_encoder
from foundation.zoo.preprocess import Item, Preprocess

Tokens: TypeAlias = Literal["cls", "patches", "both"]
"""What stands for a sample: its class token, the mean of its patch tokens, or both side by side."""


@dataclass(frozen=True)
class Facts:
    """What is known of a loaded model.

    Attributes:
        name: of the run and the branch, of the export, or of the model of timm or open_clip.
        description: what was loaded, one line.
        modality: of the samples, such as ``image``.
        width: numbers of the encoder's tokens.
        depth: its blocks, or stages.
        parameters: of the encoder.
        registers: its register tokens.
        step: optimiser steps of the training; 0 where there is no run.
        recipe: text of the one that it was trained with; empty where that is not known.
        sha256: of the weights' file; None where there is none.
        licence: of the weights; None where nobody has said it.
        details: all that stands beside the weights, as plain values: of a model of the zoo its entry, of an export its
            card.
    """

    name: str
    description: str
    modality: str
    width: int
    depth: int
    parameters: int
    registers: int
    step: int
    recipe: str = field(repr=False)
    sha256: str | None
    licence: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Model(nn.Module):
    """An encoder that takes files, arrays or batches, and gives one vector for each sample.

    In evaluation mode, its parameters without gradients. To train it further: ``model.requires_grad_().train()``.

    Attributes:
        encoder: the network; ``encoder([batch])[0]`` has class token, registers and patch tokens.
        preprocess: from samples to the batch that ``encoder`` takes.
        modality: of the samples, such as ``image``.
        width: numbers of a vector.
        description: what was loaded, one line.
        card: what is known of it.
        loaded: encoder and evaluation view as the tools take them.
    """

    def __init__(self, loaded: LoadedEncoder, tokens: Tokens = "cls") -> None:
        super().__init__()
        if tokens not in get_args(Tokens):
            raise UserError(f"tokens is {tokens!r}; choose cls, patches or both")
        encoder: Any = loaded.encoder
        self.encoder, self.loaded = encoder, loaded
        self.preprocess = Preprocess(loaded.modality, loaded.evaluation)
        self.modality, self.tokens, self.description = self.preprocess.modality, tokens, loaded.description
        self.width = int(encoder.width) * (2 if tokens == "both" else 1)
        self.card = Facts(
            name=loaded.name,
            description=loaded.description,
            modality=self.modality,
            width=int(encoder.width),
            depth=int(encoder.depth),
            parameters=sum(parameter.numel() for parameter in encoder.parameters()),
            registers=max(0, int(encoder.prefix) - 1),
            step=loaded.step,
            recipe=loaded.recipe,
            sha256=loaded.sha256,
            licence=None if (licence := loaded.card.get("licence")) is None else str(licence),
            details=dict(loaded.card),
        )

    def forward(
        self,
        x: Item | Sequence[Item] | Tensor,
        *,
        rate: float | None = None,
        batch_size: int = 64,
        pieces: int = 1,
    ) -> Tensor:
        """Features [batch, width] float32, on the model's device.

        Args:
            x: one sample or a list of samples (a list may have any length, a single one counts as one), each

                - a path of a file, of any format that ``foundation data build`` reads for this modality;
                - in memory, for images: a PIL image, or uint8 [height, width, 3], RGB, 0 to 255;
                - for sound: float [samples] or [samples, channels], full scale 1, with ``rate`` in Hz;
                - for point clouds: float [points, 3 or more], x, y, z first, in the unit of the training data;
                - for video: uint8 [frames, height, width, 3], RGB, with ``rate`` in frames per second;
                - for inertial sensors: float [readings, channels], in the channels and units of the training data, with
                  ``rate`` in Hz;

                or a tensor: a batch that is ready, as ``preprocess`` makes it (for images float [batch, 3, height,
                width], normalised).
            rate: see above; where it is not given, the one that the recipe of the training says.
            batch_size: samples of a list that are encoded together.
            pieces: views of a recording that is longer than one (audio, video, inertial sensors), spread evenly over
                it, whose vectors are averaged; 1: its middle alone. Of no use for a batch that is ready.

        Raises:
            UserError: something is no file, or of another kind than the model takes.
            SampleError: a file that cannot be used; names it.
        """
        if pieces == 1 or isinstance(x, Tensor):
            return torch.cat([self._vectors(part) for part in self._encoded(x, rate, batch_size)])
        return torch.cat(
            [
                torch.stack([self._vectors(self._encode(piece)) for piece in views.unbind(dim=1)]).mean(dim=0)
                for views in self.views(x, rate, batch_size, pieces)
            ]
        )

    def features(
        self, x: Item | Sequence[Item] | Tensor, *, rate: float | None = None, batch_size: int = 64
    ) -> Features:
        """All tokens of the last layer, after its norm, float32 on the model's device.

        Args:
            x: as for :meth:`forward`, as ``rate`` and ``batch_size``.

        Returns:
            ``cls`` [batch, width], ``patches`` [batch, tokens, width] and ``registers`` [batch, registers, width];
            ``valid`` [batch, tokens] bool where some patch tokens are padding, else None. An encoder without class
            token has a pooled feature in its place.

        Raises:
            UserError: as :meth:`forward`.
            SampleError: likewise.
        """
        parts = list(self._encoded(x, rate, batch_size))
        valid = [part.valid for part in parts if part.valid is not None]
        return Features(
            cls=torch.cat([part.cls.float() for part in parts]),
            registers=torch.cat([part.registers.float() for part in parts]),
            patches=torch.cat([part.patches.float() for part in parts]),
            valid=torch.cat(valid) if valid else None,
        )

    def _encoded(self, x: Item | Sequence[Item] | Tensor, rate: float | None, batch_size: int) -> Iterator[Features]:
        if isinstance(x, Tensor):
            yield self._of_batch(x)
            return
        yield from map(self._encode, self.views(x, rate, batch_size))

    def views(
        self, x: Item | Sequence[Item], rate: float | None = None, batch_size: int = 64, pieces: int = 1
    ) -> Iterator[Tensor]:
        """Batches [batch, ...] of what ``preprocess`` makes of samples, with several ``pieces`` [batch, pieces, ...];
        arguments as for :meth:`forward`."""
        items = list(x) if isinstance(x, list | tuple) else [x]
        for start in range(0, max(1, len(items)), max(1, batch_size)):
            yield self.preprocess(items[start : start + max(1, batch_size)], rate=rate, pieces=pieces)

    def _of_batch(self, batch: Tensor) -> Features:
        if not batch.is_floating_point():
            raise UserError(
                f"a tensor of {batch.dtype} is no batch that is ready for the encoder: give a NumPy array for one "
                "sample, or what model.preprocess makes"
            )
        try:
            return self._encode(batch)
        except (UserError, RuntimeError, ValueError, IndexError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"a batch {list(batch.shape)} does not fit this model of {self.modality} ({reason}): model.preprocess "
                "makes one from files or arrays"
            ) from error

    def _encode(self, batch: Tensor) -> Features:
        weight = next(self.encoder.parameters())
        features: Features = self.encoder([batch.to(weight.device, weight.dtype)])[0]
        return features

    def _vectors(self, features: Features) -> Tensor:
        parts = {"cls": [features.cls], "patches": [mean_patch(features)]}
        chosen = parts["cls"] + parts["patches"] if self.tokens == "both" else parts[self.tokens]
        return torch.cat([part.float() for part in chosen], dim=1)


def mean_patch(features: Features) -> Tensor:
    """Mean [R, D] of the patch tokens that are no padding; the class token where there are none."""
    if features.patches.shape[1] == 0:
        return features.cls
    patches = features.patches.float()
    if features.valid is None:
        return patches.mean(dim=1)
    weight = features.valid[..., None].float()
    return (patches * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def load(
    source: str | Path,
    *,
    branch: str | None = None,
    device: torch.device | str = "cpu",
    tokens: Tokens = "cls",
    width: int | None = None,
    depth: int | Sequence[int] | None = None,
) -> Model:
    """Load a pretrained encoder; see :func:`foundation.load`."""
    return Model(load_encoder(source, device, branch, width=width, depth=depth), tokens)
