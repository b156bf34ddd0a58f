"""Calls of invented animals: the same eight calls by many callers, each with its own voice, in noise.

A call is a short phrase, a course of pitch or loudness, repeated without end; a recording begins anywhere in it. Each
is another one played backwards or upside down, so how loud the bands are, and how much that changes, is the same for
both. A caller has a pitch, a timbre (how fast harmonics fade, two resonances), a tempo and a breath of its own; a
recording adds loudness, the colour of a microphone and noise. Callers of the test split are heard nowhere else.
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
from foundation.ranges import NonNegative, argument

CARD = {
    "title": "Calls of invented animals",
    "licence": "CC0-1.0",
    "source": "made by this program",
    "citation": "none",
    "modality": "audio",
    "splits": ["train", "test"],
    "layout": "wav (8 kHz, 16 bits), cls (call)",
    "size": "8 calls; 2,400 + 600 recordings of 1 s by 80 + 20 callers, 54 MB",
}
RATE = 8000
SECONDS = 1.0
CALLERS = {"train": 80, "test": 20}
CALLS = ("rise", "fall", "arch", "dip", "step up", "step down", "swell", "fade")

Signal = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, train=2400, test=600)
    parser.add_argument(
        "--noise",
        type=argument(NonNegative),
        default=1.0,
        help="loudness of the background, 0 is none (default: %(default)s)",
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
    width = draw.between(0.6, 0.9)  # octaves from the lowest to the highest note
    place = t % 1.0 / draw.between(0.65, 0.85)  # the rest of each phrase is silence
    pitch, loud = np.zeros_like(t), np.ones_like(t)
    if call in ("rise", "fall"):
        pitch = width * (place - 0.5)
    elif call in ("arch", "dip"):
        pitch = width * (np.sin(np.pi * place) - 0.5)
    elif call in ("step up", "step down"):
        pitch = width * ((place > 0.5) - 0.5)
    else:
        loud = place**2 if call == "swell" else (1.0 - place) ** 2
    sign = -1.0 if call in ("fall", "dip", "step down") else 1.0
    return sign * pitch, np.where(place < 1.0, loud, 0.0)


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
    sound += noise * draw.ratio(0.03, 0.3) * draw.normal(length)
    # The microphone: louder or softer towards high notes.
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / RATE), 60.0) / 700.0)
    sound = np.fft.irfft(spectrum * 2.0 ** (draw.between(-0.4, 0.4) * octaves), length)
    return sound / max(float(np.abs(sound).max()), 1e-9) * draw.ratio(0.25, 0.9)


def _wav(sound: Signal) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((sound * 32767).round().astype("<i2").tobytes())
    return file.getvalue()
