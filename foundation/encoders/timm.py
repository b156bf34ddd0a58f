"""Adapter: backbones of the timm library (ViT, Swin, ResNet, ConvNeXt and others) behind the interface of encoders."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.encoders import timm_registers
from foundation.encoders.elastic import Leading, Piece, Slice, SubNetwork
from foundation.encoders.pictures import PictureEncoder
from foundation.encoders.protocol import Capabilities, Encoder, EncoderConfig, EncoderInput, Inputs, inputs_of
from foundation.encoders.segments import choose
from foundation.encoders.timm_elastic import Family, family_of
from foundation.encoders.timm_models import Outline, channels_last, create, hides, outline, patch_side, stride_of
from foundation.errors import UserError
from foundation.modalities.lattice import lattice
from foundation.ranges import Range, ShareBelowOne, Side, check
from foundation.types import Features

_SET_BY_FIELDS = {
    "in_chans": "channels",
    "img_size": "size",
    "drop_path_rate": "drop_path",
    "pretrained": "pretrained",
    "checkpoint_path": "weights",  # timm would unpickle it
    "pretrained_cfg": "weights",
    "pretrained_cfg_overlay": "weights",
}
_NOT_FOR_FEATURES = ("num_classes", "features_only", "global_pool", "cache_dir", "scriptable", "exportable")


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
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

    registers: Annotated[int, Range(0, 1024)] = 0
    """Register tokens to add to a ViT that has none (Darcet et al. 2024), without positions and drawn from
    N(0, 1 / width); published weights and those of a file keep their meaning. Models that have registers need no
    number here."""

    drop_path: ShareBelowOne = 0.0
    """Share of rows that skip a residual in training, as timm implements it for this model (0 for models without)."""

    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the model in timm, for shapes that have no name: ``{patch_size: 4, depth: 6}`` of a ViT,
    ``{embed_dim: 48, window_size: 4}`` of a Swin."""

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("encoder.model is empty: give a timm name such as 'resnet50' (timm.list_models())")
        check(self, "encoder")
        if self.size is not None:
            object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        for name in self.arguments:
            if name in _SET_BY_FIELDS:
                raise UserError(f"encoder.arguments.{name}: use encoder.{_SET_BY_FIELDS[name]}")
            if name in _NOT_FOR_FEATURES:
                raise UserError(f"encoder.arguments.{name} cannot be set: the encoder reads features, no classes")
        both = sorted({"reg_tokens", "no_embed_class"} & self.arguments.keys()) if self.registers else []
        if both:
            raise UserError(
                f"encoder.arguments.{both[0]} cannot be set together with encoder.registers: use the latter"
            )
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in self.arguments.items()}
        object.__setattr__(self, "arguments", lists)

    @property
    def modality(self) -> str:
        """Always ``image``."""
        return "image"

    def coordinates(self, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Place of each token of the output for an image of that size, [N, 2] (row, column), row-major.

        Raises:
            UserError: the model cannot take the size; one that embeds patches wants a multiple of its stride.
        """
        return lattice(self.outline.grid(tuple(size)))

    @property
    def published(self) -> str | None:
        return f"timm:{self.model}" if self.pretrained and self.weights is None else None

    @property
    def outline(self) -> Outline:
        """The model without its weights, and without the registers that it is given."""
        return outline(self.model, size=self.size, channels=self.channels, arguments=self.arguments)

    def build(self) -> TimmEncoder:
        """Make the encoder.

        Raises:
            UserError: timm cannot be imported, has no such model, or the model cannot be given registers.
        """
        return TimmEncoder(self)


class TimmEncoder(PictureEncoder):
    """A timm backbone: one pass for each view, the same features as our own encoder.

    Masks are given on the grid of the output. Where the embedding's is finer (Swin: stride 4 in front, 32 at the end),
    each masked token hides all embedded patches that it covers, as in SimMIM (Xie et al. 2022) and iBOT.

    Attributes:
        config: what it was built from.
        modality: ``image``.
        width: width D of the features.
        depth: blocks (transformers) or stages, as many as there are taps.
        prefix: class and register tokens.
        stride: pixels between neighbouring tokens of the output.
    """

    modality = "image"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.registers:
            timm_registers.check(config.outline)
        added = timm_registers.arguments(config.registers)
        make = functools.partial(create, config.model, size=config.size, channels=config.channels)
        start: dict[str, Any] = {"pretrained": config.pretrained, "weights": config.weights}
        model: Any = make(
            drop_path=config.drop_path, arguments={**config.arguments, **added}, **({} if added else start)
        )
        self.model = model
        self.width = int(model.num_features)
        self.stride = stride_of(model)
        blocks: Any = getattr(model, "blocks", None)
        embed: Any = getattr(model, "patch_embed", None)
        self.is_transformer = isinstance(blocks, nn.Sequential | nn.ModuleList) and embed is not None
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        self.has_intermediates = hasattr(model, "forward_intermediates")
        self.stages = _stages(model)
        self.depth = len(blocks) if self.is_transformer else len(self.stages)
        self.patch_side = patch_side(model)
        self.hides = hides(model)
        self._hidden: Tensor | None = None
        self._family = family_of(config, model)
        if self.hides:
            self.mask_token = nn.Parameter(torch.zeros(1, int(embed.proj.out_channels)))
            embed.register_forward_hook(self._hide)
        else:
            self.register_parameter("mask_token", None)
        if config.registers:
            timm_registers.reset(model)
            if (config.pretrained or config.weights) and not model.reg_token.is_meta:
                plain = make(arguments=config.arguments, **start).state_dict()
                model.load_state_dict(timm_registers.adopted(plain, model.state_dict()))

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, which depends on the family."""
        return Capabilities(
            hides=self.hides,
            overwrites=True,
            cell_shape=(self.config.channels, self.stride, self.stride),
            elastic=self._family is not None,
            cannot_hide=""
            if self.hides
            else f"timm model {self.config.model!r} cannot hide patches: masked objectives such as ibot need a model "
            "that embeds separate patches (vit_*, deit_*, eva*, swin*), or set no masking",
        )

    def forward(
        self, inputs: Inputs, taps: Sequence[str] = (), *, generator: torch.Generator | None = None
    ) -> list[Features]:
        """Encode views, one after the other.

        Args:
            inputs: tensors [R_i, channels, H_i, W_i], or inputs with such a view.
            taps: ``block.i``, see ``tap_names``.
            generator: not used: timm draws from torch's own generator.

        Returns:
            Features of each input: ``cls`` the class token, or the pooled feature where the model has none;
            ``registers`` the other prefix tokens.

        Raises:
            UserError: unknown tap; a mask for a model that cannot hide patches; tokens to leave out, or padding.
        """
        self.check_taps(taps)
        return [self._encode(one, taps) for one in inputs_of(inputs)]

    def _encode(self, given: EncoderInput, taps: Sequence[str]) -> Features:
        view = given.view
        if given.mask is not None and not self.hides:
            raise UserError(self.capabilities.cannot_hide)
        if given.left_out is not None or given.valid is not None:
            what = "leave tokens out" if given.valid is None else "leave padding out"
            raise UserError(f"timm model {self.config.model!r} cannot {what}: encoder 'vit' can")
        if self.hides:
            self.config.coordinates((view.shape[2], view.shape[3]))  # refuses sizes that do not fit
        self._hidden = None if given.mask is None else self._on_grid(given.mask, view)
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
        pooled = self._pool(output, patches)
        return Features(cls=pooled, registers=prefix[:, 1:], patches=choose(patches, given.wanted), taps=tapped)

    def _takes(self, option: str) -> bool:
        return option in inspect.signature(self.model.forward_intermediates).parameters

    def _tap(self, value: Any) -> Tensor:
        """One intermediate result as [R, tokens, width], prefix tokens in front where the model returns them."""
        patches, prefix = value if isinstance(value, tuple) else (value, None)
        flat = rearrange(patches, "r d h w -> r (h w) d") if patches.ndim == 4 else patches
        return flat if prefix is None else torch.cat((prefix, flat), dim=1)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens [R, P, D] and patches [R, N, D] of what ``forward_features`` returns."""
        if output.ndim == 3:
            return output[:, : self.prefix], output[:, self.prefix :]
        # Some families keep channels last; the others are the classic [R, D, h, w].
        last = channels_last(self.model)
        patches = rearrange(output, "r h w d -> r (h w) d" if last else "r d h w -> r (h w) d")
        return patches[:, :0], patches

    def _pool(self, output: Tensor, patches: Tensor) -> Tensor:
        if int(getattr(self.model, "head_hidden_size", self.width) or self.width) != self.width:
            return patches.mean(1)
        pooled: Tensor = self.model.forward_head(output, pre_logits=True)
        return pooled.flatten(1) if pooled.shape[-1] == self.width or pooled.ndim == 4 else patches.mean(1)

    def _on_grid(self, mask: Tensor, view: Tensor) -> Tensor:
        """A mask [R, N] on the grid of the embedding, [R, h, w]."""
        rows, columns = view.shape[2] // self.stride, view.shape[3] // self.stride
        if mask.shape != (len(view), rows * columns):
            raise UserError(
                f"mask is {list(mask.shape)}, but the view has {[len(view), rows * columns]} rows and tokens"
            )
        assert self.patch_side is not None
        finer = self.stride // self.patch_side
        grid = mask.view(len(view), rows, columns)
        return grid.repeat_interleave(finer, 1).repeat_interleave(finer, 2)

    def _hide(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """Put the mask token in place of hidden patches, where the model has just embedded them."""
        if self._hidden is None:
            return None
        if output.shape[-1] != self.mask_token.shape[-1]:
            raise UserError(
                f"timm model {self.config.model!r} embeds patches as {list(output.shape)}: it cannot hide them"
            )
        hidden = self._hidden.reshape(output.shape[:-1])
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

    @property
    def full_size(self) -> SubNetwork:
        """Its own size; width is that of a Swin's first stage, or of the middle of a ResNet's first bottlenecks."""
        return super().full_size if self._family is None else self._family.full

    def check_size(self, size: SubNetwork) -> None:
        """Refuse sizes that this model has no part of.

        Raises:
            UserError: says which there are, or which families can be cut.
        """
        self._elastic().check(size)

    def slice_of(self, size: SubNetwork) -> Slice:
        """What a smaller network takes from this one, see :mod:`foundation.encoders.timm_elastic`.

        Raises:
            UserError: as :meth:`check_size`.
        """
        found = self._elastic().slice_of(size)
        if self.mask_token is None:
            return found
        hidden = Piece("mask_token", (slice(None), Leading(size.width)))  # as wide as the embedding
        return replace(found, pieces={**found.pieces, "mask_token": hidden})

    def _elastic(self) -> Family:
        if self._family is None:
            raise UserError(
                f"timm model {self.config.model!r} cannot be cut into smaller ones: Swin (swin_*) and ResNets of plain "
                "bottlenecks (resnet50, resnet101, resnet152, resnet50_gn) can, and encoder 'vit'"
            )
        return self._family

    def tap_names(self) -> list[str]:
        """Everything that can be tapped: tokens behind each block or stage."""
        return [f"block.{number}" for number in range(self.depth)] if self.has_intermediates else []

    def layer_of(self, name: str) -> int:
        """Layer of a parameter: 0 for the stem, positions and tokens, i + 1 for what leads to tap i, depth + 1 for the
        rest (the last norm). One that was put into a layer, such as a low-rank update, lies where that layer does.

        Raises:
            KeyError: there is no such parameter.
        """
        if name == "mask_token":
            return 0
        inner = name.removeprefix("model.")
        if inner in self._layers:
            return self._layers[inner]
        while "." in inner:
            inner = inner.rpartition(".")[0]
            for known, layer in self._layers.items():
                if known.startswith(f"{inner}."):
                    return layer
        raise KeyError(name)

    @functools.cached_property
    def _layers(self) -> dict[str, int]:
        names = [name for name, _ in self.model.named_parameters()]
        layers: dict[str, int] = {}
        layer = self.depth + 1
        for name in reversed(names):  # what lies in front of a stage and in no other leads to it
            layer = next((i + 1 for i, stage in enumerate(self.stages) if name.startswith(f"{stage}.")), layer)
            layers[name] = 0 if name in self._stem else layer
        return layers

    @functools.cached_property
    def _stem(self) -> frozenset[str]:
        """Parameters in front of the first block or stage, as timm groups them."""
        models = importlib.import_module("timm.models")
        groups = models.group_parameters(self.model, self.model.group_matcher(coarse=True), reverse=True)
        return frozenset(name for name, group in groups.items() if group == 0)

    def is_patch_embed(self, name: str) -> bool:
        """Whether a parameter belongs to the patch embedding, or to the stem of a model without one."""
        own = name.removeprefix("model.")
        if isinstance(getattr(self.model, "patch_embed", None), nn.Module):
            return own.startswith("patch_embed.")
        return own in self._stem

    def adopted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this encoder or of the same without registers."""
        if not self.config.registers:
            return dict(weights)
        own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
        rest = {name: value for name, value in weights.items() if not name.startswith("model.")}
        made = timm_registers.adopted(own, self.model.state_dict())
        return {**rest, **{f"model.{name}": value for name, value in made.items()}}


def _stages(model: Any) -> list[str]:
    """Modules behind which timm reads features, first to last."""
    info = getattr(model, "feature_info", None) or []
    return [str(entry["module"]) for entry in (info if isinstance(info, list) else info.info)]


_fulfils: type[Encoder] = TimmEncoder  # for the type checker
