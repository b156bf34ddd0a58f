"""A folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads: name, arguments, weights."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from foundation.encoders import timm_registers
from foundation.encoders.positions import RotaryPositions
from foundation.encoders.timm import TimmEncoder
from foundation.encoders.timm_models import channels_last, import_timm
from foundation.files import write_file
from foundation.zoo.targets.base import CARD, Outputs, Reader, Source
from foundation.zoo.targets.images import block_tensors, obstacle, resizes_alike, size_of, table_of

FILES = ("config.json", "model.safetensors", CARD)
BLOCK = {
    "attention_norm": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "attention_scale": "ls1.gamma",
    "ffn_norm": "norm2",
    "ffn.hidden": "mlp.fc1",
    "ffn.out": "mlp.fc2",
    "ffn_scale": "ls2.gamma",
}
"""Layers of a block by our names: timm's names, which are those of ViT, DINO and DINOv2 too."""
_NAMED = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
_EPS = 1e-6
_WHOSE = "timm's vision transformers"


@dataclass(frozen=True, kw_only=True)
class Config:
    """timm."""

    def build(self) -> Timm:
        """The target."""
        return Timm()


class Timm:
    """``config.json`` (``architecture``, ``model_args``, preprocessing), ``model.safetensors`` and our card."""

    packages: tuple[str, ...] = ()
    tolerance = 1e-5
    ending = ""

    def beside(self, path: Path) -> Sequence[Path]:
        """What is in the folder."""
        return [path / name for name in FILES]

    def refusal(self, source: Source) -> str:
        """What stands against an equal VisionTransformer of timm."""
        encoder = source.encoder
        if isinstance(encoder, TimmEncoder):
            return ""
        if reason := obstacle(source, _WHOSE):
            return reason
        if isinstance(encoder.positions, RotaryPositions):
            return f"its positions are rotary (position.kind), and {_WHOSE} learn theirs"
        if encoder.config.norm_eps != _EPS:
            return f"its norms add {encoder.config.norm_eps:g} (norm_eps), and those of {_WHOSE} {_EPS:g}"
        return ""

    def write(self, source: Source, path: Path) -> Sequence[str]:
        """Arguments and weights."""
        if isinstance(source.encoder, TimmEncoder):
            name, arguments, tensors, note = _own(source.encoder)
        else:
            name, arguments, tensors, note = _converted(source)
        height, width = size_of(source)
        evaluation = source.preprocessing
        content = {
            "architecture": name,
            "num_classes": 0,
            "num_features": source.encoder.width,
            "global_pool": arguments.get("global_pool", "token"),
            "model_args": arguments,
            "pretrained_cfg": {
                "num_classes": 0,
                "input_size": [int(source.view.shape[1]), height, width],
                "fixed_input_size": False,
                "interpolation": "bicubic",
                "crop_pct": evaluation["crop_fraction"],
                "crop_mode": "center",
                "mean": list(evaluation["mean"]),
                "std": list(evaluation["std"]),
            },
        }
        write_file(path / FILES[0], json.dumps(content, indent=1).encode())
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path / FILES[1])
        write_file(path / CARD, json.dumps(source.card(), indent=1).encode())
        return [note] if note else []

    def read(self, path: Path) -> Reader:
        """By ``timm.create_model``, as its users do."""
        model: Any = import_timm().create_model(f"local-dir:{path}", pretrained=True).eval()
        # Of families that are no transformers the one or the other is missing, as the adapter has it.
        prefix, class_token = int(getattr(model, "num_prefix_tokens", 0)), getattr(model, "cls_token", None) is not None

        @torch.no_grad()
        def run(view: Tensor) -> Outputs:
            tokens: Tensor = model.forward_features(view)
            pooled = model.forward_head(tokens, pre_logits=True).flatten(1)
            if tokens.ndim == 4:
                tokens = tokens.flatten(1, 2) if channels_last(model) else tokens.flatten(2).transpose(1, 2)
            found = {"cls": pooled, "patches": tokens[:, prefix:]}
            return found | ({"registers": tokens[:, class_token:prefix]} if prefix > class_token else {})

        return run


def _converted(source: Source) -> tuple[str, dict[str, Any], dict[str, Tensor], str]:
    """Name and arguments in timm, weights by timm's names, and a note."""
    encoder, config = source.encoder, source.encoder.config
    shape, gated = config.shape, config.shape.ffn != "mlp"
    table, size, note = table_of(source, resizes_alike(source, antialias=True))
    arguments: dict[str, Any] = {
        "img_size": list(size),
        "patch_size": config.tokenizer.patch_size,
        "in_chans": config.tokenizer.channels,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": _ratio(2 * encoder.trunk.shape.hidden, shape.width) if gated else config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        # timm's DINOv2 with gates has factors on the residuals, which None does not take away.
        "init_values": 1.0 if config.layer_scale is None and gated else config.layer_scale,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "no_embed_class": bool(config.registers),
        "global_pool": "token" if config.class_token else "avg",
        "fc_norm": False,
        "pos_embed": "none" if encoder.positions is None else "learn",
        "dynamic_img_size": True,
    }
    projection = encoder.tokenizer.projection.state_dict()
    tensors = {f"patch_embed.proj.{name}": tensor.detach() for name, tensor in projection.items()}
    if config.class_token:
        tensors["cls_token"] = encoder.cls_token.detach()
        if config.registers:  # as in timm's DINOv2 with registers, what is added to the class token is in it
            tensors["cls_token"] = tensors["cls_token"] + table[:, :1]
    if config.registers:
        tensors["reg_token"] = encoder.register_tokens.detach()
    if encoder.positions is not None:
        tensors["pos_embed"] = table[:, 1:] if config.registers or not config.class_token else table
    for number, name, tensor in block_tensors(encoder):
        layer, _, kind = name.rpartition(".")
        named = BLOCK[name] if name in BLOCK else f"{BLOCK[layer]}.{kind}"
        tensors[f"blocks.{number}.{named}"] = tensor
    if config.layer_scale is None and gated:
        for number, name in itertools.product(range(shape.depth), ("attention_scale", "ffn_scale")):
            tensors[f"blocks.{number}.{BLOCK[name]}"] = torch.ones(shape.width)
    tensors |= {f"norm.{name}": tensor.detach() for name, tensor in encoder.trunk.norm.state_dict().items()}
    model = "vit_giant_patch14_dinov2" if gated else f"vit_{_NAMED.get(shape.width, 'base')}_patch16_224"
    return model, arguments, tensors, note


def _ratio(hidden: int, width: int) -> float:
    """``mlp_ratio`` of a hidden width: timm rounds their product down."""
    ratio = hidden / width
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _own(encoder: TimmEncoder) -> tuple[str, dict[str, Any], dict[str, Tensor], str]:
    """The same for a model that is timm's: with the arguments that it was built with."""
    config, model = encoder.config, encoder.model
    arguments: dict[str, Any] = {**config.arguments, **timm_registers.arguments(config.registers)}
    if config.channels != 3:
        arguments["in_chans"] = config.channels
    if config.size is not None:
        arguments["img_size"] = list(config.size)
    tensors = {name: value.detach() for name, value in model.state_dict().items()}
    return config.model.partition(".")[0], arguments, tensors, ""
