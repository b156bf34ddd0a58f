"""Layouts of vision transformers in Hugging Face ``transformers``: settings and names of their published files.

Names are those of the files on the hub; every version of the library reads them, whatever it calls its modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foundation.encoders.positions import RotaryPositions
from foundation.zoo.targets.base import Source
from foundation.zoo.targets.images import block_tensors, obstacle, resizes_alike, size_of, table_of

_WHOSE = "the vision transformers of transformers"


@dataclass(frozen=True)
class Folder:
    """What is written of an encoder.

    Attributes:
        architecture: class of the library, such as ``Dinov2Model``.
        settings: of its ``config.json``.
        tensors: by the names of its files.
        note: a sentence for the user, or nothing.
    """

    architecture: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """One architecture of the library.

    Attributes:
        refusal: what stands against it, one sentence; empty for nothing.
        folder: what is written.
    """

    refusal: Callable[[Source], str]
    folder: Callable[[Source], Folder]


def layout_of(source: Source) -> Layout:
    """The architecture that comes nearest to an encoder."""
    encoder = source.encoder
    if obstacle(source, _WHOSE) or isinstance(encoder.positions, RotaryPositions):
        return Layout(_against_dinov3, _dinov3)
    shape = encoder.trunk.shape
    plain = encoder.config.registers == 0 and shape.layer_scale is None and shape.ffn == "mlp"
    return Layout(_against_vit, _vit) if plain else Layout(_against_dinov2, _dinov2)


def _common(source: Source) -> str:
    if reason := obstacle(source, _WHOSE):
        return reason
    if not source.encoder.config.class_token:
        return f"it has no class token, and {_WHOSE} have one"
    return ""


def _against_vit(source: Source) -> str:
    return _common(source)


def _vit(source: Source) -> Folder:
    """``ViTModel``, as DINO's ViTs are published; its pooler hands on the class token."""
    encoder = source.encoder
    table, size, note = table_of(source, keeps=False)
    width = encoder.width
    settings = {
        "model_type": "vit",
        **shape_settings(source),
        "intermediate_size": encoder.trunk.shape.hidden,
        "image_size": list(size),
        "patch_size": encoder.tokenizer.config.patch_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pooler_output_size": width,
        "pooler_act": "linear",
    }
    names = {
        "attention_norm": "layernorm_before",
        "attention.query": "attention.attention.query",
        "attention.key": "attention.attention.key",
        "attention.value": "attention.attention.value",
        "attention.out": "attention.output.dense",
        "ffn_norm": "layernorm_after",
        "ffn.hidden": "intermediate.dense",
        "ffn.out": "output.dense",
    }
    tensors = {
        "embeddings.cls_token": encoder.cls_token,
        "embeddings.position_embeddings": table,
        **named("embeddings.patch_embeddings.projection", encoder.tokenizer.projection),
        **dict(blocks_of(encoder, "encoder.layer", names)),
        **named("layernorm", encoder.trunk.norm),
        "pooler.dense.weight": torch.eye(width),
        "pooler.dense.bias": torch.zeros(width),
    }
    return Folder("ViTModel", settings, tensors, note)


def _against_dinov2(source: Source) -> str:
    if reason := _common(source):
        return reason
    encoder, size = source.encoder, size_of(source)
    grids = [size] if encoder.positions is None else [size, encoder.positions.grid]
    if any(grid[0] != grid[1] for grid in grids):
        return "its images are no squares, and Dinov2Model has positions of squares"
    ratio, shape = encoder.config.mlp_ratio, encoder.trunk.shape
    full = int(shape.width * ratio)
    hidden = full if shape.ffn == "mlp" else (int(full * 2 / 3) + 7) // 8 * 8
    if ratio != int(ratio) or shape.hidden != hidden:
        return (
            f"its feed-forward part ({shape.ffn}, mlp_ratio {ratio:g}) has {shape.hidden} hidden numbers, and that of "
            f"Dinov2Model has {hidden} of a whole mlp_ratio"
        )
    return ""


def _dinov2(source: Source) -> Folder:
    """``Dinov2Model`` or ``Dinov2WithRegistersModel``; without layer scale with factors of 1."""
    encoder, config = source.encoder, source.encoder.config
    registers = config.registers
    table, size, note = table_of(source, resizes_alike(source, antialias=registers > 0))
    settings = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        **shape_settings(source),
        "mlp_ratio": int(config.mlp_ratio),
        "use_swiglu_ffn": encoder.trunk.shape.ffn != "mlp",
        "layerscale_value": 1.0 if config.layer_scale is None else config.layer_scale,
        "image_size": size[0],
        "patch_size": encoder.tokenizer.config.patch_size,
        "use_mask_token": True,
    }
    gated = settings["use_swiglu_ffn"]
    names = {
        "attention_norm": "norm1",
        "attention.query": "attention.attention.query",
        "attention.key": "attention.attention.key",
        "attention.value": "attention.attention.value",
        "attention.out": "attention.output.dense",
        "attention_scale": "layer_scale1.lambda1",
        "ffn_norm": "norm2",
        "ffn.hidden": "mlp.weights_in" if gated else "mlp.fc1",
        "ffn.out": "mlp.weights_out" if gated else "mlp.fc2",
        "ffn_scale": "layer_scale2.lambda1",
    }
    tensors = {
        "embeddings.cls_token": encoder.cls_token,
        "embeddings.mask_token": encoder.mask_token,
        "embeddings.position_embeddings": table,
        **named("embeddings.patch_embeddings.projection", encoder.tokenizer.projection),
        **dict(blocks_of(encoder, "encoder.layer", names, scales=True)),
        **named("layernorm", encoder.trunk.norm),
    }
    if registers:
        settings["num_register_tokens"] = registers
        tensors["embeddings.register_tokens"] = encoder.register_tokens
    return Folder("Dinov2WithRegistersModel" if registers else "Dinov2Model", settings, tensors, note)


def _against_dinov3(source: Source) -> str:
    if reason := _common(source):
        return reason
    position = source.encoder.config.position
    if position.base is None:
        return "the periods of its rotary positions go from min_period to max_period, and DINOv3ViTModel has a base"
    if position.normalise != "separate":
        return (
            f"its rotary positions are measured by position.normalise: {position.normalise}, and those of "
            "DINOv3ViTModel by the length of each side ('separate')"
        )
    if position.frequencies != "pair":
        return "its rotary positions have frequencies of V-JEPA 2 (position.frequencies), those of DINOv3ViTModel not"
    if position.dtype != "float32":
        return f"its rotary tables are {position.dtype}, and those of DINOv3ViTModel float32"
    return ""


def _dinov3(source: Source) -> Folder:
    """``DINOv3ViTModel``; without layer scale with factors of 1."""
    encoder, config = source.encoder, source.encoder.config
    gated = encoder.trunk.shape.ffn != "mlp"
    settings = {
        "model_type": "dinov3_vit",
        **shape_settings(source),
        "intermediate_size": encoder.trunk.shape.hidden,
        "image_size": max(size_of(source)),
        "patch_size": encoder.tokenizer.config.patch_size,
        "rope_theta": float(config.position.base),
        "query_bias": config.qkv_bias,
        "key_bias": config.qkv_bias and not config.zero_key_bias,
        "value_bias": config.qkv_bias,
        "use_gated_mlp": gated,
        "layerscale_value": 1.0 if config.layer_scale is None else config.layer_scale,
        "num_register_tokens": config.registers,
        "pos_embed_shift": config.position.shift,
        "pos_embed_jitter": config.position.jitter,
        "pos_embed_rescale": config.position.rescale,
    }
    settings["hidden_act"] = "silu" if gated else "gelu"
    names = {
        "attention_norm": "norm1",
        "attention.query": "attention.q_proj",
        "attention.key": "attention.k_proj",
        "attention.value": "attention.v_proj",
        "attention.out": "attention.o_proj",
        "attention_scale": "layer_scale1.lambda1",
        "ffn_norm": "norm2",
        "ffn.hidden": "mlp.up_proj",
        "ffn.out": "mlp.down_proj",
        "ffn_scale": "layer_scale2.lambda1",
    }
    blocks = dict(blocks_of(encoder, "layer", names, scales=True))
    if not settings["key_bias"]:
        blocks = {name: tensor for name, tensor in blocks.items() if not name.endswith("k_proj.bias")}
    for name in [name for name in blocks if gated and ".up_proj." in name]:
        blocks[name.replace("up_proj", "gate_proj")], blocks[name] = blocks[name].chunk(2)
    tensors = {
        "embeddings.cls_token": encoder.cls_token,
        "embeddings.mask_token": encoder.mask_token[None],
        "embeddings.register_tokens": torch.zeros(1, 0, encoder.width),
        **named("embeddings.patch_embeddings", encoder.tokenizer.projection),
        **blocks,
        **named("norm", encoder.trunk.norm),
    }
    if config.registers:
        tensors["embeddings.register_tokens"] = encoder.register_tokens
    return Folder("DINOv3ViTModel", settings, tensors)


def shape_settings(source: Source) -> dict[str, Any]:
    """Settings that all layouts call the same."""
    shape = source.encoder.trunk.shape
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": source.encoder.depth,
        "num_attention_heads": shape.heads,
        "num_channels": int(source.view.shape[1]),
        "qkv_bias": shape.qkv_bias,
        "layer_norm_eps": shape.norm_eps,
        "hidden_act": "gelu",
    }


def named(start: str, module: torch.nn.Module) -> dict[str, Tensor]:
    """Tensors of a module under a name."""
    return {f"{start}.{name}": tensor for name, tensor in module.state_dict().items()}


def blocks_of(encoder: Any, start: str, names: dict[str, str], scales: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters of the blocks by the names of a file.

    Args:
        encoder: ours.
        start: of the names, in front of the block's number.
        names: of a block's layers by ours, with queries, keys and values apart.
        scales: the file has factors on the residuals; where the encoder has none they are 1.
    """
    for number, name, tensor in block_tensors(encoder):
        layer, _, kind = name.rpartition(".")
        if layer == "attention.qkv":
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield f"{start}.{number}.{names[f'attention.{part}']}.{kind}", value
        else:
            yield f"{start}.{number}." + (names[name] if name in names else f"{names[layer]}.{kind}"), tensor
    if scales and encoder.config.layer_scale is None:
        for number in range(encoder.depth):
            for part in ("attention_scale", "ffn_scale"):
                yield f"{start}.{number}.{names[part]}", torch.ones(encoder.width)
