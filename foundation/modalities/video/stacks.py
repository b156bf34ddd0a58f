"""Stacks of frames in NPY and NPZ members: checked before memory is asked for, never unpickled."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from foundation.data.arrays import array_facts
from foundation.modalities.video.selection import Clip, SelectionConfig, VideoError, choose, reduced

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAMES = ("video", "frames", "arr_0")
"""Arrays of an NPZ that count as the frames; ``times`` (seconds, [T]) may stand beside."""


def read_stack(
    data: bytes, name: str, rate: float, config: SelectionConfig, share: float, origin: tuple[str, str]
) -> Clip:
    """Reads a stack.

    Args:
        data: the member.
        name: of the member; its ending says which format.
        rate: frames per second where the member has no times.
        config: limits, span and rate.
        share: where the span begins.
        place: shard and key, for messages.

    Raises:
        SampleError: the array cannot be trusted or read.
        VideoError: its shape, type or length does not fit.
    """
    import numpy as np

    facts = {fact.name: fact for fact in array_facts(io.BytesIO(data), name, len(data), *origin)}
    chosen_name = "" if "" in facts else next((known for known in _NAMES if known in facts), None)
    if chosen_name is None:
        raise VideoError("missing", f"no array video or frames (arrays: {', '.join(facts) or 'none'})")
    fact = facts[chosen_name]
    if fact.dtype not in ("uint8", "|u1", "u1"):
        raise VideoError("shape", f"frames must be uint8, 0 to 255, not {fact.dtype}: scale and convert them first")
    shape = fact.shape
    if len(shape) == 3 and shape[2] in (1, 3):
        raise VideoError(
            "shape", f"{list(shape)} looks like one picture [H, W, 3]; a clip is [T, H, W] or [T, H, W, 3]"
        )
    if not (len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3)))) or 0 in shape:
        raise VideoError("shape", f"{list(shape)}: frames are [T, H, W], [T, H, W, 3] or [T, 3, H, W]")
    height, width = shape[1:3] if len(shape) == 3 or shape[3] in (1, 3) else shape[2:4]
    if height * width > config.max_pixels:
        reduced(height, width, config)
    if 3 * shape[0] * height * width > config.max_bytes:
        raise VideoError("too_large", f"{list(shape)} is more than max_bytes = {config.max_bytes}")
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    with loaded if chosen_name else io.BytesIO():
        stack = loaded[chosen_name] if chosen_name else loaded
        times = np.asarray(loaded["times"], np.float64) if "times" in facts else np.arange(shape[0]) / rate
    if times.shape != (shape[0],) or (np.diff(times) <= 0).any():
        raise VideoError("shape", f"times must be {shape[0]} ascending seconds, one for each frame")
    if stack.ndim == 3:
        stack = stack[..., None]
    elif stack.shape[3] not in (1, 3):
        stack = stack.transpose(0, 2, 3, 1)
    times = times - times[0]
    end = float(times[-1]) + (float(np.median(np.diff(times)[-9:])) if len(times) > 1 else 1 / rate)
    chosen = choose(times, end, config, share)
    frames = stack[chosen]
    frames = np.repeat(frames, 3, axis=3) if frames.shape[3] == 1 else np.ascontiguousarray(frames)
    return Clip(reduce(frames, config), times[chosen], float(np.append(times, end)[chosen[-1] + 1]))


def reduce(frames: NDArray[np.uint8], config: SelectionConfig) -> NDArray[np.uint8]:
    """Frames [T, H, W, 3] reduced as the config says; antialiased."""
    height, width = frames.shape[1:3]
    size = reduced(height, width, config)
    if size == (height, width):
        return frames
    import numpy as np
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    small = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())
