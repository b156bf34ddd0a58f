"""Waveforms that are in memory as the files that the decoder reads, so that one set of rules holds for both."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from foundation.errors import UserError
from foundation.modalities.audio.decode import library


def members(value: Any, rate: float | None = None) -> dict[str, bytes]:
    """A waveform as the member of a sample; nothing of it is lost.

    Args:
        value: float array [T] or [T, channels], full scale is 1, or int16.
        rate: samples per second.

    Raises:
        UserError: it is none of these, nobody says the rate, or soundfile is not installed.
    """

    array = np.asarray(value)
    if array.ndim not in (1, 2) or 0 in array.shape or (array.dtype.kind != "f" and array.dtype != np.int16):
        raise UserError(
            f"an array {list(array.shape)} of {array.dtype} is no waveform: give float [samples] or [samples, "
            "channels], full scale 1, or int16"
        )
    if array.ndim == 2 and array.shape[1] > array.shape[0]:
        raise UserError(
            f"an array {list(array.shape)} looks transposed: a waveform is [samples, channels], so give array.T"
        )
    if rate is None or not 1 <= rate < math.inf or int(rate) != rate:
        raise UserError(f"a waveform in memory needs its samples per second: rate=16000, for example (rate is {rate})")
    data = io.BytesIO()
    single = array if array.dtype == np.int16 else array.astype(np.float32)
    library().write(data, single, int(rate), format="WAV", subtype="PCM_16" if array.dtype == np.int16 else "FLOAT")
    return {"wav": data.getvalue()}
