"""Our encoder computes what the DINOv2 and DINOv3 references computed (golden files 01 and 02)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.encoders import vit
from foundation.encoders.positions import PositionConfig, RotaryPositions
from foundation.modalities.image import tokenizer
from tests.encoders.inputs import inputs
from tests.encoders.reference_names import our_name, our_weights

FORWARD, GRADIENT = 1e-5, 1e-4


def close(ours: Tensor, reference: np.ndarray, tolerance: float) -> None:
    """The largest difference, relative to the largest entry."""
    wanted = torch.from_numpy(np.asarray(reference))
    assert ours.shape == wanted.shape
    error = (ours.detach() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)
    assert error <= tolerance, f"relative error {error:.2e}"


def dinov2(arrays: dict[str, np.ndarray], registers: int, **position: Any) -> vit.Encoder:
    args = {k.removeprefix("arg/"): v for k, v in arrays.items() if k.startswith("arg/")}
    encoder = vit.Config(
        preset=None,
        width=int(args["embed_dim"]),
        depth=int(args["depth"]),
        heads=int(args["num_heads"]),
        tokenizer=tokenizer.Config(patch_size=int(args["patch_size"])),
        size=(int(args["img_size"]),) * 2,
        position=PositionConfig(kind="learned", **({"offset": 0.1} | position)),
        registers=registers,
        ffn="mlp" if args["ffn_layer"] == "mlp" else "swiglu",
        layer_scale=float(args["init_values"]),
        norm_eps=float(args["layer_norm_eps"]),
    ).build()
    weights = our_weights(arrays)
    if not registers:
        del weights["register_tokens"]
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval()


def dinov3(arrays: dict[str, np.ndarray], dtype: str = "float32") -> vit.Encoder:
    args = {k.removeprefix("arg/"): v for k, v in arrays.items() if k.startswith("arg/")}
    rms = str(args["norm_layer"]) == "rmsnorm"
    by_base = str(args["pos_embed_rope_base"]) != "None"
    encoder = vit.Config(
        preset=None,
        width=int(args["embed_dim"]),
        depth=int(args["depth"]),
        heads=int(args["num_heads"]),
        tokenizer=tokenizer.Config(patch_size=int(args["patch_size"])),
        position=PositionConfig(
            kind="rotary",
            base=float(args["pos_embed_rope_base"]) if by_base else None,
            min_period=None if by_base else float(args["pos_embed_rope_min_period"]),
            max_period=None if by_base else float(args["pos_embed_rope_max_period"]),
            normalise=str(args["pos_embed_rope_normalize_coords"]),
            dtype=dtype,
        ),
        registers=int(args["n_storage_tokens"]),
        ffn=str(args["ffn_layer"]),
        mlp_ratio=float(args["ffn_ratio"]),
        layer_scale=float(args["layerscale_init"]),
        norm="rmsnorm" if rms else "layernorm",
        norm_eps=float(args["rms_norm_eps" if rms else "layer_norm_eps"]),
        separate_class_norm=bool(args["untie_cls_and_patch_norms"]),
        zero_key_bias=bool(args["mask_k_bias"]),
    ).build()
    encoder.load_state_dict(our_weights(arrays), strict=True)
    return encoder.eval()


def check_case(
    encoder: vit.Encoder, arrays: dict[str, np.ndarray], case: str, size: str, kind: str, names: dict[str, str]
) -> None:
    """Outputs, scalar and gradients of one stored case; ``names``: our feature -> the reference's output name."""
    image = torch.from_numpy(arrays[f"input/{size}/image"]).requires_grad_()
    mask = torch.from_numpy(arrays[f"input/{size}/mask"]) if kind == "masked" else None
    features = encoder(inputs([image], [mask]))[0]
    scalar = torch.zeros(())
    for ours, reference in names.items():
        value = getattr(features, ours)
        if value.shape[1] == 0:
            continue
        close(value, arrays[f"output/{case}/{kind}/{reference}"], FORWARD)
        cotangent = f"input/{size}/cotangent_{reference}"
        if cotangent not in arrays:
            cotangent = cotangent.replace("x_norm_", "")
        scalar = scalar + (value * torch.from_numpy(arrays[cotangent])).sum()
    # The sum of many terms of either sign: its noise scales with the terms, not with their sum.
    assert abs(scalar.item() - float(arrays[f"output/{case}/{kind}/scalar"])) < 1e-3
    prefix = f"grad/{case}/{kind}/"
    stored = [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]
    if not stored:
        return
    scalar.backward()
    close(image.grad, arrays[prefix + "image"], GRADIENT)
    parameters = dict(encoder.named_parameters())
    for name in stored:
        if name != "image":
            close(parameters[our_name(name.removeprefix("param/"))].grad, arrays[prefix + name], GRADIENT)


V2_NAMES = {"cls": "x_norm_clstoken", "registers": "x_norm_regtokens", "patches": "x_norm_patchtokens"}
V3_NAMES = {"cls": "x_norm_clstoken", "registers": "x_storage_tokens", "patches": "x_norm_patchtokens"}


@pytest.mark.parametrize("name", ["01_dinov2_vit_mlp", "01_dinov2_vit_swiglu"])
def test_dinov2_outputs_and_gradients(golden, name):
    arrays = golden(name)
    cases = sorted({k.rsplit("/", 1)[0] for k in arrays if k.startswith("output/reg")})
    assert len(cases) >= 7
    for case in cases:
        _, registers, size, kind = case.split("/")
        encoder = dinov2(arrays, int(registers.removeprefix("reg")))
        check_case(encoder, arrays, f"{registers}/{size}", size, kind, V2_NAMES)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_dinov2_interpolated_positions(golden, antialias, offset):
    arrays = golden("01_dinov2_vit_mlp")
    start = f"output/interp/antialias{int(antialias)}_offset{offset}/"
    sizes = sorted({k.removeprefix(start).split("/")[0] for k in arrays if k.startswith(start)})
    assert len(sizes) == 2
    encoder = dinov2(arrays, 4, antialias=antialias, offset=offset)
    for size in sizes:
        height, width = map(int, size.split("x"))
        positions = torch.cat(encoder.positions((height // 4, width // 4)), dim=1)
        close(positions, arrays[f"{start}{size}/pos_embed"], FORWARD)
        image = torch.from_numpy(arrays[f"input/{size}/image"])
        close(encoder([image])[0].cls, arrays[f"{start}{size}/x_norm_clstoken"], FORWARD)


def test_dinov2_intermediate_blocks(golden):
    arrays = golden("01_dinov2_vit_mlp")
    encoder = dinov2(arrays, 4)
    blocks = [int(i) for i in arrays["arg/intermediate_blocks"]]
    size = next(k for k in arrays if k.startswith("output/intermediate/")).split("/")[2]
    image = torch.from_numpy(arrays[f"input/{size}/image"])
    taps = encoder([image], taps=[f"block.{i}" for i in blocks])[0].taps
    for i in blocks:
        normed = encoder.trunk.norm(taps[f"block.{i}"])
        start = f"output/intermediate/{size}/block{i}"
        wanted = arrays[f"{start}/feature_map"]
        close(normed[:, 0], arrays[f"{start}/clstoken"], FORWARD)
        close(normed[:, 5:].transpose(1, 2).reshape(wanted.shape), wanted, FORWARD)


@pytest.mark.parametrize("name", ["02_dinov3_vit_mlp", "02_dinov3_vit_swiglu"])
def test_dinov3_outputs_and_gradients(golden, name):
    arrays = golden(name)
    for size in ("32x32", "48x40"):
        for kind in ("plain", "masked"):
            check_case(dinov3(arrays), arrays, size, size, kind, V3_NAMES)


@pytest.mark.parametrize("name", ["02_dinov3_vit_mlp", "02_dinov3_vit_swiglu"])
def test_dinov3_rotary_tables_list_and_bfloat16(golden, name):
    arrays = golden(name)
    encoder = dinov3(arrays)
    images = [torch.from_numpy(arrays[f"input/{size}/image"]) for size in ("32x32", "48x40")]
    for size, grid in (("32x32", (8, 8)), ("48x40", (12, 10))):
        sin, cos = encoder.positions.tables(grid, "cpu")
        close(sin, arrays[f"output/{size}/rope_sin"], FORWARD)
        close(cos, arrays[f"output/{size}/rope_cos"], FORWARD)
    both = encoder(inputs(images, [torch.from_numpy(arrays["input/32x32/mask"]), None]))
    for i, features in enumerate(both):
        close(features.cls, arrays[f"output/list/{i}/x_norm_clstoken"], FORWARD)
    coarse = dinov3(arrays, "bfloat16")
    close(coarse.positions.periods().float(), arrays["param_bf16_rope/rope_embed.periods"], 0)
    for size, image in zip(("32x32", "48x40"), images, strict=True):
        # Queries and keys are rounded to bfloat16: a last bit of float32 may move a value to the next step (2^-8).
        close(coarse([image])[0].cls, arrays[f"output/{size}/plain_bf16_rope/x_norm_clstoken"], 1e-3)


def test_rotary_tables_of_every_setting(golden):
    arrays = golden("02_dinov3_rope")
    head_width = int(arrays["arg/embed_dim"]) // int(arrays["arg/num_heads"])
    seen = 0
    for key in arrays:
        if not key.endswith("/sin") or key.startswith("output/augmented"):
            continue
        _, dtype, setting, size, _ = key.split("/")
        start, low, *rest = setting.split("_")
        config = (
            PositionConfig(kind="rotary", base=float(start.removeprefix("base")), normalise=low, dtype=dtype)
            if start != "periods"
            else PositionConfig(
                kind="rotary",
                base=None,
                min_period=float(low),
                max_period=float(rest[0]),
                normalise=rest[1],
                dtype=dtype,
            )
        )
        rotary = RotaryPositions(head_width, 1, config)
        rows, columns = map(int, size.split("x"))
        sin, cos = rotary.tables((rows, columns), "cpu")
        # In bfloat16 sin and cos may round to the neighbouring number on another machine.
        tolerance = FORWARD if dtype == "float32" else 2**-8
        close(rotary.periods().float(), arrays[f"output/{dtype}/{setting}/periods"], FORWARD)
        close(sin.float(), arrays[key], tolerance)
        close(cos.float(), arrays[key.removesuffix("sin") + "cos"], tolerance)
        seen += 1
    assert seen == 18


def test_rotary_augmentation(golden):
    arrays = golden("02_dinov3_rope")
    rotary = RotaryPositions(16, 1, PositionConfig(kind="rotary", shift=0.3, jitter=1.5, rescale=2.0))
    draws = tuple(torch.from_numpy(arrays[f"input/augmented/{k}"]) for k in ("shift_hw", "jitter_hw", "rescale"))
    sin, cos = rotary.tables((12, 10), "cpu", draws)
    close(sin, arrays["output/augmented/sin"], FORWARD)
    close(cos, arrays["output/augmented/cos"], FORWARD)
