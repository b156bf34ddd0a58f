"""An encoder of single frames as one of clips: it sees each frame by itself, and the mean over them is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foundation.encoders.protocol import Encoder, EncoderInput, EncoderModule, Inputs, inputs_of
from foundation.errors import UserError
from foundation.types import Features


class FrameByFrame(EncoderModule):
    """Class and register tokens of a clip: the mean over its frames. It has no patch tokens, and hides nothing.

    Args:
        encoder: of single frames.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.config, self.modality = encoder.config, str(encoder.modality)
        self.width, self.depth, self.prefix = int(encoder.width), int(encoder.depth), int(encoder.prefix)

    def forward(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """Encode clips [R, frames, ...], a frame as the encoder of frames takes it; no patch tokens [R, 0, D].

        Raises:
            UserError: a tap is asked for, or something is hidden.
        """
        self.check_taps(taps)
        given = inputs_of(inputs)
        if any(one.mask is not None for one in given):
            raise UserError("an encoder that sees clips frame by frame cannot hide anything")
        nothing = torch.zeros(0, dtype=torch.int64, device=given[0].view.device)  # no patch token is read
        frames = [EncoderInput(view=one.view.flatten(0, 1), wanted=nothing, reads_patches=False) for one in given]
        found = self.encoder(frames, generator=generator)
        return [self._mean(features, len(one.view)) for features, one in zip(found, given, strict=True)]

    def _mean(self, features: Features, rows: int) -> Features:
        def mean(tokens: Tensor) -> Tensor:
            return tokens.unflatten(0, (rows, -1)).mean(dim=1)

        cls = mean(features.cls)
        return Features(cls, mean(features.registers), cls.new_zeros(rows, 0, self.width))


_fulfils: type[Encoder] = FrameByFrame  # for the type checker
