"""Weights of ATST (Li and Li 2022; Li et al. 2024, Audio-WestlakeU/audiossl): ATST-Clip and ATST-Frame."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig
from foundation.errors import UserError
from foundation.modalities.audio import tokenizer
from foundation.modalities.audio.evaluation import EvaluationConfig
from foundation.zoo.convert.base import Converted, Keys, State, shape_of
from foundation.zoo.convert.blocks import FIRST, heads_of, take_blocks, take_norm, trunk_of

_PROJECTION = "patch_embed.patch_embed"
_MELS = 64
_SECONDS = {"clip": 600, "frame": 1000}


@dataclass(frozen=True, kw_only=True)
class Config:
    """``base.ckpt`` of ATST-Clip, ``atstframe_base.ckpt`` of ATST-Frame: a token for all mel bands of a few frames."""

    heads: int | None = None
    """Attention heads; None: as many of width 64 as there are."""
    mels: int = _MELS
    """Mel bands of the spectrogram."""

    @property
    def title(self) -> str:
        return "ATST (Li and Li 2022)"

    def matches(self, state: State) -> bool:
        return len(shape_of(state, f"{_PROJECTION}.weight")) == 2 and FIRST in state and "pos_embed" in state

    def convert(self, state: State) -> Converted:
        keys, width = Keys(state, self.title), shape_of(state, FIRST)[0]
        trunk = trunk_of(state, heads_of(width, self.heads), self.title)
        kind = "clip" if "cls_token" in keys else "frame"
        weight = keys.take(f"{_PROJECTION}.weight", width, None)
        frames, rest = divmod(weight.shape[1], self.mels)
        if rest:
            raise UserError(
                f"weights of {self.title}: patches of {weight.shape[1]} cells, no multiple of {self.mels} bands"
            )
        table = keys.take("pos_embed", 1, None, width)
        encoder = vit.Config(
            **trunk.settings,
            tokenizer=tokenizer.Config(patch=(self.mels, frames)),
            size=(self.mels, frames * (table.shape[1] - 1)),
            position=PositionConfig(fit="cut"),
            class_token=kind == "clip",
        )
        tensors = {
            "mask_token": keys.take("mask_embed", 1, 1, width)[0],
            "positions.table": table,
            "tokenizer.projection.weight": weight.reshape(width, 1, self.mels, frames),
            "tokenizer.projection.bias": keys.take(f"{_PROJECTION}.bias", width),
            **take_blocks(keys, trunk),
            **take_norm(keys, trunk, "norm_frame" if "norm_frame.weight" in keys else "norm"),
        }
        if kind == "clip":
            tensors["cls_token"] = keys.take("cls_token", 1, 1, width)
        keys.finish()
        longest = min(_SECONDS[kind], encoder.size[1])
        evaluation = EvaluationConfig(frames=longest)
        return Converted(encoder, "audio", evaluation, tensors, keys.left_out)

    def build(self) -> Config:
        """The source itself."""
        return self
