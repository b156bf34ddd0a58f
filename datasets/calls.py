"""Calls of invented animals: the same twelve calls by many callers, each with its own voice, in noise.

A call is a course of pitch and loudness: it rises, falls, trills, stutters. A caller has a pitch, a timbre (how fast
harmonics fade, two resonances), a tempo and a breath of its own; a recording adds loudness, the colour of a microphone,
a hum and noise. Callers of the test split are heard nowhere else. How loud each band is on average says who calls and
through which microphone; which call it is lies in its course.
"""

from __future__ import annotations

import argparse
import io
import wave
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foundation.data import generated
from foundation.data.generated import Numbers
from foundation.errors import UserError

CARD = {
    "title": "Calls of invented animals",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "audio",
    "splits": ["train", "test"],
    "layout": "wav (8 kHz, 16 bits), cls (call)",
    "size": "12 calls; 2,400 + 600 recordings of 0.9 s by 80 + 20 callers, 49 MB",
}
RATE = 8000
SECONDS = 0.9
CALLERS = {"train": 80, "test": 20}
CALLS = (
    "rise", "fall", "arch", "dip", "steady", "trill", "stutter", "step up", "step down", "warble", "chirps", "sobs",
)  # fmt: skip

Signal = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=2400, test=600)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="loudness of the background, 0 is none (default: %(default)s)"
    )


def classes(arguments: argparse.Namespace) -> list[str]:
    """Names of the calls, by class number."""
    return list(CALLS)


def samples(arguments: argparse.Namespace) -> Mapping[str, generated.Split]:
    """Recordings of both splits.

    Raises:
        UserError: an option cannot work.
    """
    if not 0 <= arguments.noise <= 10:
        raise UserError(f"--noise must lie in 0 to 10, got {arguments.noise}")

    def make(label: int, number: int, draw: Numbers, split: str) -> dict[str, bytes]:
        caller = Numbers(arguments.seed, draw.whole(CALLERS[split]), f"calls.{split}.caller")
        return {"wav": _wav(recording(CALLS[label], caller, draw, arguments.noise))}

    return generated.samples("calls", arguments, CALLS, make)


def course(call: str, t: Signal, draw: Numbers) -> tuple[Signal, Signal]:
    """Pitch in octaves around the caller's own and loudness in [0, 1] of a call, over its time from 0 to 1."""
    width = draw.between(0.5, 0.8)  # octaves from the lowest to the highest note
    often = draw.between(4.0, 6.0)  # repetitions within a call
    loud = np.ones_like(t)
    if call in ("rise", "fall"):
        pitch = width * (t - 0.5)
    elif call in ("arch", "dip"):
        pitch = width * (0.5 - 2.0 * np.abs(t - 0.5))
    elif call in ("step up", "step down"):
        pitch = width * ((t > draw.between(0.45, 0.55)) - 0.5)
    elif call == "trill":
        pitch = 0.5 * width * np.sin(2 * np.pi * 1.6 * often * t)
    elif call == "warble":
        pitch = 0.5 * width * np.sign(np.sin(2 * np.pi * 0.5 * often * t))
    elif call in ("chirps", "sobs"):
        pitch = width * (often * t % 1.0 - 0.5)
        loud = (often * t % 1.0 < 0.8).astype(np.float64)
    else:
        pitch = np.zeros_like(t)
        if call == "stutter":
            loud = (1.3 * often * t % 1.0 < 0.55).astype(np.float64)
    pitch = -pitch if call in ("fall", "dip", "step down", "sobs") else pitch
    return pitch, loud * np.minimum(1.0, 12.0 * np.minimum(t, 1.0 - t))


def voice(pitch: Signal, loud: Signal, caller: Numbers, draw: Numbers) -> Signal:
    """The sound of a course of pitch (octaves) in a caller's voice.

    The caller's numbers come in the same order each time: it is the same caller.
    """
    own = caller.ratio(260.0, 900.0) * draw.ratio(0.92, 1.09)
    fade, breath = caller.between(0.6, 1.8), caller.between(0.02, 0.2)
    resonances = [(caller.ratio(400.0, 3000.0), caller.between(0.15, 0.4)) for _ in range(2)]
    frequency = own * 2.0**pitch
    phase = 2.0 * np.pi * np.cumsum(frequency) / RATE
    sound = np.zeros_like(pitch)
    for harmonic in range(1, 9):
        f = harmonic * frequency
        gain = harmonic**-fade * sum(0.2 + np.exp(-0.5 * (np.log2(f / at) / width) ** 2) for at, width in resonances)
        sound += np.where(f < 0.47 * RATE, gain, 0.0) * np.sin(harmonic * phase + caller.between(0.0, 6.28))
    sound = sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)
    return (sound + breath * draw.normal(len(pitch))) * np.convolve(loud, np.ones(80) / 80, "same")


def recording(call: str, caller: Numbers, draw: Numbers, noise: float) -> Signal:
    """One call on its background, [samples] with its peak below 1."""
    length = round(SECONDS * RATE)
    count = round(length * caller.between(0.6, 0.8) * draw.between(0.85, 1.15))
    begin = int(draw.between(0.0, 1.0) * (length - count))
    pitch, loud = course(call, np.arange(count) / count, draw)
    sound = np.zeros(length)
    sound[begin : begin + count] = voice(pitch, loud, caller, draw)
    t = np.arange(length) / RATE
    hum = np.sin(2 * np.pi * draw.ratio(80.0, 3000.0) * t) * draw.between(0.0, 0.25)
    sound += noise * (hum + draw.ratio(0.03, 0.3) * draw.normal(length))
    # The microphone: louder or softer towards high notes, up to 10 decibels at each end.
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / RATE), 60.0) / 700.0)
    sound = np.fft.irfft(spectrum * 2.0 ** (draw.between(-0.5, 0.5) * octaves), length)
    return sound / max(float(np.abs(sound).max()), 1e-9) * draw.ratio(0.1, 0.9)


def _wav(sound: Signal) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((sound * 32767).round().astype("<i2").tobytes())
    return file.getvalue()
