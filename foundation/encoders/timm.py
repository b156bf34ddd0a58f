"""Adapter: any backbone of the timm library behind the interface of our encoders."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.encoders import timm_weights
from foundation.errors import UserError
from foundation.ranges import ShareBelowOne, Side, check
from foundation.types import Features
from foundation.versions import explain_import_error


@dataclass(frozen=True, kw_only=True)
class Config:
    """A backbone of timm."""

    model: str
    """Name in timm, such as ``vit_small_patch16_224`` or ``resnet50``; ``timm.list_models()`` lists them."""

    pretrained: bool = False
    """Start from timm's published weights, which are downloaded once; false: random weights."""

    weights: str | None = None
    """Start from a ``.safetensors`` file with weights of this model, such as its published ``model.safetensors`` that
    was downloaded on another machine; ``pretrained`` is then not looked at."""

    size: tuple[Side, Side] | None = None
    """Input size at which learned positions are trained; None takes the model's own. Models that can, take any size."""

    channels: Side = 3
    """Colour channels of the image."""

    drop_path: ShareBelowOne = 0.0
    """Share of rows that skip a residual in training, as timm implements it for this model (0 for models without)."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("encoder.model is empty: give a timm name such as 'resnet50' (timm.list_models())")
        check(self, "encoder")
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(side) for side in self.size))

    @property
    def modality(self) -> str:
        """Always ``image``."""
        return "image"

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each patch of an image of that size, [N, 2] (row, column), row-major.

        Raises:
            UserError: the size is no multiple of the model's patch or stride.
        """
        rows, columns = _grid(_stride(self.model), size)
        return np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)

    def build(self) -> TimmEncoder:
        """Make the encoder.

        Raises:
            UserError: timm cannot be imported, or has no such model.
        """
        return TimmEncoder(self)


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


def _create(config: Config, *, weights: bool = True) -> nn.Module:
    timm = import_timm()
    published = _published(timm, config.model)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": config.channels}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    source: AbstractContextManager[None] = nullcontext()
    if weights and torch.get_default_device().type != "meta":  # a plan needs no weights
        if config.weights is not None:
            source = timm_weights.reading(config.model, config.weights)
            options["pretrained_cfg_overlay"] = {"file": config.weights, "custom_load": False}
        elif config.pretrained:
            source = timm_weights.fetching(config.model, published)
        options["pretrained"] = config.pretrained or config.weights is not None
    with source:
        return _first_that_builds(timm, config, options)


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


def _first_that_builds(timm: Any, config: Config, options: dict[str, Any]) -> nn.Module:
    with_size = {"img_size": config.size} if config.size is not None else {}
    # Not every family knows these options; a model without positions takes any size anyway.
    attempts: list[dict[str, Any]] = [{**with_size, "dynamic_img_size": True}, with_size, {}]
    for extra in attempts:
        try:
            model: nn.Module = timm.create_model(config.model, **options, **extra)
            return model
        except TypeError as error:
            if extra == attempts[-1] or "unexpected keyword" not in str(error):
                raise
    raise AssertionError("the last attempt returns or raises")


@functools.cache
def _stride(model: str) -> int:
    """Pixels between neighbouring tokens, without allocating the model."""
    with torch.device("meta"):
        return _stride_of(_create(Config(model=model), weights=False))


def _stride_of(model: nn.Module) -> int:
    """Pixels between neighbouring tokens of the output."""
    info: Any = getattr(model, "feature_info", None)
    if info:
        entry = info[-1] if isinstance(info, list) else info.info[-1]
        return int(entry["reduction"])
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        raise UserError(f"timm model {type(model).__name__} does not say its stride: it cannot give patch features")
    return int(size[0] if isinstance(size, tuple) else size)


def _grid(stride: int, size: tuple[int, ...]) -> tuple[int, int]:
    from foundation.modalities.image.tokenizer import Config as Patches

    return Patches(patch_size=stride).grid(size)


class TimmEncoder(nn.Module):
    """A timm backbone: one pass for each view, the same features as our own encoder.

    Attributes:
        config: what it was built from.
        modality: ``image``.
        width: width D of the features.
        depth: blocks (transformers) or stages.
        supports_masks: whether patches can be hidden: models that embed patches and keep their number.
    """

    modality = "image"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        model: Any = _create(config)
        self.model = model
        self.width = int(model.num_features)
        self.stride = _stride_of(self.model)
        blocks = getattr(self.model, "blocks", None)
        embed: Any = getattr(self.model, "patch_embed", None)
        patch = getattr(embed, "patch_size", None)
        self.is_transformer = isinstance(blocks, nn.Sequential | nn.ModuleList) and embed is not None
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        self.supports_masks = self.is_transformer and patch is not None and int(patch[0]) == self.stride
        self.has_intermediates = hasattr(self.model, "forward_intermediates")
        if self.is_transformer and blocks is not None:
            self.depth = len(blocks)
        else:
            self.depth = len(getattr(self.model, "feature_info", []) or [])
        self._hidden: Tensor | None = None
        if self.supports_masks:
            width = int(getattr(model, "embed_dim", self.width))
            self.mask_token = nn.Parameter(torch.zeros(1, width))
            embed.register_forward_hook(self._hide)
        else:
            self.register_parameter("mask_token", None)

    def forward(
        self,
        views: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        taps: Sequence[str] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> list[Features]:
        """Encode views, one after the other.

        Args:
            views: [R_i, channels, H_i, W_i] each.
            masks: for each view [R_i, N_i] bool, True where the patch is hidden; or None.
            taps: ``block.i``, see ``tap_names``.
            generator: not used: timm draws from torch's own generator.

        Returns:
            Features of each view: ``cls`` the class token, or the pooled feature where the model has none;
            ``registers`` the other prefix tokens.

        Raises:
            UserError: unknown tap, or a mask for a model that cannot hide patches.
        """
        self.check_taps(taps)
        masks = [None] * len(views) if masks is None else list(masks)
        if len(masks) != len(views):
            raise UserError(f"{len(views)} views but {len(masks)} masks: give one for each view (None for no mask)")
        if any(mask is not None for mask in masks):
            self.check_masks()
        return [self._encode(view, mask, taps) for view, mask in zip(views, masks, strict=True)]

    def _encode(self, view: Tensor, mask: Tensor | None, taps: Sequence[str]) -> Features:
        if self.supports_masks:
            _grid(self.stride, (view.shape[2], view.shape[3]))
        self._hidden = mask
        tapped: dict[str, Tensor] = {}
        try:
            if taps:
                places = sorted({int(tap.split(".")[1]) for tap in taps})
                options: dict[str, Any] = {"indices": places}
                if self.is_transformer and self.prefix and self._takes("return_prefix_tokens"):
                    options["return_prefix_tokens"] = True
                output, between = self.model.forward_intermediates(view, **options)
                for place, value in zip(places, between, strict=True):
                    tapped[f"block.{place}"] = self._tap(value)
            else:
                output = self.model.forward_features(view)
        except AssertionError as error:  # so timm says that a model takes one size only
            raise UserError(f"timm model {self.config.model!r} refuses views {list(view.shape)}: {error}") from error
        finally:
            self._hidden = None
        prefix, patches = self._split(output)
        return Features(cls=self._pool(output, patches), registers=prefix[:, 1:], patches=patches, taps=tapped)

    def _takes(self, option: str) -> bool:
        return option in inspect.signature(self.model.forward_intermediates).parameters

    def _tap(self, value: Any) -> Tensor:
        """One intermediate result as [R, tokens, width], prefix tokens in front where the model returns them."""
        patches, prefix = value if isinstance(value, tuple) else (value, None)
        flat = patches.flatten(2).transpose(1, 2) if patches.ndim == 4 else patches
        return flat if prefix is None else torch.cat((prefix, flat), dim=1)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens [R, P, D] and patches [R, N, D] of what ``forward_features`` returns."""
        if output.ndim == 3:
            return output[:, : self.prefix], output[:, self.prefix :]
        # Some families keep channels last; the others are the classic [R, D, h, w].
        channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        patches = output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)
        return patches[:, :0], patches

    def _pool(self, output: Tensor, patches: Tensor) -> Tensor:
        if int(getattr(self.model, "head_hidden_size", self.width) or self.width) != self.width:
            return patches.mean(1)
        pooled: Tensor = self.model.forward_head(output, pre_logits=True)
        return pooled.flatten(1) if pooled.shape[-1] == self.width or pooled.ndim == 4 else patches.mean(1)

    def _hide(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """Put the mask token in place of hidden patches, where the model has just embedded them."""
        if self._hidden is None:
            return None
        hidden = self._hidden.view(*output.shape[:-1]) if output.shape[-1] == self.mask_token.shape[-1] else None
        if hidden is None:
            raise UserError(
                f"timm model {self.config.model!r} embeds patches as {list(output.shape)}: it cannot hide them"
            )
        return torch.where(hidden[..., None], self.mask_token[0].to(output.dtype), output)

    def preprocessing(self) -> dict[str, Any]:
        """How the published weights were fed: ``size``, ``crop_fraction``, ``mean`` and ``std`` of a probe's view."""
        data = self.model.pretrained_cfg or {}
        size = self.config.size[0] if self.config.size else data.get("input_size", (3, 224, 224))[-1]
        return {
            "size": int(size),
            "crop_fraction": float(data.get("crop_pct") or 0.875),
            "mean": list(data.get("mean", (0.485, 0.456, 0.406))),
            "std": list(data.get("std", (0.229, 0.224, 0.225))),
        }

    def check_masks(self) -> None:
        """Refuse masks that this model cannot use.

        Raises:
            UserError: the model has no patch embedding whose tokens reach the end.
        """
        if not self.supports_masks:
            raise UserError(
                f"timm model {self.config.model!r} cannot hide patches: masked objectives such as ibot need a "
                "transformer with one token for each patch (vit_*, deit_*, eva*), or set no masking"
            )

    def tap_names(self) -> list[str]:
        """Everything that can be tapped."""
        return [f"block.{number}" for number in range(self.depth)] if self.has_intermediates else []

    def check_taps(self, taps: Sequence[str]) -> None:
        """Refuse taps that there are not.

        Raises:
            UserError: names the unknown taps and those there are.
        """
        there = self.tap_names()
        unknown = [tap for tap in taps if tap not in there]
        if unknown:
            listing = f"{there[0]} to {there[-1]}" if there else "none"
            raise UserError(
                f"unknown tap {', '.join(map(repr, unknown))}: timm model {self.config.model!r} has {listing}"
            )

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each patch of an image of that size, [N, 2]."""
        return self.config.coordinates(size)

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, for layer-wise decay: 0 for the stem, then timm's grouping, at most depth + 1."""
        return 0 if name == "mask_token" else min(self._layers[name.removeprefix("model.")], self.depth + 1)

    @functools.cached_property
    def _layers(self) -> dict[str, int]:
        helpers = importlib.import_module("timm.models")
        matcher = self.model.group_matcher(coarse=not self.is_transformer)
        return dict(helpers.group_parameters(self.model, matcher, reverse=True))

    def flops(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Estimated floating point operations of a forward pass, counted by torch on one row of each view.

        Args:
            shapes: (R, channels, H, W) of the views.
        """
        from torch.utils.flop_counter import FlopCounterMode

        place = next(self.parameters())
        total, training = 0, self.training
        self.eval()
        for rows, *rest in shapes:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self([torch.zeros(1, *rest, dtype=place.dtype, device=place.device)])
            total += rows * counter.get_total_flops()
        self.train(training)
        return total
