"""The layout of V-JEPA 2 in Hugging Face ``transformers``: the encoder alone, without its predictor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foundation.encoders import vit
from foundation.modalities.video.tokenizer import VideoTokenizer
from foundation.zoo.convert.vjepa2 import POSITION, order_of_heads
from foundation.zoo.targets.base import Source
from foundation.zoo.targets.hub_layouts import Folder, Layout, blocks_of, named, shape_settings

ARCHITECTURE = "VJEPA2Model"
NOTE = "the predictor is not written and would be random: call the model with skip_predictor=True"


def takes(source: Source) -> bool:
    """Whether it is an encoder of clips, of which V-JEPA 2's is the one that the library has."""
    return isinstance(source.encoder, vit.Encoder) and isinstance(source.encoder.tokenizer, VideoTokenizer)


def _refusal(source: Source) -> str:
    encoder, config = source.encoder, source.encoder.config
    position, tokenizer = config.position, config.tokenizer
    wanted = {
        "class_token": (config.class_token, False),
        "registers": (config.registers, 0),
        "tokenizer.stem": (tokenizer.stem, "patch"),
        "tokenizer.shows": (tokenizer.shows, "frames"),
        "position.kind": (position.kind, POSITION.kind),
        "position.base": (position.base, POSITION.base),
        "position.normalise": (position.normalise, POSITION.normalise),
        "position.frequencies": (position.frequencies, POSITION.frequencies),
        "position.dtype": (position.dtype, POSITION.dtype),
        "norm": (config.norm, "layernorm"),
        "layer_scale": (config.layer_scale, None),
        "ffn": (encoder.trunk.shape.ffn, "mlp"),
    }
    for name, (has, theirs) in wanted.items():
        if has != theirs:
            return f"its {name} is {has}, and that of {ARCHITECTURE}, the library's encoder of clips, {theirs}"
    height, width = source.view.shape[-2:]
    return "" if height == width else f"its clips are {height} x {width} pixels, and those of {ARCHITECTURE} are square"


def _folder(source: Source) -> Folder:
    encoder, config = source.encoder, source.encoder.config
    _, _, frames, side, _ = source.view.shape
    heads = encoder.heads
    order = order_of_heads(encoder.width // heads).argsort()

    def theirs(name: str, tensor: Tensor) -> Tensor:
        """Heads of queries and keys in the order of the release."""
        if not name.endswith(("query.weight", "query.bias", "key.weight", "key.bias")):
            return tensor
        return tensor.unflatten(0, (heads, -1))[:, order].flatten(0, 1)

    settings: dict[str, Any] = {
        "model_type": "vjepa2",
        **shape_settings(source),
        "in_chans": config.tokenizer.channels,
        "mlp_ratio": config.mlp_ratio,
        "patch_size": config.tokenizer.patch_size,
        "tubelet_size": config.tokenizer.tubelet,
        "crop_size": int(side),
        "frames_per_clip": int(frames),
        "pred_num_hidden_layers": 1,
        "pred_hidden_size": encoder.width,
        "pred_num_attention_heads": heads,
    }
    names = {
        "attention_norm": "norm1",
        "attention.query": "attention.query",
        "attention.key": "attention.key",
        "attention.value": "attention.value",
        "attention.out": "attention.proj",
        "ffn_norm": "norm2",
        "ffn.hidden": "mlp.fc1",
        "ffn.out": "mlp.fc2",
    }
    blocks = {name: theirs(name, tensor) for name, tensor in blocks_of(encoder, "encoder.layer", names)}
    tensors = {
        **named("encoder.embeddings.patch_embeddings.proj", encoder.tokenizer.projection),
        **blocks,
        **named("encoder.layernorm", encoder.trunk.norm),
    }
    return Folder(ARCHITECTURE, settings, tensors, NOTE)


LAYOUT = Layout(_refusal, _folder)


@torch.no_grad()
def outputs(model: Any, view: Tensor) -> dict[str, Tensor]:
    """Of a clip [batch, channels, frames, height, width], as the library's ``VJEPA2Model`` gives them."""
    tokens: Tensor = model(view.transpose(1, 2), skip_predictor=True).last_hidden_state
    return {"cls": tokens.mean(1), "patches": tokens}
