"""State dictionaries of the references, as they are, become encoders that compute what the references computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.zoo.convert import atst, dinov2, dinov3, vjepa2
from foundation.zoo.convert.base import Converted
from tests.encoders.inputs import inputs
from tests.encoders.test_parity import FORWARD, V2_NAMES, V3_NAMES, close


def state_of(arrays: Mapping[str, np.ndarray], prefix: str = "param/") -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}


def built(made: Converted, **changed: object):
    encoder = replace(made.encoder, **changed).build()
    encoder.load_state_dict(made.tensors)
    return encoder.eval()


@torch.no_grad()
def compare(encoder, arrays, case: str, size: str, kind: str, names: Mapping[str, str]) -> None:
    image = torch.from_numpy(arrays[f"input/{size}/image"])
    mask = torch.from_numpy(arrays[f"input/{size}/mask"]) if kind == "masked" else None
    features = encoder(inputs([image], [mask]))[0]
    for ours, theirs in names.items():
        if getattr(features, ours).shape[1]:
            close(getattr(features, ours), arrays[f"output/{case}/{kind}/{theirs}"], FORWARD)


@pytest.mark.parametrize("name", ["01_dinov2_vit_mlp", "01_dinov2_vit_swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2(golden, name, registers):
    arrays, source = golden(name), dinov2.Config(heads=4)
    state = state_of(arrays)
    if not registers:
        del state["register_tokens"]
    assert source.matches(state)
    made = source.convert(state)
    cases = {key.rsplit("/", 1)[0] for key in arrays if key.startswith(f"output/reg{registers}/")}
    assert cases and made.encoder.registers == registers and not made.left_out
    for case in cases:
        _, which, size, kind = case.split("/")
        # The stored cases of other sizes than the trained one are of the offset, with and without registers.
        position = replace(made.encoder.position, offset=0.1, antialias=False)
        compare(built(made, position=position), arrays, f"{which}/{size}", size, kind, V2_NAMES)


def test_dinov2_in_chunks_of_blocks(golden):
    arrays = golden("01_dinov2_vit_mlp")
    state = state_of(arrays)
    chunked = {
        name.replace("blocks.", "blocks.0.") if name.startswith("blocks.") else name: t for name, t in state.items()
    }
    one, other = (dinov2.Config(heads=4).convert(kind).tensors for kind in (state, chunked))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("released", [False, True])
def test_dinov2_resizes_positions_as_released(golden, released):
    """Models with registers were released with antialiased resizing, those without with an offset."""
    arrays = golden("01_dinov2_vit_mlp")
    encoder = built(dinov2.Config(heads=4).convert(state_of(arrays)))
    if not released:  # what a file without registers says, with the registers of the stored output
        bare = {name: tensor for name, tensor in state_of(arrays).items() if name != "register_tokens"}
        position = dinov2.Config(heads=4).convert(bare).encoder.position
        encoder = built(dinov2.Config(heads=4).convert(state_of(arrays)), position=position)
    start = "output/interp/" + ("antialias1_offset0.0/" if released else "antialias0_offset0.1/")
    sizes = {key.removeprefix(start).split("/")[0] for key in arrays if key.startswith(start)}
    assert len(sizes) == 2
    for size in sizes:
        image = torch.from_numpy(arrays[f"input/{size}/image"])
        close(encoder([image])[0].cls, arrays[f"{start}{size}/x_norm_clstoken"], FORWARD)


@pytest.mark.parametrize("name", ["02_dinov3_vit_mlp", "02_dinov3_vit_swiglu"])
def test_dinov3(golden, name):
    arrays, state = golden(name), state_of(golden(name))
    by_base = str(arrays["arg/pos_embed_rope_base"]) != "None"
    eps = 1e-5 if str(arrays["arg/norm_layer"]) == "rmsnorm" else 1e-6
    source = dinov3.Config(heads=4, norm_eps=eps, normalise=str(arrays["arg/pos_embed_rope_normalize_coords"]))
    assert source.matches(state)
    made = source.convert(state)
    position = made.encoder.position
    if by_base:
        assert position.base == float(arrays["arg/pos_embed_rope_base"])
    else:
        assert (position.base, position.min_period, position.max_period) == (None, 0.5, 90.0)
    assert made.encoder.zero_key_bias == bool(arrays["arg/mask_k_bias"])
    encoder = built(made)
    for size in ("32x32", "48x40"):
        for kind in ("plain", "masked"):
            compare(encoder, arrays, size, size, kind, V3_NAMES)


@pytest.mark.parametrize(("clip", "tokens"), [("video", "full"), ("nonsquare/video", "nonsquare")])
def test_vjepa2(golden, clip, tokens):
    arrays, source = golden("20_vjepa2_encoder"), vjepa2.Config(heads=2, frames=8, size=24)
    assert source.matches(state_of(arrays))
    made = source.convert(state_of(arrays))
    with torch.no_grad():
        (features,) = built(made)([torch.from_numpy(arrays[f"input/{clip}"])])
    close(features.patches, arrays[f"output/{tokens}/tokens"], FORWARD)
    assert made.modality == "video" and made.evaluation.frames == 8 and made.evaluation.size == 24


@pytest.mark.parametrize("kind", ["clip", "frame"])
def test_atst(golden, kind):
    arrays, source = golden("10_atst_encoders"), atst.Config(heads=4)
    state = state_of(arrays, f"param/{kind}/")
    assert source.matches(state)
    made = source.convert(state)
    encoder = built(made)
    stored = "clip/cls" if kind == "clip" else "frame/scene_embedding_last1"
    for row, frames in enumerate(arrays["input/length_frames"].tolist()):
        view = torch.from_numpy(arrays["input/melspec"][row : row + 1, ..., :frames])
        with torch.no_grad():
            cls = encoder([view])[0].cls[0]
        torch.testing.assert_close(cls, torch.from_numpy(arrays[f"output/{stored}"][row]), atol=1e-5, rtol=1e-4)
    assert made.encoder.class_token == (kind == "clip") and not made.left_out
