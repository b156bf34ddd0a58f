"""From the bytes of one video file, or of a stack of frames, to the frames that are wanted and the times they show.

The container's packets are listed first, which decodes nothing: they give every frame's time stamp, so that variable
frame rates are honoured, frames can be chosen, and decoding starts at the key frame before the first one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from foundation.data import members
from foundation.errors import SampleError
from foundation.modalities.video import pyav
from foundation.modalities.video.selection import SelectionConfig, VideoError
from foundation.modalities.video.stacks import read_stack
from foundation.ranges import Range

if TYPE_CHECKING:
    from foundation.counter import Draws
    from foundation.types import Sample

CONTAINERS = (
    *("mp4", "mkv", "webm", "mov", "m4v", "avi", "mpg", "mpeg", "ts", "ogv", "gif"),
    *("mts", "m2ts", "wmv", "asf", "flv", "3gp", "3g2", "vob", "m2v", "mxf", "ivf", "h264", "hevc"),
)
STACKS = ("video.npy", "video.npz", "frames.npy", "frames.npz", "npy", "npz")
EXTENSIONS = (*CONTAINERS, *STACKS)
"""Members that count as the video of a sample, in the order in which they are looked for; containers go first, since
a bare ``npy`` beside a container is usually another sensor's."""

_RATES = ("video_rate", "fps", "frame_rate")


@dataclass(frozen=True, kw_only=True)
class Config(SelectionConfig):
    """How video files become frames."""

    member: str | None = None
    """The video's member, such as ``mp4`` or ``left.mp4``; None: the first with a video's extension."""
    label: str = "label"
    """Key of the class number in a sample's ``json`` member, used where it has no ``cls`` member."""
    stack_rate: Annotated[float, Range(0, 1e5, above=True)] = 25.0
    """Frames per second of stacks (npy, npz) whose ``json`` has no ``video_rate``, ``fps`` or ``frame_rate``."""

    def __post_init__(self) -> None:
        SelectionConfig.__post_init__(self)

    def build(self) -> VideoDecoder:
        """The function from a raw sample to a sample."""
        return VideoDecoder(self)


class VideoDecoder:
    """Decodes the video and the label of one sample. See :func:`decode`."""

    takes_draws = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, raw: Mapping[str, Any], draws: Draws | None = None) -> Sample:
        return decode(raw, self.config, draws)


def decode(raw: Mapping[str, Any], config: Config | None = None, draws: Draws | None = None) -> Sample:
    """Decodes the video and the label of one sample.

    Args:
        raw: members of the sample by extension (bytes), with ``__key__``, ``__shard__`` and ``__id__``.
        config: limits; the defaults when absent.
        draws: random numbers of this sample; where the span that is read begins. None: the middle of the video. The
            stream is ``span`` for every modality, so that sensors of one sample give the same part of it.

    Returns:
        ``video``: uint8 [T, 3, H, W] RGB, upright, whose memory is [T, H, W, 3]; ``video_times``: float64 [T], when
        each frame begins to be shown, seconds from the start of the file's video; ``video_rate``: frames per second of
        what is returned, on average; ``video_end``: when the last frame stops being shown, seconds; and ``label``
        (a number, a name or several) where there is one.

    Raises:
        SampleError: reason ``missing``, ``empty``, ``truncated``, ``decode``, ``corrupt`` (frames in the middle),
            ``too_large``, ``too_short`` or ``shape``.
        UserError: PyAV is not installed.
    """
    import torch

    config = config or Config()
    name = members.required(raw, config.member, EXTENSIONS, "video")
    data, origin = raw[name], members.origin_of(raw)
    share = 0.5 if draws is None else float(draws.uniform("span", 1)[0, 0])
    if not data:
        raise SampleError(*origin, "empty", f"{name}: no bytes")
    try:
        if name.lower().rpartition(".")[2] in ("npy", "npz"):
            clip = read_stack(data, name, _stack_rate(raw, config), config, share, origin)
        else:
            clip = pyav.read(data, config, share)
    except VideoError as error:
        raise SampleError(*origin, error.reason, f"{name} ({len(data)} bytes): {error}") from error.__cause__
    sample: Sample = {k: v for k, v in raw.items() if k.startswith("__")}
    sample["video"] = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
    sample["video_times"], sample["video_end"] = clip.times, clip.end
    sample["video_rate"] = len(clip.times) / (clip.end - float(clip.times[0]))
    members.note(sample, *clip.notes)
    members.put_label(sample, raw, config.label)
    return sample


def _stack_rate(raw: Mapping[str, Any], config: Config) -> float:
    values = members.facts(raw)
    for name in _RATES:
        if name in values:
            rate = values[name]
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
                raise SampleError(
                    *members.origin_of(raw), "shape", f"json: {name} is {rate!r}; frames per second above 0"
                )
            return float(rate)
    return config.stack_rate
