"""Weights of the image towers of open_clip (and of OpenAI's CLIP), as the encoder ``open_clip``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foundation.encoders import open_clip
from foundation.encoders.open_clip_models import import_open_clip, shape_of
from foundation.errors import UserError
from foundation.modalities.image.evaluation import EvaluationConfig
from foundation.zoo.convert.base import Converted, Keys, State, no_mask_token
from foundation.zoo.convert.base import shape_of as shape_in

_FIRST = "transformer.resblocks.0.ln_1.weight"
_TOWER = "visual."
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Config:
    """An image tower. Its norm in front of the blocks and its GELU are open_clip's, so that open_clip makes it."""

    model: str = ""
    """Name in open_clip, such as ``ViT-B-32``; empty: the one that has these shapes, where only one has."""

    @property
    def title(self) -> str:
        return "open_clip's image towers"

    def matches(self, state: State) -> bool:
        named = _tower(state)[0]
        return _FIRST in named and "class_embedding" in named and "conv1.weight" in named

    def convert(self, state: State) -> Converted:
        named, outside = _tower(state)
        left_out = {"all but visual.": f"the text tower ({len(outside)} tensors)"} if outside else {}
        keys = Keys(named, self.title)
        keys.leave(("proj",), "the projection to the embedding that images share with texts")
        model = self.model or _only(_names(named))
        encoder = open_clip.Config(model=model)
        tensors = {f"visual.{name}": keys.take(name) for name in keys.names()}
        tensors["mask_token"] = no_mask_token(shape_in(named, _FIRST)[0])
        shape = shape_of(model)
        evaluation = EvaluationConfig(
            size=shape.size[0], crop_fraction=1.0, resize_below=1, mean=open_clip.MEAN, std=open_clip.STD
        )
        note = f"taken as {model}: weights that were trained with QuickGELU need model=NAME-quickgelu"
        return Converted(encoder, "image", evaluation, tensors, {**left_out, **keys.left_out}, (note,))

    def build(self) -> Config:
        """The source itself."""
        return self


def _tower(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tower's tensors under its own names, and the others where the file is of a whole model."""
    tower = {name.removeprefix(_TOWER): tensor for name, tensor in state.items() if name.startswith(_TOWER)}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(_TOWER)}
    return (tower, rest) if tower else (rest, {})


def _names(state: State) -> list[str]:
    """Models of open_clip whose tower has these shapes."""
    width = shape_in(state, _FIRST)[0]
    _, _, side, _ = shape_in(state, "conv1.weight")
    places = shape_in(state, "positional_embedding")[0] - 1
    depth = sum(name.endswith(".ln_1.weight") and name.startswith("transformer.resblocks.") for name in state)
    hidden = shape_in(state, "transformer.resblocks.0.mlp.c_fc.weight")[0]
    embed = shape_in(state, "proj")[1:]
    found = []
    for name in import_open_clip().list_models():
        try:
            shape = shape_of(name)
        except (UserError, TypeError, KeyError):  # no vision transformer of open_clip's own
            continue
        vision = shape.vision
        grid = (shape.size[0] // shape.side) * (shape.size[1] // shape.side)
        same = (vision.width, shape.side, grid, vision.layers, int(vision.width * vision.mlp_ratio))
        if same == (width, side, places, depth, hidden) and embed in ((), (shape.embed,)):
            found.append(name)
    return sorted(found, key=lambda name: (not name.startswith("ViT"), name))


def _only(names: list[str]) -> str:
    """The one name.

    Raises:
        UserError: there is none, or there are several.
    """
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError("open_clip has no model of these shapes")
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise UserError(
        f"several models of open_clip have these shapes ({', '.join(names[:_SHOWN])}{more}): say which, "
        f"FILE,as=open_clip,model={names[0]}"
    )
