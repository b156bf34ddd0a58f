"""Encoders that other libraries make: timm, and the image towers of open_clip."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from foundation.errors import UserError
from foundation.plugins import resolve
from foundation.seeded import seeded
from foundation.weights import check_finite
from foundation.zoo.entry import is_name
from foundation.zoo.loaded import LoadedEncoder, evaluation_of


def from_timm(name: str, device: torch.device | str, fetch: bool) -> LoadedEncoder:
    """An encoder of timm: ``NAME``, ``NAME,weights=FILE.safetensors`` or ``NAME,random``; see
    :func:`foundation.zoo.load.load_encoder`."""
    model, _, option = name.partition(",")
    option, _, file = option.partition("=")
    if (option, bool(file)) not in (("", False), ("pretrained", False), ("random", False), ("weights", True)):
        raise UserError(
            f"timm:{name}: after the comma stands 'random' or 'weights=FILE.safetensors'; without it the published "
            "weights are taken"
        )
    kind = resolve("foundation.encoders.{name}", "timm").Config
    encoder_config = kind(model=model, pretrained=option in ("", "pretrained"), weights=file or None)
    said = {"random": "random weights", "weights": f"weights of {file}"}.get(option, "published weights")
    absent = encoder_config.pretrained and not fetch
    return _of_library(encoder_config, f"timm:{name}", f"timm {model} ({said})", device, absent)


def from_open_clip(name: str, device: torch.device | str, fetch: bool) -> LoadedEncoder:
    """The image tower of a model of open_clip, see :func:`foundation.zoo.load.load_encoder`."""
    model, _, option = name.partition(",")
    option, _, value = option.partition("=")
    if (option, bool(value)) not in (("random", False), ("pretrained", True), ("weights", True)):
        from foundation.encoders.open_clip_models import shape_of, tags_of

        tags = tags_of(shape_of(model).name)
        raise UserError(
            f"open_clip:{name}: after the name and a comma stands 'pretrained=TAG', 'weights=FILE.safetensors' or "
            f"'random'; of the tags {tags}"
        )
    kind = resolve("foundation.encoders.{name}", "open_clip").Config
    encoder_config = kind(model=model, **({option: value} if value else {}))
    said = {"random": "random weights", "weights": f"weights of {value}"}.get(option, f"published weights {value}")
    absent = encoder_config.pretrained is not None and not fetch
    return _of_library(encoder_config, f"open_clip:{name}", f"open_clip {model} ({said})", device, absent)


def _of_library(
    encoder_config: Any, source: str, description: str, device: torch.device | str, absent: bool
) -> LoadedEncoder:
    """An encoder that another library makes; ``absent``: its weights are not to be had, and not needed."""
    if absent:
        device = "meta"
        with torch.device(device):
            encoder = encoder_config.build()
    else:
        with seeded(0):
            encoder = encoder_config.build()
        check_finite(encoder.state_dict(), source)
    return LoadedEncoder(
        encoder=encoder.to(device).eval().requires_grad_(False),
        modality="image",
        evaluation=evaluation_of("image", encoder.preprocessing(), source),
        description=description,
        sha256=None,
        folder=None,
        config=encoder_config,
        name=encoder_config.model,
    )


def near_model(text: str) -> str:
    """A hint for a bare word that is the name of a timm model, such as ``resnet18``; empty for any other."""
    if not is_name(text):
        return ""
    with suppress(ImportError, RuntimeError):
        import timm

        if timm.is_model(text):
            return f"; did you mean timm:{text}?"
    return ""
