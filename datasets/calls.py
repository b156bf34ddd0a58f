"""Calls of invented animals: the same twelve calls by many callers, each with its own voice, in noise.

A call is a short phrase, a course of pitch and loudness (it rises, falls, trembles, stutters), repeated without end; a
recording begins anywhere in it. A caller has a pitch, a timbre (how fast harmonics fade, two resonances), a tempo and a
breath of its own; a recording adds loudness, the colour of a microphone, a hum and noise. Callers of the test split are
heard nowhere else. How loud each band is on average says who calls and through which microphone; which call it is lies
in the course of a phrase.
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
    "size": "12 calls; 2,400 + 600 recordings of 1 s by 80 + 20 callers, 54 MB",
}
RATE = 8000
SECONDS = 1.0
CALLERS = {"train": 80, "test": 20}
CALLS = (
    "rising", "falling", "rise and rest", "fall and rest", "arch and rest", "dip and rest", "two notes", "vibrato",
    "stutter", "long and short", "swelling", "fading",
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
    """Pitch in octaves around the caller's own, and loudness in [0, 1], of a call that goes on and on.

    Args:
        call: one of :data:`CALLS`.
        t: [samples] number of phrases since the first; fractions are places within one.
        draw: numbers of this recording.
    """
    width = draw.between(0.5, 0.9)  # octaves from the lowest to the highest note
    place = t % 1.0
    pitch, loud = np.zeros_like(t), np.ones_like(t)
    if call in ("rising", "falling"):
        pitch = width * (place - 0.5)
    elif call in ("rise and rest", "fall and rest"):
        pitch, loud = width * (place / 0.6 - 0.5), place < 0.6
    elif call in ("arch and rest", "dip and rest"):
        pitch, loud = width * (np.sin(np.pi * place / 0.7) - 0.5), place < 0.7
    elif call == "two notes":
        pitch = width * ((place < 0.5) - 0.5)
    elif call == "vibrato":
        pitch = 0.5 * width * np.sin(2 * np.pi * t)
    elif call == "stutter":
        loud = place < 0.5
    elif call == "long and short":
        loud = (place < 0.4) | ((place > 0.6) & (place < 0.75))
    elif call == "swelling":
        loud = place**2
    elif call == "fading":
        loud = (1.0 - place) ** 2
    sign = -1.0 if call.startswith(("fall", "dip")) else 1.0
    return sign * pitch, np.asarray(loud, np.float64)


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
    return (sound + breath * draw.normal(len(pitch))) * np.convolve(loud, np.ones(60) / 60, "same")


def recording(call: str, caller: Numbers, draw: Numbers, noise: float) -> Signal:
    """One call on its background, [samples] with its peak below 1."""
    length = round(SECONDS * RATE)
    t = np.arange(length) / RATE
    phrases = caller.ratio(3.5, 5.5) * draw.ratio(0.9, 1.1)  # in a second
    pitch, loud = course(call, phrases * t + draw.between(0.0, 1.0), draw)
    sound = voice(pitch, loud, caller, draw)
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
