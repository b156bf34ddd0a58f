"""Models of timm by name: made with random, published or given weights, for views of several sizes."""

from __future__ import annotations

import difflib
import functools
import importlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foundation.compatibility import explain_import_error
from foundation.encoders import timm_weights
from foundation.errors import UserError
from foundation.modalities.image.tokenizer import Config as Patches


def import_timm() -> Any:
    """The timm library.

    Raises:
        UserError: it, or the torchvision it needs, cannot be imported; the message names versions that fit.
    """
    try:
        return importlib.import_module("timm")
    except (
        Exception
    ) as error:  # a torchvision for another torch build raises RuntimeError, OSError, AttributeError, ...
        raise explain_import_error("timm", error) from error


def create(
    model: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    drop_path: float = 0.0,
    arguments: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """A model of timm without a classifier. See :class:`foundation.encoders.timm.Config` for the arguments.

    Raises:
        UserError: timm cannot be imported, has no such model, or the model has no such argument; weights that cannot be
            had.
    """
    timm = import_timm()
    published = _published(timm, model)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **(arguments or {})}
    if drop_path:
        options["drop_path_rate"] = drop_path
    source: AbstractContextManager[None] = nullcontext()
    if torch.get_default_device().type != "meta":  # a plan needs no weights
        if weights is not None:
            source = timm_weights.reading(model, weights)
            options["pretrained_cfg_overlay"] = {"file": weights, "custom_load": False}
        elif pretrained:
            source = timm_weights.fetching(model, published)
        options["pretrained"] = pretrained or weights is not None
    with source:
        try:
            made = _first_that_builds(timm, model, options, {} if size is None else {"img_size": size})
            return made if drop_path else _without_drop_path(made)
        except TypeError as error:
            if "unexpected keyword" not in str(error) or not arguments:
                raise
            unknown = str(error).rpartition("argument ")[2]
            raise UserError(f"timm model {model!r} has no argument {unknown}: see encoder.arguments") from error


def _without_drop_path(model: nn.Module) -> nn.Module:
    """The same with every residual in every step: some families (Swin) skip a tenth of them unless told otherwise, and
    not all know the option."""
    from timm.layers import DropPath

    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return model


def _published(timm: Any, model: str) -> Any:
    """What timm says of a model's published weights, None where it publishes none.

    Raises:
        UserError: timm has no such model, or no such weights of it; names the nearest that there are.
    """
    name = model.partition(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
        raise UserError(f"timm has no model {model!r}" + (f"; similar: {', '.join(near)}" if near else ""))
    try:
        return timm.get_pretrained_cfg(model)
    except RuntimeError as error:  # of the tag behind the dot
        tags = timm.list_pretrained(f"{name}.*")
        near = difflib.get_close_matches(model, tags, n=5, cutoff=0.0)
        raise UserError(f"timm has no model {model!r}" + (f"; there are: {', '.join(near)}" if near else "")) from error


def _first_that_builds(timm: Any, name: str, options: Mapping[str, Any], with_size: Mapping[str, Any]) -> nn.Module:
    # So that views may have several sizes. Not every family knows these options; a model without positions and windows
    # takes any size anyway.
    attempts = [{**with_size, "dynamic_img_size": True}, {**with_size, "strict_img_size": False}, with_size, {}]
    for extra in attempts:
        try:
            model: nn.Module = timm.create_model(name, **options, **extra)
            return model
        except TypeError as error:
            if extra is attempts[-1] or "unexpected keyword" not in str(error):
                raise
    raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True)
class Outline:
    """What is known of a model without its weights: its layers on the meta device.

    Attributes:
        name: of the model in timm.
        model: allocates nothing.
        channels: of an image.
        stride: pixels between neighbouring tokens of the output.
        hides: whether it embeds separate patches, so that a mask token can stand in for them.
    """

    name: str
    model: Any
    channels: int
    stride: int
    hides: bool

    def grid(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the features of an image of that size (height, width).

        Raises:
            UserError: the model cannot take it.
        """
        if self.hides or len(size) != 2:
            return Patches(patch_size=self.stride).grid(size)
        height, width = size
        try:  # convolutions round up or down, as their padding has it
            with torch.no_grad():
                output = self.model.forward_features(torch.empty(1, self.channels, height, width, device="meta"))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"timm model {self.name!r} cannot take images of {height}x{width}: {error}") from error
        if output.ndim == 3:  # tokens of a grid that only the stride tells
            return Patches(patch_size=self.stride).grid(size)
        rows, columns = output.shape[1:3] if channels_last(self.model) else output.shape[2:]
        return int(rows), int(columns)


def outline(model: str, *, size: tuple[int, int] | None, channels: int, arguments: Mapping[str, Any]) -> Outline:
    """A model without its weights, made once for each set of arguments; as for :func:`create`."""
    return _outline(model, size, channels, json.dumps(dict(arguments)))


@functools.cache
def _outline(name: str, size: tuple[int, int] | None, channels: int, arguments: str) -> Outline:
    with torch.device("meta"):
        model = create(name, size=size, channels=channels, arguments=_tuples(json.loads(arguments))).eval()
    return Outline(name, model, channels, stride_of(model), hides(model))


def hides(model: nn.Module) -> bool:
    """Whether a mask token of the embedding can stand for a token of the output: where patches do not overlap, it is
    all that is left of what it hides."""
    side = patch_side(model)
    return side is not None and stride_of(model) % side == 0


def patch_side(model: nn.Module) -> int | None:
    """Side of the patches in pixels that a model embeds each for itself; None where its embedding overlaps."""
    embed: Any = getattr(model, "patch_embed", None)
    separate = isinstance(embed, importlib.import_module("timm.layers").PatchEmbed)
    return int(embed.patch_size[0]) if separate else None


def channels_last(model: nn.Module) -> bool:
    """Whether maps of features are [R, h, w, D]; the classic families have [R, D, h, w]."""
    return str(getattr(model, "output_fmt", "NCHW")) == "NHWC"


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def stride_of(model: nn.Module) -> int:
    """Pixels between neighbouring tokens of the output."""
    info: Any = getattr(model, "feature_info", None)
    if info:
        entry = info[-1] if isinstance(info, list) else info.info[-1]
        return int(entry["reduction"])
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        raise UserError(f"timm model {type(model).__name__} does not say its stride: it cannot give patch features")
    return int(size[0] if isinstance(size, tuple) else size)
